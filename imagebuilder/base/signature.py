"""Check detached OpenPGP signatures of base images with gpgv, with shipped keys and the user's.

The keys that sign (https://downloads.raspberrypi.com, the .sig beside each image): the Raspberry Pi
Downloads Signing Key of 2017 until 2031-04-07; since 2025-11-24 also a newer one, of which
piimg has no public key. A key that the user adds may sign any image.
"""

import base64
import binascii
import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imagebuilder.base.catalogue import BaseImage
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.resources import shipped
from imagebuilder.system import process

MAX_SIZE = 64 << 10
"""Bytes; a detached signature is far smaller."""


@dataclass(frozen=True)
class VendorKey:
    """A key of Raspberry Pi and the dates of the images it signs."""

    fingerprint: str
    since: datetime.date
    until: datetime.date


VENDOR_KEYS = (
    VendorKey(
        "54C3DD610D9D1B4AF82A37758738CD6B956F460C", datetime.date(2017, 4, 10), datetime.date(2031, 4, 7)
    ),
    VendorKey("F4AADD86C4687D69AE04543E796C114AD12B2292", datetime.date(2025, 11, 24), datetime.date.max),
)


class SignatureStatus(StrEnum):
    """The result of gpgv for one signature."""

    GOOD = "good"
    BAD = "bad"
    NO_KEY = "no key"
    EXPIRED_KEY = "expired key"
    EXPIRED_SIGNATURE = "expired signature"
    REVOKED = "revoked"
    WEAK = "weak"
    """Made with SHA-1 (or MD5), or by a key that is certified with nothing else."""
    UNSUPPORTED = "unsupported"
    """Of an algorithm that the installed gpgv does not have."""
    UNUSABLE_KEY = "unusable key"
    """By a key that is created in the future by this host's clock, or that is damaged."""


@dataclass(frozen=True)
class SignatureResult:
    """The result for one signature; ``key`` is its key's fingerprint or 16-digit id, in capitals."""

    verdict: SignatureStatus
    key: str


def expected(image: BaseImage) -> tuple[str, ...]:
    """The fingerprints that may sign ``image``: its own list, else Raspberry Pi's keys of its date."""
    if image.signed_by:
        return image.signed_by
    return tuple(
        key.fingerprint for key in VENDOR_KEYS if image.date is None or key.since <= image.date <= key.until
    )


def acceptable(key: str, image: BaseImage) -> bool:
    """Whether ``key``, which gpgv has, may sign ``image``.

    gpgv has only the shipped keys, which are Raspberry Pi's, and the user's. A key of the user may sign any
    image without ``signed_by``.
    """
    if key in expected(image):
        return True
    return not image.signed_by and key not in {vendor.fingerprint for vendor in VENDOR_KEYS}


def is_expected(key: str, image: BaseImage) -> bool:
    """Whether ``key`` (fingerprint or key id) is expected to sign ``image``."""
    return bool(key) and any(fingerprint.endswith(key) for fingerprint in expected(image))


def key_files(folder: Path | None) -> list[Path]:
    """The public keys to check with: shipped, then keys/*.asc of the cluster ``folder``, then the user's."""
    own = Path.home() / ".config" / "piimg" / "keys"
    folders = [shipped("manifests") / "keys", *([folder / "keys"] if folder else []), own]
    return [path for folder in folders for path in sorted(folder.glob("*.asc"))]


def check(data: Path, signature: bytes, keys: Sequence[Path]) -> list[SignatureResult]:
    """The results of gpgv for the detached ``signature`` over the file ``data``, one for each in it.

    Empty when it is no signature at all. Raises UsageError when a key file is no public key.
    """
    with tempfile.TemporaryDirectory(prefix="piimg-gpgv-") as name:
        home = Path(name)
        (home / "keys.gpg").write_bytes(b"".join(_public_key(path) for path in keys))
        (home / "data.sig").write_bytes(signature)
        results = _gpgv(home, data, "--weak-digest", "SHA1")
        if not any(result.verdict in _PERHAPS_WEAK for result in results):
            return results
        # Only a second run separates a weak signature from a bad one.
        return [_without_weak(*pair) for pair in zip(results, _gpgv(home, data), strict=True)]


_PERHAPS_WEAK = (SignatureStatus.WEAK, SignatureStatus.UNUSABLE_KEY)


def _gpgv(home: Path, data: Path, *options: str) -> list[SignatureResult]:
    command: list[str | Path] = [
        "gpgv",
        "--homedir",
        home,
        "--keyring",
        home / "keys.gpg",
        *options,
        "--status-fd",
        "1",
    ]
    done = process.run([*command, "--", home / "data.sig", data.resolve()], ok=(0, 1, 2))
    return findings(done.stdout.decode("utf-8", "replace"))


def _without_weak(strict: SignatureResult, lenient: SignatureResult) -> SignatureResult:
    """One signature's result, from gpgv that rejects SHA-1 and from gpgv that accepts it."""
    if strict.verdict not in _PERHAPS_WEAK or lenient.verdict in _PERHAPS_WEAK:
        return strict
    if lenient.verdict in (SignatureStatus.BAD, SignatureStatus.REVOKED):
        return lenient
    return SignatureResult(SignatureStatus.WEAK, lenient.key)


# The reason in a line ERRSIG: an error code of libgpg-error (its doc/errorref.txt).
_ERRORS = {
    "4": SignatureStatus.UNSUPPORTED,  # GPG_ERR_PUBKEY_ALGO
    "5": SignatureStatus.WEAK,  # GPG_ERR_DIGEST_ALGO
    "6": SignatureStatus.UNUSABLE_KEY,  # GPG_ERR_BAD_PUBKEY
    "9": SignatureStatus.NO_KEY,  # GPG_ERR_NO_PUBKEY
}


def findings(status: str) -> list[SignatureResult]:
    """The results in gpgv's status lines (GnuPG's doc/DETAILS, "Format of the --status-fd output")."""
    found: list[SignatureResult] = []
    pending = SignatureStatus.GOOD
    for line in status.splitlines():
        match line.split():
            case ["[GNUPG:]", "NEWSIG", *_]:
                pending = SignatureStatus.GOOD
            case ["[GNUPG:]", "BADSIG", key, *_]:
                found.append(SignatureResult(SignatureStatus.BAD, key.upper()))
            case ["[GNUPG:]", "ERRSIG", key, _, _, _, _, reason, *rest]:
                fingerprint = rest[0] if rest and rest[0] != "-" else key
                found.append(SignatureResult(_ERRORS.get(reason, SignatureStatus.BAD), fingerprint.upper()))
            case ["[GNUPG:]", "EXPKEYSIG", *_]:
                pending = SignatureStatus.EXPIRED_KEY
            case ["[GNUPG:]", "EXPSIG", *_]:
                pending = SignatureStatus.EXPIRED_SIGNATURE
            case ["[GNUPG:]", "REVKEYSIG", *_]:
                pending = SignatureStatus.REVOKED
            case ["[GNUPG:]", "VALIDSIG", key, *rest]:
                primary = rest[8] if len(rest) > 8 else key
                found.append(SignatureResult(pending, primary.upper()))
    return found


def _public_key(path: Path) -> bytes:
    """The binary content of an armored or binary key file, as gpgv needs it."""
    try:
        content = read_regular(path, SMALL)
    except OSError as error:
        raise PiimgError(
            f"cannot read the key {path}: {error.strerror}", "check its owner and permissions"
        ) from error
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in content:
        if content[:1] and content[0] & 0x80:  # RFC 4880 4.2: a packet's first bit is set
            return content
        raise UsageError(f"{path} is not an OpenPGP public key", "export it: gpg --export --armor KEY")
    try:
        return dearmored(content.decode("ascii"))
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"{path} is a damaged OpenPGP key", "export it: gpg --export --armor KEY") from error


def dearmored(text: str) -> bytes:
    """The binary form of all armored blocks in ``text`` (RFC 4880 6.2). Raises ValueError.

    The optional checksum line is passed over: gpgv judges the packets by their self-signatures.
    """
    binary = b""
    body: list[str] | None = None
    headers = False
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("-----BEGIN PGP"):
            body, headers = [], True
        elif line.startswith("-----END PGP") and body is not None:
            binary += base64.b64decode("".join(body), validate=True)
            body = None
        elif body is not None and headers:
            headers = line != ""
        elif body is not None and not line.startswith("="):
            body.append(line)
    return binary
