"""An image file that the user names: opened as it is, or unpacked into the cache if it is compressed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.base.cached import Fetched
from imagebuilder.base.fetch import fetch, in_use
from imagebuilder.base.formats import compression_of
from imagebuilder.base.unpack import LARGEST
from imagebuilder.card.source import ImageSource, map_beside
from imagebuilder.cli.flashing import read_source
from imagebuilder.cli.session import Session
from imagebuilder.device import policy
from imagebuilder.errors import UsageError
from imagebuilder.image import bmap
from imagebuilder.reading import open_regular


@contextlib.contextmanager
def opened_image(session: Session, image: Path) -> Iterator[ImageSource]:
    """Open the image file ``image``; while the block runs, its copy in the cache is not pruned.

    Raises UsageError when it is no disk image or is cut short, PiimgError when it cannot be unpacked.
    """
    try:
        with open_regular(image) as stream:
            compression = compression_of(stream.read(16))
    except OSError as error:
        raise UsageError(f"{image}: {error.strerror}", "name an image file") from error
    if compression == ".img":
        yield read_source(session, image)
        return
    cache = Cache(default_folder())
    block_map = map_beside(image)
    # A backup of a large card may be longer than any base image; what is not in use takes no disk space.
    declared = min(bmap.read(block_map).image_size, policy.LARGEST) if block_map else 0

    def unpacked() -> Fetched:
        return fetch(
            str(image.absolute()),
            catalogues=session.catalogues,
            cache=cache,
            reporter=session.reporter,
            folder=session.workspace.folder if session.has_manifest else None,
            insecure=True,  # as any other image file, it needs no checksum
            largest=max(declared, LARGEST),
        )

    with in_use(unpacked, cache) as fetched:
        yield read_source(session, fetched.path, image)
