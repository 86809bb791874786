"""Bring a base image (a NAME, URL or FILE) into the cache: download, check, unpack."""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagebuilder.base import catalogue, download, signature, trust, unpack, vendor
from imagebuilder.base.cache import Cache, Record, sha256_of
from imagebuilder.base.catalogue import BaseImage, Trust, WrongContent
from imagebuilder.base.notes import known_sha256, sha256_of_file
from imagebuilder.base.request import Patience
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message, Reporter
from imagebuilder.reading import check_regular

_log = logging.getLogger(__name__)

_TRIES = 3


@dataclass(frozen=True)
class Fetched:
    """A base image in the cache, ready for use: the path and the sha256 (hex) of the unpacked image."""

    path: Path
    base: BaseImage
    digest: str


@dataclass(frozen=True)
class _Obtained:
    """The file as it was fetched, with its sha256 (hex). ``name`` is its file name, which has the format."""

    path: Path
    name: str
    digest: str


def fetch(
    what: str,
    *,
    catalogues: Sequence[Path],
    cache: Cache,
    reporter: Reporter,
    folder: Path | None = None,
    sha256: str = "",
    insecure: bool = False,
    vendor_catalogue: str = "",
    patience: Patience | None = None,
) -> Fetched:
    """Bring the base image ``what`` (a NAME, URL or FILE) into the cache, verified, unless it is there.

    ``folder`` is the cluster folder: relative files and the user's keys/ start there. ``sha256`` pins the
    file as fetched; ``insecure`` accepts a file without a checksum. With ``vendor_catalogue`` (URL or file
    of Raspberry Pi's os_list) ``what`` is the name of an entry in it. Raises PiimgError; the cache then
    contains nothing wrong, and a later call resumes.
    """
    image = _look_up(what, catalogues, folder, vendor_catalogue, patience)
    if warning := vendor.unknown(image):
        reporter.emit(Message("warning", warning, image.name))
    file_digest = _sum(image.file, cache) if image.file else ""
    image = trust.pinned(_recognised(image, file_digest, catalogues), sha256)
    if ready := _cached(image, cache):
        _log.info("%s: in the cache, sha256 %s", image.name, ready.digest)
        return ready
    image = trust.with_checksum(image, reporter, insecure=insecure, patience=patience)
    with cache.held(reporter):
        if ready := _cached(image, cache):  # another run may have fetched it while this one waited
            return ready
        with _obtained(image, file_digest, cache, reporter, patience) as file:
            trust.check_sum(image, file.digest)
            _log.info("%s: fetched, sha256 %s, checksum %s", image.name, file.digest, image.trust)
            keys = signature.key_files(folder)
            signer = trust.check_signature(
                image, file.path, keys, reporter, insecure=insecure, patience=patience
            )
            _log.info("%s: signature %s", image.name, f"by {signer}" if signer else "none")
            return _unpacked(image, file, signer, cache, reporter)


def in_cache(
    what: str, *, catalogues: Sequence[Path], cache: Cache, folder: Path | None = None
) -> Fetched | None:
    """The base image ``what``, as for ``fetch``, if ``fetch`` would find it in the cache; else None.

    Nothing is downloaded, unpacked or written. A local file that was not hashed yet is read; a URL without a
    checksum is taken for what was downloaded from there last. Raises PiimgError.
    """
    image = _look_up(what, catalogues, folder, "", None)
    fetched, digest = image.sha256, "" if image.sha256 else image.extract_sha256
    if not (image.file or fetched or digest):
        fetched = next((record.fetched for record in cache.records() if record.source == image.source), "")
    if image.file:
        try:
            fetched = known_sha256(image.file, cache) or sha256_of(image.file)
        except OSError as error:
            raise _unreadable(image.file, error) from error
        image = _recognised(image, fetched, catalogues)
    record = cache.present(fetched=fetched, digest=digest) if fetched or digest else None
    return _ready(image, record, cache) if record else None


@contextlib.contextmanager
def in_use(get: Callable[[], Fetched], cache: Cache) -> Iterator[Fetched]:
    """The base that ``get`` fetches, locked against pruning while the block runs.

    If it is pruned before it is locked, it is fetched again. Raises PiimgError.
    """
    for _ in range(_TRIES):
        fetched = get()
        with cache.using(fetched.digest) as locked:
            if locked:
                yield fetched
                return
    raise PiimgError(f"the cache was pruned {_TRIES} times meanwhile", "wait until no other piimg prunes it")


def _look_up(
    what: str,
    catalogues: Sequence[Path],
    folder: Path | None,
    vendor_catalogue: str,
    patience: Patience | None,
) -> BaseImage:
    if vendor_catalogue:
        return vendor.find(what, vendor_catalogue, patience)
    image = catalogue.lookup(what, catalogues, folder)
    if image.file:
        hint = "give a NAME (piimg fetch --list), a URL or a FILE"
        try:
            check_regular(image.file)
        except FileNotFoundError:
            raise UsageError(f"there is no file {image.file}", hint) from None
        except OSError as error:
            raise UsageError(f"cannot read {image.file}: {error.strerror}", hint) from error
    return image


def _recognised(image: BaseImage, digest: str, catalogues: Sequence[Path]) -> BaseImage:
    """``image``; or the pinned image that has the same sha256 as the local file, ``digest``."""
    for known in catalogue.load(catalogues).values() if digest else ():
        if digest == known.sha256:
            return dataclasses.replace(known, file=image.file, url="", signature="")
    return image


def _sum(path: Path, cache: Cache) -> str:
    try:
        return sha256_of_file(path, cache)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> PiimgError:
    return PiimgError(f"cannot read {path}: {error.strerror}", "check its permissions, and the disk")


def _cached(image: BaseImage, cache: Cache) -> Fetched | None:
    """The base in the cache with the known checksum; None for a local file, which is always read."""
    record = None
    if image.file:
        return None
    if image.sha256:
        record = cache.find(fetched=image.sha256)
    elif image.extract_sha256:
        record = cache.find(digest=image.extract_sha256)
    return _ready(image, record, cache) if record else None


def _ready(image: BaseImage, record: Record, cache: Cache) -> Fetched:
    return Fetched(cache.path(record), image, record.digest)


@contextlib.contextmanager
def _obtained(
    image: BaseImage, file_digest: str, cache: Cache, reporter: Reporter, patience: Patience | None
) -> Iterator[_Obtained]:
    """The local file, or the download, which is removed when it was used or is wrong."""
    if image.file:
        yield _Obtained(image.file, image.file.name, file_digest)
        return
    key = hashlib.sha256(image.url.encode()).hexdigest()[:32]
    downloaded = download.download(
        image.url,
        cache.downloads / f"{key}.partial",
        subject=image.name,
        reporter=reporter,
        expected_size=image.download_size,
        pinned=image.trust is Trust.PINNED,
        patience=patience,
    )
    try:
        yield _Obtained(
            downloaded.path, unquote(Path(urlsplit(downloaded.url).path).name), _sum(downloaded.path, cache)
        )
    except WrongContent:
        download.discard(downloaded.path)
        raise
    download.discard(downloaded.path)


def _unpacked(image: BaseImage, file: _Obtained, signer: str, cache: Cache, reporter: Reporter) -> Fetched:
    """Unpack the verified file into the cache, unless its content is there already."""
    if known := cache.find(fetched=file.digest):
        trust.check_extracted(image, known.digest)
        return _ready(image, known, cache)
    with cache.unpacking() as temporary:
        unpacked = unpack.unpack(
            file.path,
            temporary,
            name=file.name,
            subject=image.name,
            reporter=reporter,
            expected_size=image.extract_size,
        )
        trust.check_extracted(image, unpacked.digest)
        _log.info("%s: unpacked, %d bytes, sha256 %s", image.name, unpacked.size, unpacked.digest)
        temporary.chmod(0o444)
        record = Record(
            digest=unpacked.digest,
            size=unpacked.size,
            fetched=file.digest,
            fetched_size=file.path.stat().st_size,
            name=image.name,
            source=image.source,
            date=image.date.isoformat() if image.date else "",
            trust=image.trust,
            signer=signer,
            modified=temporary.stat().st_mtime_ns,
        )
        return _ready(image, cache.keep(temporary, record), cache)
