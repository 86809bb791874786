"""A private folder for unfinished work, which `piimg cleanup` removes after a kill."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder (0700) in ``parent``, or in $TMPDIR; removed with its content at the end.

    Raises PiimgError when it cannot be created.
    """
    with contextlib.ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix=".piimg-", dir=parent)
        except OSError as error:
            raise PiimgError(
                f"cannot create a folder in {parent or tempfile.gettempdir()}: {error.strerror}",
                "check the permissions and the free space there",
            ) from error
        folder = Path(stack.enter_context(made))
        info = folder.stat()
        stack.enter_context(
            journal.hold("folder", path=str(folder.resolve()), device=info.st_dev, inode=info.st_ino)
        )
        yield folder


@contextlib.contextmanager
def unfinished_file(file: Path) -> Iterator[None]:
    """Note the unfinished ``file`` during the block, so that `piimg cleanup` removes it after a kill."""
    info = file.stat()
    with journal.hold("file", path=str(file.resolve()), device=info.st_dev, inode=info.st_ino):
        yield
