"""Downloads of layers: fetched once into the cache, checked, and put into the entries of each node."""

import contextlib
import dataclasses
import hashlib
import io
import lzma
import os
import posixpath
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.base.space import writing
from imagebuilder.dressing.store import Store
from imagebuilder.errors import PiimgError
from imagebuilder.events import Reporter
from imagebuilder.model import Entry, Kind, NodePlan
from imagebuilder.reading import LARGE, read_regular
from imagebuilder.software import Download
from imagebuilder.system import files
from imagebuilder.system.process import ToolError, streaming
from imagebuilder.text import printable

_MEMBERS = 20_000  # of an archive
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_HINT = "download it by hand and look; unpack = false puts the archive itself into the image"


def filled(
    plans: Sequence[NodePlan], cache: Cache, reporter: Reporter, stop: threading.Event
) -> list[NodePlan]:
    """``plans`` with the content of their downloads, from the cache, or fetched now.

    Raises Interrupted when ``stop`` is set, and PiimgError when a file cannot be fetched, has another sha256,
    or is not an archive where one is expected.
    """
    contents: dict[Download, bytes] = {}
    for wanted in (entry.download for plan in plans for entry in plan.entries if entry.download):
        if wanted not in contents:
            contents[wanted] = _content(wanted, cache, reporter, stop)
    return [_with(plan, contents) for plan in plans]


def filled_from(plan: NodePlan, cache: Cache) -> NodePlan | None:
    """``plan`` with the content of its downloads, if all are in the cache; else None. Nothing is fetched."""
    contents: dict[Download, bytes] = {}
    for wanted in (entry.download for entry in plan.entries if entry.download):
        try:
            contents[wanted] = read_regular(Store(cache).download(wanted.sha256), LARGE)
        except OSError:
            return None
        if hashlib.sha256(contents[wanted]).hexdigest() != wanted.sha256:
            return None
    return _with(plan, contents)


def _with(plan: NodePlan, contents: Mapping[Download, bytes]) -> NodePlan:
    """``plan`` with the ``contents`` of its downloads."""
    explicit = {(entry.partition, entry.path) for entry in plan.entries}
    entries: list[Entry] = []
    for entry in plan.entries:
        if entry.download is None:
            entries.append(entry)
        elif not entry.download.unpack:
            entries.append(dataclasses.replace(entry, content=contents[entry.download]))
        else:
            members = _unpacked(entry, contents[entry.download])
            entries.append(entry)
            entries += [member for member in members if (member.partition, member.path) not in explicit]
    return dataclasses.replace(plan, entries=tuple(entries))


def _content(wanted: Download, cache: Cache, reporter: Reporter, stop: threading.Event) -> bytes:
    file = Store(cache).download(wanted.sha256)
    with cache.held(reporter, stop):
        if not file.is_file() or sha256_of(file) != wanted.sha256:
            _fetch(wanted, file, cache, reporter, stop)
        try:
            return read_regular(file, LARGE)
        except OSError as error:
            raise PiimgError(
                f"{wanted.url}: {error.strerror}", "fetch larger files on the node, by a first-boot script"
            ) from error


def _fetch(wanted: Download, file: Path, cache: Cache, reporter: Reporter, stop: threading.Event) -> None:
    from imagebuilder.base import download  # only here: it takes long to load

    name = printable(posixpath.basename(wanted.url))
    partial = cache.downloads / f"{wanted.sha256[:32]}.partial"
    fetched = download.download(wanted.url, partial, subject=name, reporter=reporter, pinned=True, stop=stop)
    digest = sha256_of(fetched.path)
    if digest != wanted.sha256:
        download.discard(fetched.path)
        raise PiimgError(
            f"{wanted.url} has the sha256 {digest}, not {wanted.sha256}",
            "if this file is the right one, correct sha256 in layer.toml",
        )
    with writing(f"keep {name} in the cache"):
        file.parent.mkdir(exist_ok=True)
        files.hand_over(file.parent, cache.folder)
        files.sync_file(fetched.path)
        fetched.path.replace(file)
        files.sync_folder(file.parent)
    download.discard(fetched.path)


def _unpacked(folder: Entry, content: bytes) -> list[Entry]:
    """The entries of an archive, below ``folder`` and with its owner. Raises PiimgError."""
    assert folder.download
    entries: dict[str, Entry] = {}
    taken = 0
    try:
        for name, kind, mode, target, raw in _members(content):
            path = posixpath.normpath(name)
            if path == ".":
                continue
            if path.startswith(("/", "../")) or path == ".." or not path.isprintable():
                raise PiimgError(f"{folder.download.url}: {printable(name)!r} leaves its folder", _HINT)
            taken += len(raw)
            if len(entries) >= _MEMBERS or taken > LARGE:
                text = f"{folder.download.url}: more than {_MEMBERS} files or {LARGE >> 20} MiB"
                raise PiimgError(text, "unpack it on the node, by a first-boot script")
            entries[path] = dataclasses.replace(
                folder, path=f"{folder.path}/{path}", kind=kind, mode=mode, target=target, content=raw,
                overrides=(), download=None,
            )  # fmt: skip
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise PiimgError(
            f"{folder.download.url} is not an archive that can be unpacked: {error}", _HINT
        ) from error
    except ToolError as error:
        raise PiimgError(f"{folder.download.url} cannot be unpacked: {error.message}", _HINT) from error
    for path in entries:
        above = posixpath.dirname(path)
        if above and above in entries and entries[above].kind is not Kind.DIRECTORY:
            raise PiimgError(f"{folder.download.url}: {printable(path)} is below a link or a file", _HINT)
    return [entries[path] for path in sorted(entries)]


def _members(content: bytes) -> Iterator[tuple[str, Kind, int, str, bytes]]:
    """Each member of a .zip or .tar (.gz, .xz, .bz2, .zst): name, kind, mode, target of a link, content."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if info.is_dir():
                    yield info.filename, Kind.DIRECTORY, 0o755, "", b""
                elif not stat.S_ISLNK(mode):
                    yield info.filename, Kind.FILE, _mode(mode or 0o644), "", _bounded(archive.open(info))
        return
    with _stream(content) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        held: dict[str, tuple[int, bytes]] = {}  # for hard links to earlier members
        for member in tar:
            if member.isdir():
                yield member.name, Kind.DIRECTORY, _mode(member.mode | 0o700), "", b""
            elif member.issym():
                yield member.name, Kind.LINK, 0o777, member.linkname, b""
            elif member.islnk() and member.linkname in held:
                mode, raw = held[member.linkname]
                yield member.name, Kind.FILE, mode, "", raw
            elif member.isfile() and (reader := tar.extractfile(member)):
                held[member.name] = _mode(member.mode), _bounded(reader)
                yield member.name, Kind.FILE, held[member.name][0], "", held[member.name][1]


def _mode(mode: int) -> int:
    """The permissions of a member, without setuid bits, and not writable by others."""
    return mode & 0o755


def _bounded(stream: IO[bytes]) -> bytes:
    raw = stream.read(LARGE + 1)
    if len(raw) > LARGE:
        raise PiimgError("a file in an archive is too large", "unpack it on the node, by a first-boot script")
    return raw


@contextlib.contextmanager
def _stream(content: bytes) -> Iterator[IO[bytes]]:
    """The bytes of an archive; of a .zst, which tarfile cannot read, decompressed by zstd(1)."""
    if not content.startswith(_ZSTD):
        yield io.BytesIO(content)
        return
    handle = os.memfd_create("archive")
    try:
        with open(handle, "r+b", closefd=False) as memory:
            memory.write(content)
        with streaming(["zstd", "-d", "-f", "-c", f"/dev/fd/{handle}"], pass_fds=(handle,)) as stream:
            yield stream
            while stream.read(1 << 20):
                pass
    finally:
        os.close(handle)
