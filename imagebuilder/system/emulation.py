"""A trial whether this machine runs programs for a Raspberry Pi, as the system in an image would run them."""

import os
import struct
import tempfile
from pathlib import Path

from imagebuilder.system.process import run

_AT = 0x400000  # the address of the program
_CODE = struct.pack("<3I", 0xD2800000, 0xD2800BA8, 0xD4000001)  # mov x0, #0; mov x8, #93 (exit); svc #0


def arm64_program() -> bytes:
    """An arm64 program that ends with exit status 0: elf(5), and Arm's instruction set (A64)."""
    size = 64 + 56 + len(_CODE)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, _AT + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _AT, _AT, size, size, 0x1000)
    return header + segment + _CODE


def try_arm64() -> None:
    """Run it in a root of its own, as an ordinary user in a user namespace with the numbers of /etc/subuid.

    Raises ToolError when this machine cannot, and PiimgError when a program for it is missing.
    """
    with tempfile.TemporaryDirectory(prefix="piimg-trial-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        program = folder / "program"
        program.write_bytes(arm64_program())
        program.chmod(0o755)
        mapped = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto", "--"]
        run([*mapped, "chroot", folder, "/program"])
