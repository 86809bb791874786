"""What a file is, by its first and last bytes: a disk image, one that is compressed, or something else."""

import re
from pathlib import Path

from imagebuilder.base.catalogue import IMAGE_SUFFIXES, WrongContent
from imagebuilder.reading import open_regular

HEAD = 4096  # bytes at the start of a file that decide what it is
TAIL = 512  # bytes at its end

# The first bytes of each format: the .xz file format 1.1.0, RFC 1952, RFC 8878, PKWARE APPNOTE 4.3 and 8.5
# (an archive that once was to be split, or an empty one).
_MAGIC = {
    ".xz": (b"\xfd7zXZ\x00",),
    ".gz": (b"\x1f\x8b",),
    # Skippable frames (RFC 8878 3.1.2), which pzstd writes first, have sixteen magic numbers.
    ".zst": (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))),
    ".zip": (b"PK\x03\x04", b"PK00PK\x03\x04", b"PK\x07\x08PK\x03\x04", b"PK\x05\x06"),
}

# Other kinds of files, by their first bytes, and the command that unpacks or converts each. Most are from the
# file formats' own documentation; all are known to file(1).
_RAW = "qemu-img convert -O raw FILE os.img"
_FOREIGN = {
    b"BZh": ("a bzip2 file", "bunzip2 FILE"),
    b"\x04\x22\x4d\x18": ("an lz4 file", "lz4 -d FILE"),
    b"\x02\x21\x4c\x18": ("an lz4 file", "lz4 -d FILE"),
    b"LZIP\x01": ("an lzip file", "lzip -d FILE"),
    b"\x89LZO\x00\r\n\x1a\n": ("an lzop file", "lzop -d FILE"),
    b"\x1f\x9d": ("a file of compress(1)", "uncompress FILE"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "7zz x FILE"),
    b"Rar!\x1a\x07": ("a RAR archive", "unrar x FILE"),
    b"070701": ("a cpio archive", "cpio -id <FILE"),
    b"070702": ("a cpio archive", "cpio -id <FILE"),
    b"070707": ("a cpio archive", "cpio -id <FILE"),
    b"!<arch>\n": ("an ar archive or Debian package", "ar x FILE"),
    b"MSWIM\0\0\0": ("a Windows image", "wimapply FILE"),
    b"QFI\xfb": ("a qcow2 image", _RAW),
    b"QED\0": ("a QED image", _RAW),
    b"KDMV": ("a VMDK image", _RAW),
    b"COWD": ("a VMDK image", _RAW),
    b"# Disk DescriptorFile": ("a VMDK description", _RAW),
    b"vhdxfile": ("a VHDX image", _RAW),
    b"conectix": ("a VHD image", _RAW),
    b"WithoutFreeSpace": ("a Parallels image", _RAW),
    b"WithouFreSpacExt": ("a Parallels image", _RAW),
    b"\x3a\xff\x26\xed": ("an Android sparse image", "simg2img FILE os.img"),
    b"partclone-image": ("a partclone image", "partclone.restore -s FILE"),
    b"UF2\n": ("a UF2 file, for a Raspberry Pi Pico", ""),
    b"\x7fELF": ("a program", ""),
    b"%PDF-": ("a PDF document", ""),
    **dict.fromkeys(_MAGIC[".xz"], ("an xz file", "xz -d FILE")),
    **{magic + b"\x08": ("a gzip file", "gunzip FILE") for magic in _MAGIC[".gz"]},
    **dict.fromkeys(_MAGIC[".zst"], ("a zstd file", "zstd -d FILE")),
    **dict.fromkeys(_MAGIC[".zip"], ("a zip archive", "unzip FILE")),
}
_FOREIGN_AT = {  # at other offsets: POSIX.1-2017, pax; VirtualBox VDICore.h, VDI_IMAGE_SIGNATURE
    (257, b"ustar"): ("a tar archive", "tar -xf FILE"),
    (64, b"\x7f\x10\xda\xbe"): ("a VDI image", _RAW),
}
_TRAILERS = {  # at the start of the last 512 bytes: VHD specification 1.0, "Hard Disk Footer"; UDIF "koly"
    b"conectix": ("a VHD image", _RAW),
    b"koly": ("a disk image of macOS (.dmg)", "dmg2img FILE os.img"),
}
_TEXTS = {
    re.compile(rb"<bmap\s"): ("a block map (.bmap)", "give the image that it is the map of"),
    re.compile(rb"(?i)<!doctype html|<html"): ("a web page", "download the image itself"),
    re.compile(rb"-----BEGIN PGP"): ("a signature or a key", "give the image that it is for"),
}
_TEXT = re.compile(rb"[\t\n\r\f\x20-\x7e\x80-\xff]{64,}")
_SECTOR_END = b"\x55\xaa"  # of a first sector with a boot program or a partition table
OWN = "and give the image file"


def compression_of(head: bytes) -> str:
    """The suffix for the format that starts with ``head``: one that is unpacked, else ".img"."""
    return next((suffix for suffix, magics in _MAGIC.items() if head.startswith(magics)), ".img")


def kind_of(source: Path, name: str) -> str:
    """The suffix for the format of ``source`` (".img" when not compressed).

    Raises WrongContent when ``name`` has the suffix of another format, as for an error page of a server.
    """
    with open_regular(source) as stream:
        found = compression_of(stream.read(16))
    suffix = Path(name).suffix.lower()
    claimed = ".img" if suffix in IMAGE_SUFFIXES else suffix
    if claimed in (*_MAGIC, ".img") and claimed != found:
        raise WrongContent(
            f"{name} is not {suffix} inside" + ("" if found == ".img" else f" but {found}"),
            "the file is not what its name says: check where it comes from",
        )
    return found


def check_disk_image(head: bytes, name: str, *, tail: bytes = b"", verb: str = "is") -> None:
    """Raise WrongContent when the first or last bytes are those of another kind of file than a disk image.

    ``head`` is at most ``HEAD`` bytes, ``tail`` the last ``TAIL`` bytes if known. ``verb`` is "contains" for
    a file in an archive.
    """
    what, unpacking = _other_kind(head[:HEAD], tail)
    if what:
        hint = f"unpack it yourself ({unpacking}) {OWN}" if unpacking else "give a disk image"
        raise WrongContent(f"{name} {verb} {what}, not a disk image", hint)
    for pattern, (text, hint) in _TEXTS.items():
        if pattern.search(head[:HEAD]) and _is_text(head):
            raise WrongContent(f"{name} {verb} {text}, not a disk image", hint)
    if _is_text(head):
        raise WrongContent(f"{name} {verb} text, not a disk image", "check that it is the right file")


def _other_kind(head: bytes, tail: bytes) -> tuple[str, str]:
    """What another kind of file is, and the command that unpacks it; both empty for none that is known."""
    for (offset, magic), found in _FOREIGN_AT.items():
        if head.startswith(magic, offset):
            return found
    for magic, found in _FOREIGN.items():
        if head.startswith(magic):
            return found
    if _is_lzma(head):
        return "an lzma file", "xz -dc -F lzma <FILE >os.img"
    if head.startswith(b"MZ") and head[510:512] != _SECTOR_END:
        return "a Windows program", ""
    return next((found for magic, found in _TRAILERS.items() if tail.startswith(magic)), ("", ""))


def _is_lzma(head: bytes) -> bool:
    """The header of a .lzma file, with the bounds of liblzma (lzma-file-format.txt of XZ Utils, 1.1)."""
    if len(head) < 14 or head[0] != 0x5D or head[13] != 0:  # lc, lp, pb by default; the first byte of a range
        return False
    dictionary, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:13], "little")
    top = 1 << max(dictionary.bit_length() - 1, 0)
    return dictionary in (top, top + top // 2) and (size == 2**64 - 1 or size < 1 << 38)


def _is_text(head: bytes) -> bool:
    return _TEXT.fullmatch(head[:512]) is not None and head[510:512] != _SECTOR_END
