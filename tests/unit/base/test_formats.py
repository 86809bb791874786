"""Files that are no disk images are recognized by their bytes."""

import bz2
import lzma
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.base.catalogue import WrongContent
from imagebuilder.base.formats import TAIL, check_disk_image

IMAGE = os.urandom(440) + bytes(70) + b"\x55\xaa" + os.urandom(3584)
TABLE_IN_TEXT = b"\xfa\xb8" + b"boot code with much text in it".ljust(508) + b"\x55\xaa"

OTHERS = {
    "bzip2": bz2.compress(IMAGE),
    "lzma": lzma.compress(IMAGE, lzma.FORMAT_ALONE),
    "lzma of known size": b"\x5d" + struct.pack("<IQ", 1 << 23, 1 << 30) + bytes(100),
    "lz4": b"\x04\x22\x4d\x18" + IMAGE,
    "lzop": b"\x89LZO\0\r\n\x1a\n" + IMAGE,
    "7-Zip": b"7z\xbc\xaf\x27\x1c" + IMAGE,
    "RAR": b"Rar!\x1a\x07\1\0" + IMAGE,
    "cpio": b"070701" + b"0" * 104 + IMAGE,
    "Debian package": b"!<arch>\ndebian-binary   1700000000" + IMAGE,
    "tar": b"os.img".ljust(257, b"\0") + b"ustar\x0000" + bytes(248) + IMAGE,
    "qcow2": b"QFI\xfb\0\0\0\3" + IMAGE,
    "VMDK": b"KDMV\1\0\0\0" + IMAGE,
    "VDI": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + IMAGE,
    "VHDX": b"vhdxfile" + IMAGE,
    "dynamic VHD": b"conectix\0\0\0\2" + IMAGE,
    "Android sparse": b"\x3a\xff\x26\xed\1\0\0\0" + IMAGE,
    "UF2": b"UF2\nWQ]\x9e" + IMAGE,
    "program": b"\x7fELF\2\1\1" + IMAGE,
    "Windows program": b"MZ\x90\0" + bytes(600),
    "block map": b'<?xml version="1.0" ?>\n<!-- comment -->\n<bmap version="2.0">\n' + b" text\n" * 100,
    "web page": b"<!DOCTYPE html>\n<html><head><title>Log in</title></head>" + b"<p>\n" * 100,
    "signature": b"-----BEGIN PGP SIGNATURE-----\n\n" + b"iQIzBAABCAAdFiEE\n" * 40,
    "manifest": b'[cluster]\nname = "picluster"\nbase = "raspios-lite"\n' + b"# comment\n" * 20,
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_kind_of_file_is_named(name: str) -> None:
    with pytest.raises(WrongContent, match=f"{name}.img is .*, not a disk image") as caught:
        check_disk_image(OTHERS[name], f"{name}.img")
    assert caught.value.hint


@pytest.mark.parametrize("magic", [b"conectix", b"koly"])
def test_what_only_the_end_shows(magic: bytes) -> None:
    check_disk_image(IMAGE, "os.img", tail=bytes(TAIL))
    with pytest.raises(WrongContent, match="not a disk image"):
        check_disk_image(IMAGE, "os.img", tail=magic.ljust(TAIL, b"\0"))


@pytest.mark.parametrize(
    "head", [IMAGE, TABLE_IN_TEXT, bytes(4096), b"", b"MZ".ljust(510, b"\0") + b"\x55\xaa"]
)
def test_a_disk_image_is_none_of_them(head: bytes) -> None:
    check_disk_image(head, "os.img", tail=head[-TAIL:])


@given(st.binary(max_size=4096), st.binary(max_size=TAIL))
def test_any_bytes_are_an_image_or_one_clear_error(head: bytes, tail: bytes) -> None:
    try:
        check_disk_image(head, str(Path("os.img")), tail=tail)
    except WrongContent as error:
        assert error.message.endswith("not a disk image") and error.hint
