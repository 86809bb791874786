"""State of systemd units in a base image, read from its files without running systemd."""

import posixpath

from imagebuilder.image.base.reader import BaseReader

_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")


def absent(reader: BaseReader, unit: str, program: str = "") -> str:
    """The reason why ``unit`` cannot run: it is masked, or it or its ``program`` is missing; empty if it can.

    A unit is masked by a link to /dev/null or an empty file (systemctl(1), mask).
    """
    paths = [f"{folder}/{unit}" for folder in _FOLDERS]
    reader.learn(paths)
    for path in paths:
        if reader.stat(path) is None:
            continue
        resolved = reader.resolve(path)
        status = resolved[1] if resolved else None
        if _leads_to_null(reader, path) or (status and status.kind == "regular" and status.size == 0):
            return f"{unit} is masked"
        if status is not None and status.kind == "regular":
            break
    else:
        return f"{unit} is missing"
    if program and reader.resolve(program) is None:
        return f"{program} is missing"
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
    """Whether another unit wants or requires one of ``units``, by links in /etc/systemd/system."""
    top = _FOLDERS[0]
    folders = [f"{top}/{name}" for name in reader.names(top) if name.endswith((".wants", ".requires"))]
    reader.learn(folders)
    reader.learn_names(folders)
    return any(set(units) & set(reader.names(folder)) for folder in folders)
