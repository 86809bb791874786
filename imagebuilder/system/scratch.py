"""A private folder for unfinished work, which `piimg cleanup` removes after a kill."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.system import journal
from imagebuilder.system.releasing import releasing

_PREFIX = ".piimg-"


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder (0700) in ``parent``, or in $TMPDIR; removed with its content at the end.

    Raises PiimgError when it cannot be created.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise PiimgError(
            f"cannot create a folder in {parent or tempfile.gettempdir()}: {error.strerror}",
            "check the permissions and the free space there",
        ) from error
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)  # if no note can be written
        info = folder.stat()
        facts = {"path": str(folder.resolve()), "device": info.st_dev, "inode": info.st_ino}
        hold = stack.enter_context(journal.hold("folder", **facts))
        # The note is kept until the folder is gone: to remove it takes a while, and may be killed.
        with releasing(lambda: hold.free(lambda: _remove(folder))):
            yield folder


def remove_left_over(parent: Path) -> None:
    """Remove the scratch folders in ``parent`` of runs that were killed.

    The caller knows that no run uses one. `piimg cleanup` does not know those of a container: its journal is
    gone. What another user left stays.
    """
    for folder in parent.glob(f"{_PREFIX}*/"):
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise PiimgError(f"cannot remove {folder}: {error.strerror}", "run piimg cleanup") from error


@contextlib.contextmanager
def unfinished_file(file: Path) -> Iterator[None]:
    """Note the unfinished ``file`` during the block, so that `piimg cleanup` removes it after a kill."""
    info = file.stat()
    with journal.hold("file", path=str(file.resolve()), device=info.st_dev, inode=info.st_ino):
        yield
