"""Base images that are in the cache already, without what a download needs: it takes long to load."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base import catalogue
from imagebuilder.base.cache import Cache, Record, sha256_of
from imagebuilder.base.catalogue import BaseImage
from imagebuilder.base.notes import known_sha256
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.reading import check_regular


@dataclass(frozen=True)
class Fetched:
    """A base image in the cache, ready for use: the path and the sha256 (hex) of the unpacked image."""

    path: Path
    base: BaseImage
    digest: str


def in_cache(
    what: str, *, catalogues: Sequence[Path], cache: Cache, folder: Path | None = None
) -> Fetched | None:
    """The base image ``what``, as for ``fetch``, if ``fetch`` would find it in the cache; else None.

    Nothing is downloaded, unpacked or written. A local file that was not hashed yet is read; a URL without a
    checksum is taken for what was downloaded from there last. Raises PiimgError.
    """
    image = looked_up(what, catalogues, folder)
    fetched, digest = image.sha256, "" if image.sha256 else image.extract_sha256
    if not (image.file or fetched or digest):
        fetched = next((record.fetched for record in cache.records() if record.source == image.source), "")
    if image.file:
        try:
            fetched = known_sha256(image.file, cache) or sha256_of(image.file)
        except OSError as error:
            raise unreadable(image.file, error) from error
        image = recognised(image, fetched, catalogues)
    record = cache.present(fetched=fetched, digest=digest) if fetched or digest else None
    return ready(image, record, cache) if record else None


def looked_up(what: str, catalogues: Sequence[Path], folder: Path | None) -> BaseImage:
    """The base image of a NAME, URL or FILE. Raises PiimgError, also when a FILE cannot be read."""
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


def recognised(image: BaseImage, digest: str, catalogues: Sequence[Path]) -> BaseImage:
    """``image``; or the pinned image that has the same sha256 as the local file, ``digest``."""
    for known in catalogue.load(catalogues).values() if digest else ():
        if digest == known.sha256:
            return dataclasses.replace(known, file=image.file, url="", signature="")
    return image


def unreadable(path: Path, error: OSError) -> PiimgError:
    """The error for a local file that cannot be read."""
    return PiimgError(f"cannot read {path}: {error.strerror}", "check its permissions, and the disk")


def ready(image: BaseImage, record: Record, cache: Cache) -> Fetched:
    """The base image with this ``record``."""
    return Fetched(cache.path(record), image, record.digest)
