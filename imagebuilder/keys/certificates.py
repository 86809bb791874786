"""Certificates of authorities that the user names: PEM files with one certificate or several (RFC 7468)."""

import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from imagebuilder.errors import UsageError
from imagebuilder.reading import SMALL, read_regular

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.*?-----END [A-Z0-9 ]*-----", re.DOTALL)
_HINT = "name a file with certificates in PEM form"


def certificates_in(file: Path) -> tuple[str, ...]:
    """The certificates of ``file``, each as PEM text. Raises UsageError naming the file for anything else.

    A certificate must be that of an authority, or signed by itself: programs trust no other.
    """
    try:
        raw = read_regular(file, SMALL)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "ca_certificates names it") from error
    if b"PRIVATE KEY-----" in raw:
        raise UsageError(f"{file} has a private key, which must not reach a card", _HINT)
    blocks = _PEM.findall(raw)
    if not blocks:
        hint = f"convert it: openssl x509 -inform der -in {file} -out {file}.pem"
        raise UsageError(f"{file} has no certificate in PEM form", hint if raw.startswith(b"\x30") else _HINT)
    return tuple(_certificate(block, f"{file}: certificate {at}") for at, block in enumerate(blocks, start=1))


def _certificate(block: bytes, place: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        signs = _is_authority(certificate) or certificate.issuer == certificate.subject
        issuer = certificate.issuer.rfc4514_string()
    except ValueError as error:
        raise UsageError(f"{place} is damaged: {error}", "copy the file again") from None
    if not signs:
        shown = issuer if issuer.isprintable() else "another authority"
        raise UsageError(
            f"{place} is not that of an authority: it was issued by {shown[:100]}",
            "name the certificate of that one",
        )
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
