"""A layer: a folder with ``layer.toml``, ``boot/``, ``root/``, ``firstboot.d/`` and ``build.d/``.

git stores no owners and only one bit of a mode, so layer.toml declares what differs from the defaults here.
Content that must not reach a card (links, devices, sockets, setuid bits, names that are not UTF-8, paths
that leave the partition) is refused with the name of the file.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imagebuilder import toml
from imagebuilder.errors import UsageError
from imagebuilder.model import Partition
from imagebuilder.overlay.needs import Name, Need, OneLine, Variable
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.software import check_package, check_sha256, check_url

_FILES = ("boot", "root", "firstboot.d")
TREES = (*_FILES, "build.d")
FIRSTBOOT_FOLDER = "/usr/local/lib/piimg/firstboot.d"
FIRSTBOOT_NAME = re.compile(r"[0-9]{2}-[a-z0-9][a-z0-9._-]*")
FILE_LIMIT = LARGE  # bytes; files of an overlay are read into memory
DEPTH_LIMIT = 60  # levels of folders
USER_ID = 1000  # the first account of Raspberry Pi OS, renamed to the cluster's user


def _mode(value: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f"{value!r} is not a mode of three octal digits such as 0644 (no setuid bits)")
    return value


def _owner(value: str) -> str:
    if not re.fullmatch(r"root|user|[0-9]{1,9}:[0-9]{1,9}", value):
        raise ValueError(f"{value!r} is not an owner: root, user, or UID:GID")
    return value


def check_unit_name(value: str) -> str:
    """Return ``value`` if it is the name of a unit (systemd.unit(5)). Raises ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|target|path|mount)", value):
        raise ValueError(f"{value!r} is not the name of a unit")
    return value


_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)}
_DEVICES = frozenset({"con", "prn", "aux", "nul", "clock$"} | _PORTS)
"""Names that DOS reserves, with any suffix (Microsoft, "Naming Files, Paths, and Namespaces")."""


def split_path(value: str) -> tuple[Partition, str]:
    """Split ``root/etc/hosts`` into (ROOT, ``/etc/hosts``). Raises ValueError for an invalid path."""
    parts = value.split("/")
    if parts[0] not in ("boot", "root") or len(parts) < 2:
        raise ValueError(f"{value!r} must start with boot/ or root/")
    if any(part in ("", ".", "..") for part in parts) or not value.isprintable():
        raise ValueError(f"{value!r} is not a plain path")
    if parts[0] == "boot" and re.search(r'[":*<>?|\\]|[. ](/|$)', value):
        raise ValueError(f"{value!r} contains (or ends in) a character that FAT cannot store")
    if parts[0] == "boot" and not value.isascii():
        raise ValueError(f"{value!r} has non-ASCII letters, which the boot partition's FAT may change")
    if parts[0] == "boot" and any(part.partition(".")[0].lower() in _DEVICES for part in parts):
        raise ValueError(f"{value!r} is a device name in DOS and Windows: FAT tools refuse or change it")
    return Partition(parts[0]), "/" + "/".join(parts[1:])


def _path(value: str) -> str:
    split_path(value)
    return value


def _unless_template(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda value: value if "{{" in value or "{%" in value else check(value))


LayerPath = Annotated[str, AfterValidator(_path)]
UnitName = Annotated[str, AfterValidator(check_unit_name)]
Package = Annotated[str, AfterValidator(check_package)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRule(_Model):
    """``[files."PATH"]``: mode, owner and condition of a file or folder of the layer."""

    mode: Annotated[str, AfterValidator(_mode)] | None = None
    owner: Annotated[str, AfterValidator(_owner)] | None = None
    when: str | None = None


class Lines(_Model):
    """``[[lines]]``: lines added to a file of the base image, if missing there.

    ``section`` is the heading under which they are added (see ``sections``).
    """

    path: LayerPath
    section: str = ""
    lines: Annotated[list[str], Field(min_length=1)]
    when: str | None = None


class Words(_Model):
    """``[[words]]``: words appended to, or removed from, a one-line file of the base image (cmdline.txt)."""

    path: LayerPath
    words: list[str] = []
    remove: list[str] = []
    when: str | None = None


class Netplan(_Model):
    """``[netplan]``: interfaces that netplan files of the base image may not set up; "" is ignored."""

    clear: list[str] = []


class Units(_Model):
    """``[units]``: systemd units to enable (by their WantedBy, or in a given target) and to mask."""

    enable: list[UnitName] = []
    enable_in: dict[UnitName, UnitName] = {}
    mask: list[UnitName] = []


class DownloadRule(_Model):
    """``[[downloads]]``: a file from the internet, put at ``path``, or unpacked into the folder ``path``.

    ``url`` and ``sha256`` may be templates; then they are checked when they are rendered.
    """

    url: Annotated[str, _unless_template(check_url)]
    sha256: Annotated[str, _unless_template(check_sha256)]
    path: LayerPath
    mode: Annotated[str, AfterValidator(_mode)] | None = None
    owner: Annotated[str, AfterValidator(_owner)] | None = None
    unpack: bool = False
    when: str | None = None


class PackageRule(_Model):
    """An item of ``packages``: a name, or a table with the name and ``when``."""

    name: Package
    when: str | None = None

    @classmethod
    def of(cls, value: object) -> object:
        """The table that an item stands for."""
        return value if isinstance(value, dict) else {"name": value}


class Declarations(_Model):
    """The content of ``layer.toml``."""

    description: OneLine = ""
    for_roles: list[Literal["master", "worker"]] = []
    architectures: list[Literal["arm64", "armhf"]] = []
    vars: dict[Name, Variable] = {}
    needs: list[Need] = []
    files: dict[LayerPath, FileRule] = {}
    links: dict[LayerPath, str] = {}
    remove: list[LayerPath] = []
    lines: list[Lines] = []
    words: list[Words] = []
    netplan: Netplan = Netplan()
    units: Units = Units()
    may_be_missing: list[LayerPath] = []
    packages: list[Annotated[PackageRule, BeforeValidator(PackageRule.of)]] = []
    downloads: list[DownloadRule] = []


def read_bytes(source: Path) -> bytes:
    """The bytes of a layer's file. Raises UsageError when it cannot be read."""
    try:
        return read_regular(source, LARGE)
    except OSError as error:
        raise UsageError(
            f"cannot read {source}: {error.strerror}", "check its owner and permissions"
        ) from error


@dataclass(frozen=True)
class LayerFile:
    """A file or folder of a layer. ``path`` is as in layer.toml ("root/etc/hosts"), without ``.j2``.

    Its content is read once, however many nodes have the layer.
    """

    file: Path
    path: str
    is_folder: bool
    is_template: bool
    executable: bool

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file. Raises UsageError when it cannot be read."""
        return read_bytes(self.file)

    @property
    def text(self) -> str:
        """The text of a template. Raises UsageError when it is not UTF-8."""
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{self.file}: a template must be UTF-8 text (byte {error.start})", "save it as UTF-8"
            ) from error


@dataclass(frozen=True)
class Layer:
    """A layer as read: its displayed name, its folder, its declarations and its files."""

    name: str
    folder: Path
    declared: Declarations
    sources: tuple[LayerFile, ...]


def names(folders: Sequence[Path]) -> set[str]:
    """The names of all layers in ``folders`` (one level of grouping, as in examples/mpi, is allowed)."""
    layers: set[str] = set()
    for folder in folders:
        for child in _folders(folder):
            if _is_layer(child):
                layers.add(child.name)
            else:
                layers.update(f"{child.name}/{inner.name}" for inner in _folders(child) if _is_layer(inner))
    return layers


def strangers(folders: Sequence[Path]) -> list[str]:
    """The names of the non-empty folders in ``folders`` that are not layers; hidden folders are ignored."""
    others = []
    for folder in folders:
        for child in _folders(folder):
            is_group = any(_is_layer(inner) for inner in _folders(child))
            if (
                not child.name.startswith(".")
                and not _is_layer(child)
                and not is_group
                and any(child.iterdir())
            ):
                others.append(child.name)
    return others


@dataclass(frozen=True)
class Overlays:
    """The folders of layers: the shipped one, and the cluster's own if it exists.

    The cluster's own layer adds to the shipped layer of the same name, and overrides it.
    """

    shipped: Path
    own: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders, the shipped one first."""
        return (self.shipped,) if self.own in (None, self.shipped) else (self.shipped, self.own)

    def names(self) -> set[str]:
        """The names of all layers."""
        return names(self.folders)


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(child for child in folder.iterdir() if child.is_dir())


def _is_layer(folder: Path) -> bool:
    return (folder / "layer.toml").is_file() or any((folder / tree).is_dir() for tree in TREES)


def read(name: str, folder: Path) -> Layer:
    """Read the layer in ``folder``; ``name`` is its displayed name. Raises UsageError naming the file."""
    try:
        layer = Layer(name, folder, _declarations(folder / "layer.toml"), tuple(_sources(folder)))
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}", "check its owner and permissions"
        ) from error
    _refuse_duplicates(layer.sources)
    return layer


def _refuse_duplicates(sources: Sequence[LayerFile]) -> None:
    seen: dict[str, LayerFile] = {}
    for source in sources:
        if source.path in seen:
            raise UsageError(
                f"{source.file} and {seen[source.path].file} are the same file", "keep one of them"
            )
        seen[source.path] = source


def _declarations(file: Path) -> Declarations:
    if not os.path.lexists(file):
        return Declarations()
    if not stat.S_ISREG(file.lstat().st_mode):
        raise UsageError(f"{file} is not a plain file", "put a file there, or remove it")
    text = toml.decode(toml.read(file), file)
    document = toml.parse(text, file)
    try:
        return Declarations.model_validate(document)
    except ValidationError as error:
        hint = "docs/overlays.md describes layer.toml"
        raise toml.refusal(file, text, toml.problems(error, document), hint) from None


def _sources(folder: Path) -> Iterator[LayerFile]:
    for child in _folders(folder):
        if child.name not in TREES and not child.name.startswith("."):
            raise UsageError(f"{child} is not part of a layer", f"a layer has {', '.join(TREES)}")
    for tree in _FILES:
        if (folder / tree).is_symlink():
            raise UsageError(f"{folder / tree} is a symbolic link", "a layer's folders must be real folders")
        if (folder / tree).is_dir():
            yield from _walk(folder / tree, tree)


_IGNORED = (".gitkeep", "__pycache__")
"""Files of git; and what pip or Python compiled for this machine, which differs from host to host."""


def _walk(folder: Path, prefix: str) -> Iterator[LayerFile]:
    if prefix.count("/") > DEPTH_LIMIT:
        raise UsageError(f"{folder} is nested deeper than {DEPTH_LIMIT} folders", "check that it is a layer")
    with os.scandir(folder) as scan:
        children = sorted(scan, key=lambda child: child.name)
    for child in children:
        file = Path(child.path)
        if child.name in _IGNORED:
            continue
        info = child.stat(follow_symlinks=False)
        _refuse_special(file, child.name, info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            if prefix == "firstboot.d":
                raise UsageError(f"{file} is a folder", "firstboot.d/ contains scripts only")
            yield LayerFile(file, f"{prefix}/{child.name}", True, False, False)
            yield from _walk(file, f"{prefix}/{child.name}")
            continue
        if info.st_size > FILE_LIMIT:
            raise UsageError(f"{file} is larger than 256 MiB", "fetch it on the node in a first-boot script")
        is_template = child.name.endswith(".j2")
        path = f"{prefix}/{child.name.removesuffix('.j2')}"
        if prefix == "firstboot.d":
            path = _firstboot_path(file, PurePosixPath(path).name)
        _refuse_path(file, path)
        yield LayerFile(file, path, False, is_template, bool(info.st_mode & 0o111))


def _refuse_path(file: Path, path: str) -> None:
    try:
        split_path(path)
    except ValueError as error:
        raise UsageError(f"{file}: {error}", "rename the file") from None


def _firstboot_path(file: Path, name: str) -> str:
    if not FIRSTBOOT_NAME.fullmatch(name):
        raise UsageError(
            f"{file}: the name of a first-boot script is NN-name",
            "rename it, such as 20-packages; NN is the order",
        )
    return f"root{FIRSTBOOT_FOLDER}/{name}"


def _refuse_special(file: Path, name: str, mode: int) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{os.fsencode(file)!r}: the name is not UTF-8", "rename the file") from None
    if not name.isprintable() or "\\" in name:
        raise UsageError(
            f"{str(file)!r}: the name contains an unprintable character or a backslash", "rename the file"
        )
    if stat.S_ISLNK(mode):
        raise UsageError(f"{file} is a symbolic link", "declare it under [links] in layer.toml")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{file} is neither a file nor a folder", "a layer contains only files and folders")
    if stat.S_ISREG(mode) and mode & 0o7000:
        raise UsageError(f"{file} has a setuid, setgid or sticky bit", f"remove it: chmod u-s,g-s,-t {file}")
