"""Laying file layers into a staging folder: what the two partitions of an image will hold.

A layer is a folder with ``boot/`` and ``root/`` (git keeps their content and x bits) and ``tree.conf``
for what git cannot keep: modes, owners, links and empty folders of the root partition, in the form of
tmpfiles.d(5). Of that, these types are known: ``d`` folder, ``z`` mode and owner, ``L+`` link, ``r`` remove.
What is in ``initramfs/`` goes into the initramfs of a system that starts (initramfs.py).
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.errors import PiimgError

LAYERS = Path(__file__).resolve().parent / "layers"


@dataclass(frozen=True)
class Attributes:
    """A path's permission bits and owner."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Staging:
    """The folders ``root`` and ``boot`` being filled; ``attributes`` by path within root, e.g. ``/etc``."""

    root: Path
    boot: Path
    attributes: dict[str, Attributes] = field(default_factory=dict)


def lay(staging: Staging, layer: str, substitutions: Mapping[bytes, bytes]) -> None:
    """Copy ``layer`` over what is staged, and record its modes and owners."""
    folder = LAYERS / layer
    for source, name in _files(folder / "boot"):
        _place(source, staging.boot / name, substitutions)
    for source, name in _files(folder / "root"):
        _place(source, staging.root / name, substitutions)
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        staging.attributes[f"/{name}"] = Attributes(mode, 0, 0)
    table = folder / "tree.conf"
    for number, line in enumerate(table.read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            _apply(staging, line, f"{table}:{number}")


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for source in sorted(folder.rglob("*")):
        if source.is_file():
            yield source, str(source.relative_to(folder))


def _place(source: Path, target: Path, substitutions: Mapping[bytes, bytes]) -> None:
    content = source.read_bytes()
    for mark, value in substitutions.items():
        content = content.replace(mark, value)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # never write through a link
    target.write_bytes(content)


def _apply(staging: Staging, line: str, place: str) -> None:
    words = line.split()
    kind, path = words[0], words[1]
    target = staging.root / path.lstrip("/")
    match kind, words[2:]:
        case "d", [mode, uid, gid]:
            target.mkdir(parents=True, exist_ok=True)
            staging.attributes[path] = Attributes(int(mode, 8), int(uid), int(gid))
        case "z", [mode, uid, gid]:
            if not target.exists():
                raise PiimgError(f"{place}: there is no {path}", "fix the layer")
            staging.attributes[path] = Attributes(int(mode, 8), int(uid), int(gid))
        case "L+", ["-", "-", "-", "-", destination]:
            _remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(destination)
        case "r", []:
            _remove(target)
            staging.attributes.pop(path, None)
        case _:
            raise PiimgError(f"{place}: not understood: {line}", "see tmpfiles.d(5)")


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def set_shell(staging: Staging, account: str, shell: str) -> None:
    """Give an account another shell, in the staged passwd(5)."""
    passwd = staging.root / "etc/passwd"
    lines = passwd.read_text().splitlines()
    changed = [
        f"{line.rpartition(':')[0]}:{shell}" if line.startswith(f"{account}:") else line for line in lines
    ]
    passwd.write_text("".join(f"{line}\n" for line in changed))


def also(prefix: str, layers: Iterable[str]) -> list[str]:
    """Those of the layers ``PREFIX-LAYER`` that there are, for each of ``layers``."""
    return [f"{prefix}-{layer}" for layer in layers if (LAYERS / f"{prefix}-{layer}").is_dir()]


def apply(staging: Staging) -> None:
    """Give the staged files of the root partition their modes and owners. Only root can."""
    for name, given in staging.attributes.items():
        path = staging.root / name.lstrip("/")
        os.chown(path, given.uid, given.gid, follow_symlinks=False)
        path.chmod(given.mode)
