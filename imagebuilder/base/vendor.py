"""Raspberry Pi's catalogue of images, os_list_imagingutility_v4.json: find an entry by its name.

Its format is that of rpi-imager (doc/json-schema in github.com/raspberrypi/rpi-imager): ``os_list`` is a list
of entries. An entry has ``subitems``, or a ``subitems_url`` with more of them, or it is a leaf with ``url``.
"""

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urljoin, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imagebuilder.base import catalogue, download
from imagebuilder.base.catalogue import BaseImage, Trust
from imagebuilder.base.request import Patience
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.reading import read_regular
from imagebuilder.text import printable

OFFICIAL = "https://downloads.raspberrypi.com/os_list_imagingutility_v4.json"
"""The URL of the catalogue."""

_MAX_SIZE = 16 << 20  # bytes of one document
_MAX_DEPTH = 8  # of entries in entries
_MAX_DOCUMENTS = 50
_NO_CATALOGUE = "this is no list of Raspberry Pi images: check its URL"

INIT_FORMATS = ("", "none", "systemd", "cloudinit", "cloudinit-rpi", "rpi-preseed")
"""The known values of ``init_format`` (doc/json-schema/os-list-schema.json of rpi-imager): not stated, no
program, firstrun.sh, cloud-init, Raspberry Pi's cloud-init, rpi-preseed."""

Read = Callable[[str], bytes]
"""Returns the content of a URL."""


class _Leaf(BaseModel):
    """An entry that can be downloaded; keys that piimg does not use are ignored."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    name: str
    url: catalogue.HttpUrl
    release_date: datetime.date | None = None
    extract_size: Annotated[int, Field(gt=0)] | None = None
    extract_sha256: catalogue.Sha256 | None = None
    image_download_size: Annotated[int, Field(gt=0)] | None = None
    image_download_sha256: catalogue.Sha256 | None = None
    init_format: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""


def find(name: str, location: str, patience: Patience | None = None) -> BaseImage:
    """The entry called ``name`` in the catalogue at ``location`` (URL or file). Raises PiimgError."""

    def read(url: str) -> bytes:
        return download.read_small(url, _MAX_SIZE, patience=patience)[0]

    if "://" not in location:
        content = _read_file(Path(location))
        return entry(content, name, location, read)
    return entry(read(location), name, location, read)


def unknown(image: BaseImage) -> str:
    """A warning about an ``init_format`` that piimg does not know, in one line; empty when it is known."""
    if image.init_format in INIT_FORMATS:
        return ""
    init_format = printable(image.init_format, 40)
    return (
        f"piimg does not know the program that sets this image up on its first boot, {init_format!r} "
        "(init_format in the catalogue): it may change the account or the network that the manifest sets; "
        "try the image with `piimg boot`, and on one card"
    )


def _read_file(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_SIZE)
    except OSError as error:
        raise UsageError(
            f"cannot read the catalogue {path}: {error.strerror}", "check the path and its permissions"
        ) from error


def entry(content: bytes, name: str, location: str, read: Read) -> BaseImage:
    """The entry called ``name`` in the catalogue ``content``; ``read`` reads each ``subitems_url``.

    Raises PiimgError when the document is not a catalogue, UsageError unless exactly one entry has the name.
    """
    entries: dict[str, object] = {}
    names: set[str] = set()
    for leaf in leaves(content, location, read):
        names.add(printable(str(leaf["name"])))
        if leaf["name"] == name:
            entries[str(leaf["url"])] = leaf
    if not entries:
        close = ", ".join(sorted(names)[:20])
        raise UsageError(f"the catalogue has no entry called {name!r}", f"it has: {close}" if close else "")
    if len(entries) > 1:
        listed = "\n".join(catalogue.shown(url) for url in entries)
        raise UsageError(
            f"the catalogue has {len(entries)} entries called {name!r}", f"give the URL of one:\n{listed}"
        )
    return _base_image(next(iter(entries.values())), location)


def leaves(content: bytes, location: str, read: Read) -> Iterator[dict[str, object]]:
    """Every entry with a name and a url (both strings), in order."""
    documents = 1
    pending: list[tuple[object, int, str]] = [(_entries(content, location, "os_list"), 0, location)]
    while pending:
        items, depth, where = pending.pop()
        if depth > _MAX_DEPTH:
            raise PiimgError(
                f"the catalogue {_spelled(where)} nests more than {_MAX_DEPTH} deep: refused", _NO_CATALOGUE
            )
        for item in items if isinstance(items, list) else ():
            if not isinstance(item, dict):
                continue
            if isinstance(item.get("name"), str) and isinstance(item.get("url"), str):
                yield item
            elif isinstance(more := item.get("subitems_url"), str):
                documents += 1
                if documents > _MAX_DOCUMENTS:
                    raise PiimgError(
                        f"the catalogue has more than {_MAX_DOCUMENTS} parts: refused", _NO_CATALOGUE
                    )
                part = urljoin(where, more)
                pending.append((_entries(read(part), part, "os_list"), depth + 1, part))
            else:
                pending.append((item.get("subitems"), depth + 1, where))


def _entries(content: bytes, where: str, key: str) -> object:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PiimgError(
            f"{_spelled(where)} is not a catalogue: not JSON", f"the official one: {OFFICIAL}"
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get(key), list):
        raise PiimgError(
            f"{_spelled(where)} is not a catalogue: it has no {key}", f"the official one: {OFFICIAL}"
        )
    return document[key]


def _spelled(where: str) -> str:
    return catalogue.shown(where) if "://" in where else where


def _base_image(item: object, location: str) -> BaseImage:
    try:
        leaf = _Leaf.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(word) for word in first["loc"])
        raise PiimgError(
            f"the catalogue's entry is not usable: {place}: {first['msg']}",
            "report this to the publisher of the catalogue",
        ) from error
    file_name = unquote(Path(urlsplit(leaf.url).path).name)
    image = BaseImage(
        name=printable(leaf.name),
        url=leaf.url,
        date=leaf.release_date,
        sha256=leaf.image_download_sha256 or "",
        extract_sha256=leaf.extract_sha256 or "",
        extract_size=leaf.extract_size,
        download_size=leaf.image_download_size,
        signature=catalogue.vendor_signature(leaf.url),
        trust=_trust(leaf, location),
        init_format=leaf.init_format,
    )
    return catalogue.describe(image, file_name)


def _trust(leaf: _Leaf, location: str) -> Trust:
    if not (leaf.image_download_sha256 or leaf.extract_sha256):
        return Trust.NONE
    return Trust.UNPROVEN if location.startswith("http:") else Trust.CATALOGUE
