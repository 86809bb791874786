"""Merge of layers, in order, into the entries of a node: rendered, checked, later layers override."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from imagebuilder.errors import UsageError
from imagebuilder.model import ADDING, HOME, Entry, Kind, Partition
from imagebuilder.overlay import content, needs, sections, units
from imagebuilder.overlay.layer import USER_ID, DownloadRule, FileRule, Layer, LayerFile, split_path
from imagebuilder.overlay.rendering import TemplateRenderer
from imagebuilder.software import Download, check_sha256, check_url

_NETPLAN = "/etc/netplan/*.yaml"  # netplan(5): the files of the system's owner
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # the length is the kernel's: IFNAMSIZ
_RESERVED = {
    # systemd detects a first boot by this file (machine-id(5)): with an id, root would never be grown.
    "/etc/machine-id": "remove it from the layer: each node generates its own on its first boot",
    "/boot/firmware": "put it into boot/: the boot partition is mounted over this folder",
}
"""Paths of the root partition that no layer may write, and what to do instead."""


def merge(
    layers: Sequence[Layer], renderer: TemplateRenderer, settings: Sequence[Entry] = ()
) -> tuple[Entry, ...]:
    """The entries of ``settings`` and ``layers``, sorted so that a folder comes before its content.

    Raises UsageError, naming file and line, for content that must not reach a card.
    """
    merged: dict[tuple[Partition, str], list[Entry]] = {}
    for entry in settings:
        _put(merged, _at_home(entry, renderer.account))
    for layer in layers:
        for entry in entries(layer, renderer):
            _put(merged, _at_home(entry, renderer.account))
    for layer in layers:
        files = [entry for stack in merged.values() for entry in stack]
        for entry in units.links(layer, files):
            _put(merged, entry)
    paths = {f"{partition.value}{path}" for partition, path in merged}
    for layer in layers:
        needs.check_files(layer.name, renderer.node, layer.declared.needs, paths)
    _refuse_symlinked_parents(merged)
    _refuse_one_name_twice_on_fat(merged)
    return tuple(entry for key in sorted(merged) for entry in merged[key])


def _put(merged: dict[tuple[Partition, str], list[Entry]], entry: Entry) -> None:
    for reserved, hint in _RESERVED.items():
        if entry.partition is Partition.ROOT and PurePosixPath(entry.path).is_relative_to(reserved):
            raise UsageError(f"{entry.source}: no layer may write {entry.path}", hint)
    key = (entry.partition, entry.path)
    below = merged.get(key, [])
    if entry.kind in ADDING:
        merged[key] = [*below, entry]
        return
    if any(other.layer == entry.layer and other.kind not in ADDING for other in below):
        raise UsageError(
            f"{entry.source}: the layer {entry.layer} defines {entry.partition}{entry.path} twice",
            f"remove it here or in {below[0].source}",
        )
    if entry.kind is Kind.REMOVE:
        below = [*below, *_pop_below(merged, entry)]
    overridden = tuple(dict.fromkeys(name for other in below for name in (*other.overrides, other.layer)))
    merged[key] = [dataclasses.replace(entry, overrides=overridden)]


def _at_home(entry: Entry, account: str) -> Entry:
    """The entry, moved from the home of the account's new name to its home in the image.

    A folder with the new name would prevent the first boot from moving the home, and so lock the account out.
    """
    home = f"/home/{account}"
    if entry.partition is not Partition.ROOT or not f"{entry.path}/".startswith(f"{home}/"):
        return entry
    return dataclasses.replace(entry, path=HOME + entry.path.removeprefix(home))


def _pop_below(merged: dict[tuple[Partition, str], list[Entry]], removal: Entry) -> list[Entry]:
    """Remove and return the entries of earlier layers inside the folder that ``removal`` removes."""
    inside = f"{removal.path}/"
    keys = [
        key
        for key, stack in merged.items()
        if key[0] is removal.partition and key[1].startswith(inside) and stack[-1].layer != removal.layer
    ]
    return [entry for key in keys for entry in merged.pop(key)]


def entries(layer: Layer, renderer: TemplateRenderer) -> Iterator[Entry]:
    """The rendered entries of a layer, without its units."""
    toml = str(layer.folder / "layer.toml")
    declared = layer.declared
    needs.check(layer.name, layer.folder / "layer.toml", declared.needs, declared.vars, renderer)
    used: set[str] = set()
    for source in layer.sources:
        rule = declared.files.get(source.path, FileRule())
        used.add(source.path)
        if not renderer.holds(rule.when, f"{toml}: when of {source.path}"):
            continue
        if source.is_folder:
            yield from _folder_entry(layer, source, declared.files.get(source.path))
        else:
            yield _file_entry(layer, source, rule, renderer)
    for path in declared.files.keys() - used:
        raise UsageError(f"{toml}: [files] names {path}, which is not in the layer", "correct the path")
    for download in declared.downloads:
        if renderer.holds(download.when, f"{toml}: when of {download.path}"):
            yield _download_entry(layer, download, renderer)
    for path, target in declared.links.items():
        yield _link_entry(layer, path, target, renderer)
    for path in declared.remove:
        partition, inner = split_path(path)
        optional = path in declared.may_be_missing
        yield Entry(partition, inner, Kind.REMOVE, layer.name, toml, optional=optional)
    if declared.netplan.clear:
        yield _netplan_entry(layer, renderer)
    for addition in declared.lines:
        if renderer.holds(addition.when, f"{toml}: when of {addition.path}"):
            entry = _addition(layer, Kind.LINES, addition.path, addition.lines, renderer)
            yield _with_section(entry, addition.section, renderer)
    for words in declared.words:
        if not (words.words or words.remove):
            raise UsageError(f"{toml}: {words.path}: [[words]] needs words, or remove", "add one of them")
        if renderer.holds(words.when, f"{toml}: when of {words.path}"):
            for kind, texts in ((Kind.NO_WORDS, words.remove), (Kind.WORDS, words.words)):
                if texts:
                    yield _addition(layer, kind, words.path, texts, renderer)


def _folder_entry(layer: Layer, source: LayerFile, rule: FileRule | None) -> Iterator[Entry]:
    """The entry of a folder, if it is declared, empty, private, or in a home."""
    partition, path = split_path(source.path)
    is_private = path.endswith("/.ssh")
    is_in_home = path.startswith("/home/") and path.count("/") > 2  # its owner must not be root
    if rule is None and not (is_private or is_in_home) and any(source.file.iterdir()):
        return
    mode = int(rule.mode, 8) if rule and rule.mode else 0o700 if is_private else 0o755
    uid, gid = _owner(rule.owner if rule else None, path)
    yield Entry(partition, path, Kind.DIRECTORY, layer.name, str(source.file), mode, uid, gid)


def _file_entry(layer: Layer, source: LayerFile, rule: FileRule, renderer: TemplateRenderer) -> Entry:
    partition, path = split_path(source.path)
    secret = False
    if source.is_template:
        raw, secret = renderer.render(source.text, str(source.file))
    else:
        raw = source.content
    content.check(path, raw, str(source.file))
    mode = int(rule.mode, 8) if rule.mode else content.default_mode(path, raw, source.executable)
    if secret and partition is Partition.ROOT and mode & 0o077:
        raise UsageError(
            f"{source.file}: contains a secret but would be readable by others (mode {mode:04o})",
            f'declare it in layer.toml: [files."{source.path}"] mode = "0600"',
        )
    uid, gid = _owner(rule.owner, path)
    return Entry(partition, path, Kind.FILE, layer.name, str(source.file), mode, uid, gid, raw, secret=secret)


def _download_entry(layer: Layer, rule: DownloadRule, renderer: TemplateRenderer) -> Entry:
    """The entry of a download, which has its content when it is fetched; a folder if it is unpacked."""
    partition, path = split_path(rule.path)
    kind = Kind.DIRECTORY if rule.unpack else Kind.FILE
    if rule.unpack and partition is Partition.BOOT:
        raise UsageError(
            f"{layer.folder / 'layer.toml'}: {rule.path}: an archive cannot be unpacked into boot/",
            "unpack it into root/, or put its files into the layer",
        )
    mode = (
        int(rule.mode, 8) if rule.mode else 0o755 if rule.unpack else content.default_mode(path, b"", False)
    )
    uid, gid = _owner(rule.owner, path)
    source = str(layer.folder / "layer.toml")
    hint = "correct it in [vars] of the manifest" if layer.declared.vars else "correct the template"
    origin = Download(
        _of_download(rule.url, check_url, f"{source}: url of {rule.path}", hint, renderer),
        _of_download(rule.sha256, check_sha256, f"{source}: sha256 of {rule.path}", hint, renderer),
        rule.unpack,
    )
    return Entry(partition, path, kind, layer.name, source, mode, uid, gid, download=origin)


def _of_download(
    text: str, check: Callable[[str], str], place: str, hint: str, renderer: TemplateRenderer
) -> str:
    """The rendered URL or sha256 of a download. Raises UsageError naming ``place``, with ``hint``."""
    raw, secret = renderer.render(text, place)
    if secret:
        raise UsageError(f"{place}: contains a secret, and is shown to everyone", "remove the secret")
    try:
        return check(raw.decode())
    except ValueError as error:
        raise UsageError(f"{place}: {error}", hint) from None


def _link_entry(layer: Layer, path: str, text: str, renderer: TemplateRenderer) -> Entry:
    toml = str(layer.folder / "layer.toml")
    partition, inner = split_path(path)
    rendered, secret = renderer.render(text, toml)
    target = rendered.decode()
    if secret:
        raise UsageError(
            f"{toml}: {path}: a link's target can be read by everyone", "remove the secret from it"
        )
    if partition is Partition.BOOT:
        raise UsageError(f"{toml}: {path}: FAT has no symbolic links", "put the file itself into boot/")
    if not target or not target.isprintable() or len(target) > 4095:
        raise UsageError(
            f"{toml}: {path}: {target!r} is not a valid target of a link",
            "give a path of printable characters",
        )
    depth = inner.count("/") - 1
    for part in [] if target.startswith("/") else target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            raise UsageError(f"{toml}: {path}: {target} leaves the root partition", "begin the target with /")
    return Entry(partition, inner, Kind.LINK, layer.name, toml, 0o777, target=target)


def _addition(layer: Layer, kind: Kind, path: str, texts: Sequence[str], renderer: TemplateRenderer) -> Entry:
    toml = str(layer.folder / "layer.toml")
    partition, inner = split_path(path)
    rendered = [(raw.decode(), used) for raw, used in (renderer.render(text, toml) for text in texts)]
    for text, _ in rendered:
        if not text.isprintable() or (kind is not Kind.LINES and (not text or " " in text)):
            raise UsageError(
                f"{toml}: {path}: {text!r} is not one {'line' if kind is Kind.LINES else 'word'}",
                "make each an element of the list",
            )
    joiner = "\n" if kind is Kind.LINES else " "
    raw = joiner.join(text for text, _ in rendered) + ("\n" if kind is Kind.LINES else "")
    secret = any(used for _, used in rendered)
    if secret and partition is Partition.ROOT:
        raise UsageError(
            f"{toml}: {path}: a secret would be appended to a file that others may read",
            "put the whole file into the layer instead, with the mode 0600",
        )
    optional = path in layer.declared.may_be_missing
    return Entry(
        partition, inner, kind, layer.name, toml, content=raw.encode(), secret=secret, optional=optional
    )


def _netplan_entry(layer: Layer, renderer: TemplateRenderer) -> Entry:
    toml = str(layer.folder / "layer.toml")
    names = [renderer.render(text, toml)[0].decode() for text in layer.declared.netplan.clear]
    for name in filter(None, names):
        if not _INTERFACE.fullmatch(name):
            raise UsageError(
                f"{toml}: netplan.clear: {name!r} is not the name of an interface", "such as eth0 or wlan0"
            )
    content = " ".join(dict.fromkeys(filter(None, names))).encode()
    return Entry(Partition.ROOT, _NETPLAN, Kind.NETPLAN, layer.name, toml, content=content)


def _with_section(entry: Entry, text: str, renderer: TemplateRenderer) -> Entry:
    """The entry with its heading; the default in config.txt is ``[all]``. Raises UsageError."""
    place = f"{entry.source}: {entry.partition.value}{entry.path}"
    rendered, secret = renderer.render(text, entry.source)
    heading = rendered.decode()
    known = sections.known_heading(entry.partition, entry.path)
    if not text and known == sections.ALL:
        heading = known
    if text and (secret or not heading.isprintable() or not sections.is_heading(heading, known or heading)):
        raise UsageError(
            f"{place}: {heading!r} is not the heading of a section", f"write one such as {known or '[all]'}"
        )
    for line in entry.content.decode().splitlines() if known or heading else ():
        if sections.is_heading(line, known or heading):
            raise UsageError(
                f"{place}: {line!r} is the heading of a section",
                f"write it as section = {line!r}, and only the lines under it in lines",
            )
    return dataclasses.replace(entry, section=sections.normalised(heading))


def _owner(declared: str | None, path: str) -> tuple[int, int]:
    if declared is None:
        declared = "user" if path.startswith("/home/") else "root"
    if declared in ("root", "user"):
        return (0, 0) if declared == "root" else (USER_ID, USER_ID)
    uid, gid = declared.split(":")
    return int(uid), int(gid)


def _refuse_symlinked_parents(merged: dict[tuple[Partition, str], list[Entry]]) -> None:
    for (partition, path), stack in merged.items():
        parent = path.rpartition("/")[0]
        while parent:
            for entry in merged.get((partition, parent), []):
                if entry.kind in (Kind.LINK, Kind.FILE, *ADDING):
                    raise UsageError(
                        f"{stack[-1].source}: {partition.value}{path} is below {parent}, which the layer "
                        f"{entry.layer} makes a {entry.kind.value}",
                        "put the file where the link leads, or remove one of the two",
                    )
            parent = parent.rpartition("/")[0]


def _refuse_one_name_twice_on_fat(merged: dict[tuple[Partition, str], list[Entry]]) -> None:
    """Refuse names that differ only in case, which FAT treats as the same file."""
    seen: dict[str, str] = {}
    for path in sorted(path for partition, path in merged if partition is Partition.BOOT):
        for name in (path, *map(str, PurePosixPath(path).parents)):
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                source = merged[Partition.BOOT, path][-1].source
                raise UsageError(
                    f"{source}: boot{name} and boot{other} are the same file on the boot partition (FAT)",
                    "use the same spelling in every layer",
                )
