"""An image file that the user names: opened as it is, or unpacked into the cache if it is compressed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.base.cache import Cache, default_folder
from imagebuilder.base.fetch import fetch, in_use
from imagebuilder.base.formats import compression_of
from imagebuilder.base.present import Fetched
from imagebuilder.card.source import ImageSource
from imagebuilder.cli.flashing import read_source
from imagebuilder.cli.session import Session
from imagebuilder.errors import UsageError
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

    def unpacked() -> Fetched:
        return fetch(
            str(image.absolute()),
            catalogues=session.catalogues,
            cache=cache,
            reporter=session.reporter,
            folder=session.workspace.folder if session.has_manifest else None,
            insecure=True,  # as any other image file, it needs no checksum
        )

    with in_use(unpacked, cache) as fetched:
        yield read_source(session, fetched.path, image)
