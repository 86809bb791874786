"""Make a dressed base: a copy of the base image with packages installed and build scripts run."""

import base64
import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.cache import Cache, sha256_of
from imagebuilder.base.space import check_room, writing
from imagebuilder.dressing import apt, namespace
from imagebuilder.dressing.apt import Resolution
from imagebuilder.dressing.archives import make_plain
from imagebuilder.dressing.inside import IN_LOG
from imagebuilder.dressing.request import Request
from imagebuilder.dressing.store import Dressed, Store
from imagebuilder.errors import Interrupted, PiimgError
from imagebuilder.events import Message, Reporter
from imagebuilder.image import ext4
from imagebuilder.image.base.opening import Base
from imagebuilder.image.grow import grow, recount, space_in
from imagebuilder.image.partitions import Slice
from imagebuilder.progress import task
from imagebuilder.software import Installed
from imagebuilder.system import files, journal, loop
from imagebuilder.system.process import ToolError
from imagebuilder.text import printable

_log = logging.getLogger(__name__)

_FREE = 64 << 20  # bytes that stay free in the root partition, in addition to what packages take
_FREE_FOR_SCRIPTS = 1 << 30  # bytes that build scripts find free
_BYTES_PER_FILE = 4096  # of packages, for the number of inodes; Debian's mean is about 20 KiB


@dataclass(frozen=True)
class Result:
    """A dressed base in the cache: its image, its record, and where its index and log are."""

    path: Path
    key: str
    record: Dressed
    index: Path
    log: Path


def dressed(
    base: Base,
    request: Request,
    cache: Cache,
    reporter: Reporter,
    stop: threading.Event,
    *,
    refresh: bool = False,
) -> Result:
    """The dressed base for ``request``, from the cache, or made now: always with ``refresh``.

    It never changes ``base``.

    ``stop`` raises Interrupted. Raises PiimgError when a package does not exist or cannot be installed, a
    mirror is down, a script fails, or this machine cannot run the image's programs; the cache then has no
    part of a dressed base.
    """
    store, key = Store(cache), request.key(base.digest)
    with store.making(key, reporter, stop):
        record = store.find(key)
        if record is None or refresh:
            if record is None:
                store.clear(key)  # otherwise the older one stays until the new one takes its name
            with task(reporter, "dress", base.name):
                record = _make(base, request, store, key, reporter, stop)
        else:
            _log.info("%s: dressed base %s is in the cache", base.name, key)
    return Result(store.image(key), key, record, store.index(key), store.log(key))


def _make(
    base: Base, request: Request, store: Store, key: str, reporter: Reporter, stop: threading.Event
) -> Dressed:
    begun = time.monotonic()
    reporter.emit(Message("info", f"{base.name}: installing {request.summary}, once for all nodes with them"))
    resolution = None
    if request.packages:
        with task(reporter, "packages", base.name):
            resolution = apt.resolve(base, request.packages, store, reporter, stop)
        for package in resolution.removed:
            text = f"{base.name}: the packages take the place of {package.name}, which is removed"
            reporter.emit(Message("warning", text))
    _check_stop(stop)
    image = store.image(key)
    with writing(f"dress {base.name}"):
        check_room(store.folder, _disk_needed(base, resolution), f"dress {base.name}")
        with files.replacing(image) as work, _journaled(work):
            root = _copy(base, work, resolution, bool(request.scripts))
            _check_stop(stop)
            with _unpacked(resolution, store, key, stop) as archives:
                result = _change(
                    base, request, resolution, archives, work, root, store.log(key), reporter, stop
                )
            _check_file_system(work, root, base.name)
            _check_stop(stop)
            record = _record(base, request, work, result)
            work.chmod(0o444)
    store.keep(key, record)
    for path in result["shared"]:
        text = (
            f"{base.name}: {printable(path)} was made by a package: all nodes with it share this private key"
        )
        reporter.emit(Message("warning", text))
    _log.info("%s: dressed as %s in %.1f s", base.name, key, time.monotonic() - begun)
    return record


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("dressing the base image was stopped", "no partial result was left")


@contextlib.contextmanager
def _journaled(work: Path) -> Iterator[None]:
    """Record the unfinished image in the journal, so that `piimg cleanup` removes it after a kill."""
    info = work.stat()
    with journal.hold("file", path=str(work.resolve()), device=info.st_dev, inode=info.st_ino):
        yield


@contextlib.contextmanager
def _unpacked(resolution: Resolution | None, store: Store, key: str, stop: threading.Event) -> Iterator[Path]:
    """A folder with the package files, uncompressed, while the block runs."""
    with journal.folder_for_a_while(store.folder, f".{key}.") as folder:
        for package in resolution.unpacked if resolution else ():
            _check_stop(stop)
            make_plain(store.archives / package.archive, folder / package.archive)
        yield folder


def _disk_needed(base: Base, resolution: Resolution | None) -> int:
    return base.file.stat().st_blocks * 512 + (resolution.size * 2 if resolution else 0)


def _copy(base: Base, work: Path, resolution: Resolution | None, scripts: bool) -> Slice:
    """Copy the base image to ``work``, with space for what is installed; returns the root partition."""
    files.copy_sparse(base.file, work)
    if base.recount:
        recount(work, base.root)
    space = space_in(work, base.root) if base.recount else base.space
    size = resolution.size * 6 // 5 if resolution else 0
    wanted = size + (_FREE_FOR_SCRIPTS if scripts else _FREE)
    return grow(work, base.root, space, wanted, size // _BYTES_PER_FILE)


def _change(
    base: Base,
    request: Request,
    resolution: Resolution | None,
    archives: Path,
    work: Path,
    root: Slice,
    log: Path,
    reporter: Reporter,
    stop: threading.Event,
) -> Mapping[str, list[str]]:
    """Run the program that changes the image; its result. The log is kept also when it fails."""
    log.unlink(missing_ok=True)
    steps = resolution.steps if resolution else ()
    with contextlib.ExitStack() as stack:
        device = None
        if os.geteuid() == 0:
            device = stack.enter_context(
                loop.attached(work, offset=root.start, size=root.size, autoclear=True)
            )
        order = {
            "device": str(device) if device else "",
            "image": str(work),
            "offset": root.start,
            "folder": str(journal.folder()),
            "archives": str(archives),
            "log": str(log),
            "architecture": base.info.architecture,
            "release": base.info.release.value,
            "epoch": base.date,
            "steps": [
                (
                    step.action,
                    [
                        package.archive if step.action == "unpack" else package.name
                        for package in step.packages
                    ],
                )
                for step in steps
            ],
            "automatic": [
                (one.name.partition(":")[0], one.version, one.architecture)
                for one in (resolution.automatic if resolution else ())
            ],
            "scripts": [
                {
                    "name": script.name,
                    "source": script.source,
                    "content": base64.b64encode(script.content).decode(),
                    "internet": script.internet,
                    "timeout": script.timeout,
                }
                for script in request.scripts
            ],
        }
        steps_seen = stack.enter_context(contextlib.ExitStack())

        def on_event(event: namespace.Event) -> None:
            if "begun" in event:
                steps_seen.close()
                steps_seen.enter_context(task(reporter, printable(str(event["begun"])), base.name))

        try:
            return namespace.run_inside(order, on_event, stop)
        except Interrupted:
            raise
        except PiimgError as error:
            if log.exists():
                error.hint = error.hint.replace(IN_LOG, f"see {log}")
            raise


def _check_file_system(work: Path, root: Slice, name: str) -> None:
    try:
        ext4.check(work, root.start)
    except ToolError as error:
        raise PiimgError(
            f"the root file system of {name} is damaged after packages were installed",
            "check this machine's disk and memory, and free space",
        ) from error


def _record(base: Base, request: Request, work: Path, result: Mapping[str, object]) -> Dressed:
    files.sync_file(work)
    state = work.stat()
    packages = tuple(Installed(*one) for one in result["packages"])  # type: ignore[attr-defined]
    return Dressed(
        digest=sha256_of(work),
        size=state.st_size,
        modified=state.st_mtime_ns,
        base=base.digest,
        requested=request.packages,
        scripts=tuple(hashlib.sha256(script.content).hexdigest() for script in request.scripts),
        packages=packages,
        accounts=result["accounts"],  # type: ignore[arg-type]
    )
