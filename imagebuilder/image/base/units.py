"""Units of systemd in a base image, as they stand there: nothing of the image is run."""

import posixpath

from imagebuilder.image.base.reader import BaseReader

_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")


def absent(reader: BaseReader, unit: str, program: str = "") -> str:
    """Why ``unit`` cannot run: it is masked or not there, or its ``program`` is not; empty if it can.

    A unit is masked by a link to /dev/null or an empty file (systemctl(1), mask).
    """
    paths = [f"{folder}/{unit}" for folder in _FOLDERS]
    reader.learn(paths)
    for path in paths:
        if reader.stat(path) is None:
            continue
        led = reader.resolve(path)
        if _leads_to_null(reader, path) or (led and led[1].kind == "regular" and led[1].size == 0):
            return f"{unit} is masked"
        if led is not None and led[1].kind == "regular":
            break
    else:
        return f"there is no {unit}"
    if program and reader.resolve(program) is None:
        return f"there is no {program}"
    return ""


def _leads_to_null(reader: BaseReader, path: str) -> bool:
    for _ in range(8):
        target = reader.target(path)
        if posixpath.normpath(target) == "/dev/null":
            return True
        if not target:
            return False
        path = target
    return False


def enabled(reader: BaseReader, *units: str) -> bool:
    """Whether one of ``units`` is wanted or required by another, in /etc/systemd/system."""
    top = _FOLDERS[0]
    folders = [f"{top}/{name}" for name in reader.names(top) if name.endswith((".wants", ".requires"))]
    reader.learn(folders)
    reader.learn_names(folders)
    return any(set(units) & set(reader.names(folder)) for folder in folders)
