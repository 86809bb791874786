"""Whether a base image may be used: the policy.

* No image is used without a checksum. The best is pinned (images.toml, --sha256); the next is that of
  Raspberry Pi's catalogue. A ``.sha256`` beside the file, or a catalogue over plain http, detects damage but
  not tampering, and a warning says so. Without a checksum: refused, unless --insecure-no-checksum.
* Raspberry Pi signs its images. So a signature is expected beside each of these images, where images.toml
  names one, and used when one is beside a local file. A bad signature, or one by a revoked or unexpected
  key, is an error whatever the checksum says.
* A signature that is missing, that has expired or is too weak (SHA-1), or that is by an expected key which
  has expired or which piimg does not have, proves nothing: a warning when the checksum is pinned or from
  Raspberry Pi's catalogue, which is on another server; an error when it is unproven.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagebuilder.base import catalogue, download, signature
from imagebuilder.base.catalogue import BaseImage, Trust, WrongContent
from imagebuilder.base.request import NotThere, Patience
from imagebuilder.base.signature import SignatureResult, SignatureStatus
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.reading import read_regular

_MAX_SIDECAR = 64 << 10  # bytes
_READABLE = "check its owner and permissions"


def pinned(image: BaseImage, sha256: str) -> BaseImage:
    """``image``, pinned to the checksum ``sha256`` unless that is empty.

    Raises UsageError when it contradicts the image's pin.
    """
    if not sha256:
        return image
    given = catalogue.checked_sha256(sha256)
    if image.sha256 and image.sha256 != given:
        raise UsageError(
            f"--sha256 differs from the pin of {image.name}, {image.sha256}",
            "leave --sha256 out, or correct it",
        )
    return dataclasses.replace(image, sha256=given, trust=Trust.PINNED)


def with_checksum(
    image: BaseImage, reporter: Reporter, *, insecure: bool, patience: Patience | None = None
) -> BaseImage:
    """``image`` with a checksum: a known one, or the one in the .sha256 beside it.

    Raises PiimgError when there is no checksum, unless ``insecure``.
    """
    if image.trust is Trust.NONE:
        checksum = _local_sidecar(image) if image.file else _remote_sidecar(image, patience)
        if checksum:
            image = dataclasses.replace(image, sha256=checksum, trust=Trust.UNPROVEN)
        elif not insecure:
            raise PiimgError(f"no checksum is known for {image.name}: refused", _no_checksum_hint(image))
    if image.trust is Trust.NONE:
        reporter.emit(Message("warning", "no checksum is known for it: used unchecked", image.name))
    elif image.trust is Trust.UNPROVEN and image.file is None:
        text = "its checksum is from the same server: that detects damage, not tampering"
        reporter.emit(Message("warning", text, image.name))
    return image


def _no_checksum_hint(image: BaseImage) -> str:
    if image.file is None:
        return "give the checksum with --sha256 HEX, or accept any content with --insecure-no-checksum"
    folder, name = shlex.quote(str(image.file.parent)), shlex.quote(image.file.name)
    return f"if you trust the file, write its checksum: (cd {folder} && sha256sum {name} >{name}.sha256)"


def _local_sidecar(image: BaseImage) -> str:
    assert image.file is not None
    sidecar = image.file.with_name(f"{image.file.name}.sha256")
    try:
        return catalogue.read_sidecar(read_regular(sidecar, _MAX_SIDECAR), image.file.name)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PiimgError(f"cannot read {sidecar}: {error.strerror}", _READABLE) from error


def _remote_sidecar(image: BaseImage, patience: Patience | None) -> str:
    parts = urlsplit(image.url)
    beside = parts._replace(path=f"{parts.path}.sha256").geturl()
    try:
        content, final = download.read_small(beside, _MAX_SIDECAR, patience=patience)
    except NotThere:
        return ""
    name = unquote(Path(urlsplit(final).path).name).removesuffix(".sha256")
    return catalogue.read_sidecar(content, name)


def check_sum(image: BaseImage, digest: str) -> None:
    """Raise PiimgError when the sha256 of the file as fetched, ``digest``, is not the expected one."""
    if image.sha256 and digest != image.sha256:
        raise WrongContent(
            f"{image.name}: wrong checksum: it has {digest}, expected {image.sha256}",
            "the file is damaged or another one; it was not used. Run the same again",
        )


def check_extracted(image: BaseImage, digest: str) -> None:
    """Raise PiimgError when the sha256 of the unpacked image, ``digest``, is not the expected one."""
    if image.extract_sha256 and digest != image.extract_sha256:
        raise WrongContent(
            f"{image.name}: wrong checksum of the unpacked image: {digest}, expected {image.extract_sha256}",
            "the file is another one than expected; it was not used. Check the entry and the source",
        )


def check_signature(
    image: BaseImage,
    data: Path,
    keys: Sequence[Path],
    reporter: Reporter,
    *,
    insecure: bool,
    patience: Patience | None = None,
) -> str:
    """The fingerprint of the key that signed ``data`` (the file as fetched); empty without a good signature.

    Raises PiimgError by the policy above.
    """
    content = _signature_of(image, patience)
    if content is None:
        if image.signature:
            _unproven(image, "its signature is missing", reporter, insecure)
        return ""
    results = signature.check(data, content, keys)
    _refuse(image, results)
    for result in results:
        if result.verdict is SignatureStatus.GOOD:
            return result.key
    _unproven(image, _why_unproven(results[0]), reporter, insecure)
    return ""


def _signature_of(image: BaseImage, patience: Patience | None) -> bytes | None:
    """The detached signature of ``image``; None when it does not exist."""
    if image.file:
        beside = image.file.with_name(f"{image.file.name}.sig")
        try:
            return read_regular(beside, signature.MAX_SIZE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PiimgError(f"cannot read {beside}: {error.strerror}", _READABLE) from error
    if not image.signature:
        return None
    try:
        return download.read_small(image.signature, signature.MAX_SIZE, patience=patience)[0]
    except NotThere:
        return None


def _refuse(image: BaseImage, results: Sequence[SignatureResult]) -> None:
    """Raise WrongContent when one of the signatures is bad or by a wrong key, whatever the others are."""
    if not results:
        raise WrongContent(f"{image.name}: its signature is not an OpenPGP signature", _DO_NOT_USE)
    for result in results:
        match result.verdict:
            case SignatureStatus.BAD:
                raise WrongContent(f"{image.name}: BAD signature by {result.key}", _DO_NOT_USE)
            case SignatureStatus.REVOKED:
                raise WrongContent(f"{image.name}: signed by the revoked key {result.key}", _DO_NOT_USE)
            case SignatureStatus.GOOD | SignatureStatus.EXPIRED_KEY | SignatureStatus.EXPIRED_SIGNATURE if (
                not signature.acceptable(result.key, image)
            ):
                raise WrongContent(
                    f"{image.name}: signed by {result.key}, which may not sign it", _expected(image)
                )
            case SignatureStatus.NO_KEY if not signature.is_expected(result.key, image):
                raise WrongContent(f"{image.name}: signed by an unknown key, {result.key}", _expected(image))


_DO_NOT_USE = "the file or its signature was changed: do not use it, and check its source"


def _expected(image: BaseImage) -> str:
    return (
        f"expected {' or '.join(signature.expected(image))};\n"
        "if you trust the key, put it (gpg --export --armor) into keys/ beside your manifest"
    )


def _why_unproven(result: SignatureResult) -> str:
    key = result.key
    match result.verdict:
        case SignatureStatus.EXPIRED_KEY:
            return f"the key that signed it, {key}, has expired"
        case SignatureStatus.EXPIRED_SIGNATURE:
            return f"its signature, by {key}, has expired"
        case SignatureStatus.WEAK:
            return f"its signature, by {key}, is too weak: the signature or its key uses SHA-1 or MD5"
        case SignatureStatus.UNSUPPORTED:
            return f"its signature, by {key}, needs an algorithm that the installed gpgv does not have"
        case SignatureStatus.UNUSABLE_KEY:
            return f"the key that signed it, {key}, cannot be used: check this machine's clock, and the key"
        case _:
            return f"the key that signed it, {key}, is not here (put it into keys/ beside your manifest)"


def _unproven(image: BaseImage, why: str, reporter: Reporter, insecure: bool) -> None:
    checked = image.trust in (Trust.PINNED, Trust.CATALOGUE)
    if not checked and not insecure:
        raise PiimgError(
            f"{image.name}: {why}, and its checksum is not pinned: refused",
            "give the checksum with --sha256 HEX, from a source you trust",
        )
    reason = f"its checksum ({image.trust}) is right" if checked else "used unchecked"
    reporter.emit(Message("warning", f"{why}; {reason}", image.name))
