"""Changing a copy of a specimen as somebody could who had it, by debugfs, mtools and sfdisk."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import judge

Spoil = Callable[[Path], object]


def debugfs(image: Path, *commands: str) -> None:
    """Run debugfs commands that write to the root partition."""
    subprocess.run(
        ["debugfs", "-w", "-f", "-", f"{image}?offset={judge.places(image).root}"],
        input="\n".join(commands).encode(),
        capture_output=True,
        check=True,
    )


def settle(image: Path) -> None:
    """Let e2fsck set right what debugfs leaves: link counts and what is free."""
    device = f"{image}?offset={judge.places(image).root}"
    done = subprocess.run(["e2fsck", "-f", "-y", device], capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stdout


def root_file(path: str, content: bytes | str, mode: int = 0o644) -> Spoil:
    """Put a file onto the root partition; its folders are made where they are missing."""

    def spoil(image: Path) -> None:
        parents = [path[:at] for at in range(1, len(path)) if path[at] == "/"]
        with tempfile.NamedTemporaryFile() as source:
            source.write(content if isinstance(content, bytes) else content.encode())
            source.flush()
            debugfs(
                image,
                *(
                    f'mkdir "{parent}"'
                    for parent in parents
                    if b"Inode:" not in judge.debugfs(image, f'stat "{parent}"')
                ),
                f'rm "{path}"',
                f'write "{source.name}" "{path}"',
                f'sif "{path}" mode 0{0o100000 | mode:o}',
                f'sif "{path}" uid 0',
                f'sif "{path}" gid 0',
            )

    return spoil


def root_edit(path: str, edit: Callable[[bytes], bytes], mode: int = 0o644) -> Spoil:
    """Change a file of the root partition."""

    def spoil(image: Path) -> None:
        before = judge.on_root(image, path)
        assert edit(before) != before
        root_file(path, edit(before), mode)(image)

    return spoil


def root_gone(*paths: str) -> Spoil:
    """Remove files and links of the root partition."""
    return lambda image: debugfs(image, *(f'rm "{path}"' for path in paths))


def root_link(path: str, target: str) -> Spoil:
    """Make a link on the root partition, in place of what is there."""
    return lambda image: debugfs(image, f'rm "{path}"', f'symlink "{path}" {target}')


def boot_file(name: str, content: bytes | str) -> Spoil:
    """Put a file onto the boot partition."""

    def spoil(image: Path) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        boot = f"{image}@@{judge.places(image).boot}"
        subprocess.run(["mcopy", "-o", "-i", boot, "-", f"::{name}"], input=raw, check=True)

    return spoil


def boot_edit(name: str, edit: Callable[[bytes], bytes]) -> Spoil:
    """Change a file of the boot partition."""

    def spoil(image: Path) -> None:
        before = judge.on_boot(image, f"/{name}")
        assert edit(before) != before
        boot_file(name, edit(before))(image)

    return spoil


def words(*added: str) -> Spoil:
    """Add words to cmdline.txt."""
    return boot_edit("cmdline.txt", lambda line: line.rstrip() + f" {' '.join(added)}\n".encode())


def field(name: str, value: str) -> Spoil:
    """Set a field of the ext4 superblock, with its checksum."""
    return lambda image: debugfs(image, f"ssv {name} {value}")


def overwritten(where: str, at: int, size: int) -> Spoil:
    """Overwrite ``size`` bytes of a partition, "boot" or "root", with noise."""

    def spoil(image: Path) -> None:
        with image.open("r+b") as stream:
            stream.seek(getattr(judge.places(image), where) + at)
            stream.write(os.urandom(size))

    return spoil


def cut(image: Path) -> None:
    """Cut the image off inside its root partition."""
    os.truncate(image, judge.places(image).root + (1 << 20))


def in_order(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda image: [spoil(image) for spoil in spoils]
