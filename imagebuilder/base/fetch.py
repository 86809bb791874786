"""Bring a base image (a NAME, URL or FILE) into the cache: download, check, unpack."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagebuilder.base import download, signature, trust, unpack, vendor
from imagebuilder.base.cache import Cache, Record
from imagebuilder.base.cached import Fetched, looked_up, ready, recognised, unreadable
from imagebuilder.base.catalogue import BaseImage, Trust, WrongContent
from imagebuilder.base.notes import sha256_of_file
from imagebuilder.base.request import Patience
from imagebuilder.errors import PiimgError
from imagebuilder.events import Message, Reporter

_log = logging.getLogger(__name__)

_TRIES = 3


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
    largest: int | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Bring the base image ``what`` (a NAME, URL or FILE) into the cache, verified, unless it is there.

    ``folder`` is the cluster folder: relative files and the user's keys/ start there. ``sha256`` pins the
    file as fetched; ``insecure`` accepts a file without a checksum. With ``vendor_catalogue`` (URL or file
    of Raspberry Pi's os_list) ``what`` is the name of an entry in it. ``largest`` is the most that it may
    unpack to, in bytes, if that is known. Raises PiimgError; the cache then
    contains nothing wrong, and a later call resumes.
    """
    if vendor_catalogue:
        image = vendor.find(what, vendor_catalogue, patience)
    else:
        image = looked_up(what, catalogues, folder)
    if warning := vendor.unknown(image):
        reporter.emit(Message("warning", warning, image.name))
    file_digest = _sum(image.file, cache) if image.file else ""
    image = trust.pinned(recognised(image, file_digest, catalogues), sha256)
    if found := _cached(image, cache):
        _log.info("%s: in the cache, sha256 %s", image.name, found.digest)
        return found
    image = trust.with_checksum(image, reporter, insecure=insecure, patience=patience)
    with cache.held(reporter):
        if found := _cached(image, cache):  # another run may have fetched it while this one waited
            return found
        with _obtained(image, file_digest, cache, reporter, patience) as file:
            trust.check_sum(image, file.digest)
            _log.info("%s: fetched, sha256 %s, checksum %s", image.name, file.digest, image.trust)
            keys = signature.key_files(folder)
            signer = trust.check_signature(
                image, file.path, keys, reporter, insecure=insecure, patience=patience
            )
            _log.info("%s: signature %s", image.name, f"by {signer}" if signer else "none")
            return _unpacked(image, file, signer, cache, reporter, largest)


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


def _sum(path: Path, cache: Cache) -> str:
    try:
        return sha256_of_file(path, cache)
    except OSError as error:
        raise unreadable(path, error) from error


def _cached(image: BaseImage, cache: Cache) -> Fetched | None:
    """The base in the cache with the known checksum; None for a local file, which is always read."""
    record = None
    if image.file:
        return None
    if image.sha256:
        record = cache.find(fetched=image.sha256)
    elif image.extract_sha256:
        record = cache.find(digest=image.extract_sha256)
    return ready(image, record, cache) if record else None


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


def _unpacked(
    image: BaseImage, file: _Obtained, signer: str, cache: Cache, reporter: Reporter, largest: int | None
) -> Fetched:
    """Unpack the verified file into the cache, unless its content is there already."""
    if known := cache.find(fetched=file.digest):
        trust.check_extracted(image, known.digest)
        return ready(image, known, cache)
    with cache.unpacking() as temporary:
        unpacked = unpack.unpack(
            file.path,
            temporary,
            name=file.name,
            subject=image.name,
            reporter=reporter,
            expected_size=image.extract_size,
            largest=largest,
        )
        trust.check_extracted(image, unpacked.digest)
        _log.info("%s: unpacked, %d bytes, sha256 %s", image.name, unpacked.size, unpacked.digest)
        # As private as the file it comes from: a backup of a card contains keys.
        temporary.chmod(0o444 & file.path.stat().st_mode if image.file else 0o444)
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
        return ready(image, cache.keep(temporary, record), cache)
