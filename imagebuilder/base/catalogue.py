"""The known base images: names pinned in images.toml, URLs and local files. No network is needed.

The spelling alone decides what a user's base image is:

* a URL: it contains ``://`` (http and https only);
* a local FILE: it starts with ``/``, ``./``, ``../`` or ``~``, or ends in .img, .wic, .xz, .gz, .zst or .zip;
* a NAME in images.toml: anything else. A dated name without its date is the newest one.
"""

import codecs
import dataclasses
import datetime
import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.model import Release
from imagebuilder.reading import read_regular
from imagebuilder.text import printable

IMAGE_SUFFIXES = (".img", ".wic")
"""How the file of a disk image may end; .wic is Yocto's."""

SUFFIXES = (*IMAGE_SUFFIXES, ".xz", ".gz", ".zst", ".zip")
"""How the name of a base image's file may end."""

_DATED = re.compile(r"(?P<stem>.+)-\d{4}-\d{2}-\d{2}")
_OFFICIAL_NAME = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})-raspios-(?P<release>[a-z]+)-(?P<architecture>arm64|armhf)\b"
)
_VENDOR_HOSTS = ("raspberrypi.com", "raspberrypi.org")
_MAX_CATALOGUE = 4 << 20  # bytes


class WrongContent(PiimgError):
    """A file has the wrong content; its download is removed, as it is of no use to a later run."""


class Trust(StrEnum):
    """Where the checksum of a base image comes from, best first."""

    PINNED = "pinned"  # images.toml or --sha256: not from the image's server
    CATALOGUE = "catalogue"  # Raspberry Pi's catalogue, over https or from a file
    UNPROVEN = "unproven"  # from the image's server: a .sha256 beside the file
    NONE = "none"  # --insecure-no-checksum


@dataclass(frozen=True)
class BaseImage:
    """One base image, and what is known about it before it is fetched.

    Either ``url`` or ``file`` is set. ``sha256`` and ``download_size`` (bytes) are of the file as it is
    downloaded, ``extract_…`` of the image inside. ``signature`` is the URL of the expected detached
    signature. ``signed_by`` are the fingerprints that may sign it; empty: see signature.acceptable.
    ``init_format`` of Raspberry Pi's catalogue is the program that reads the settings on the first boot.
    """

    name: str
    url: str = ""
    file: Path | None = None
    release: Release | None = None
    architecture: str = ""
    date: datetime.date | None = None
    sha256: str = ""
    extract_sha256: str = ""
    extract_size: int | None = None
    download_size: int | None = None
    signature: str = ""
    signed_by: tuple[str, ...] = ()
    trust: Trust = Trust.NONE
    init_format: str = ""

    @property
    def source(self) -> str:
        """The source to show: a URL without credentials and query, or a path."""
        return str(self.file) if self.file else shown(self.url)


def shown(url: str) -> str:
    """``url`` without user, password, query and fragment, which may contain secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    return printable(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")), 500)


def from_vendor(url: str) -> bool:
    """Whether ``url`` is on a server of Raspberry Pi, where every image is signed."""
    host = urlsplit(url).hostname or ""
    return any(host == vendor or host.endswith(f".{vendor}") for vendor in _VENDOR_HOSTS)


def _http_url(url: str) -> str:
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("a URL contains no blanks or control characters")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL")
    return url


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
_Fingerprint = Annotated[
    str, Field(pattern=r"^([0-9a-fA-F]{40}|[0-9a-fA-F]{64})$"), AfterValidator(str.upper)
]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]{0,99}$")]
_Bytes = Annotated[int, Field(gt=0, lt=1 << 50)]


class _Pin(BaseModel):
    """One table of an images.toml."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    url: HttpUrl
    sha256: Sha256
    date: datetime.date | None = None
    release: Annotated[Release, Field(strict=False)] | None = None
    architecture: Literal["arm64", "armhf"] | None = None
    download_size: _Bytes | None = None
    extract_size: _Bytes | None = None
    extract_sha256: Sha256 = ""
    signature: HttpUrl = ""
    signed_by: Annotated[tuple[_Fingerprint, ...], Field(strict=False)] = ()


_PINS = TypeAdapter(dict[_Name, _Pin], config=ConfigDict(defer_build=True))


def parse(text: str, where: str) -> dict[str, BaseImage]:
    """The base images of one images.toml. ``where`` names it in errors.

    Raises UsageError with every error of the file, each with its place.
    """
    try:
        pins = _PINS.validate_python(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: not TOML: {error}", "correct that line") from error
    except ValidationError as error:
        listed = [f"{where}: [{_place(e['loc'])}] {e['msg']}" for e in error.errors(include_url=False)]
        rest = "\n".join(listed[1:])
        raise UsageError(listed[0], rest or "docs/base-images.md lists the keys and their values") from error
    for name in pins:
        if name.endswith(SUFFIXES):
            raise UsageError(f"{where}: [{name}] looks like a file name", "leave out the ending")
    return {name: _pinned(name, pin) for name, pin in pins.items()}


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(word) for word in location if word != "[key]")


def _pinned(name: str, pin: _Pin) -> BaseImage:
    return BaseImage(
        name=name,
        url=pin.url,
        release=pin.release,
        architecture=pin.architecture or "",
        date=pin.date,
        sha256=pin.sha256,
        extract_sha256=pin.extract_sha256,
        extract_size=pin.extract_size,
        download_size=pin.download_size,
        signature=pin.signature or vendor_signature(pin.url),
        signed_by=pin.signed_by,
        trust=Trust.PINNED,
    )


def vendor_signature(url: str) -> str:
    """The URL of the signature beside an image of Raspberry Pi; empty for other servers."""
    return f"{url}.sig" if from_vendor(url) else ""


def load(catalogues: Sequence[Path]) -> dict[str, BaseImage]:
    """The named base images of all ``catalogues`` (images.toml files); a later file wins over an earlier."""
    images: dict[str, BaseImage] = {}
    for path in catalogues:
        try:
            text = read_regular(path, _MAX_CATALOGUE).decode()
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}", "check its owner and permissions"
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
        images |= parse(text, str(path))
    return images


def aliases(images: Mapping[str, BaseImage]) -> dict[str, BaseImage]:
    """The names without a date, each with the newest image of that name."""
    newest: dict[str, BaseImage] = {}
    for name in sorted(images):
        if match := _DATED.fullmatch(name):
            newest[match["stem"]] = images[name]
    return {stem: image for stem, image in newest.items() if stem not in images}


def lookup(what: str, catalogues: Sequence[Path], folder: Path | None = None) -> BaseImage:
    """What is known about the base image ``what`` (a NAME, URL or FILE), without network or image.

    A relative FILE starts at ``folder``. A URL or FILE has the release, architecture and date that its
    file's name states, and a pinned checksum if a name has that URL. Raises UsageError when it is none of
    the three.
    """
    if "://" in what:
        return _by_url(what, catalogues)
    if is_file(what):
        path = (folder or Path()) / _expanded(what)
        return describe(BaseImage(name=printable(path.name), file=path), path.name)
    images = load(catalogues)
    known = aliases(images) | images
    if what in known:
        return known[what]
    close = difflib.get_close_matches(what, known, n=3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    if os.path.isfile((folder or Path()) / what):  # noqa: PTH113 - False for a name that no file can have
        meant = f"for the file of this name, write ./{what}; else "
    raise UsageError(f"no base image is called {what!r}", f"{meant}see piimg fetch --list")


def is_file(what: str) -> bool:
    """Whether ``what`` is spelled like a local file."""
    return what.startswith(("/", "./", "../", "~")) or what.lower().endswith(SUFFIXES)


def from_here(what: str) -> str:
    """``what`` of a command line: a relative FILE is made absolute from the working folder."""
    if "://" in what or not is_file(what) or what.startswith("~"):
        return what
    return str(Path(what).absolute())


def _expanded(what: str) -> Path:
    if "\0" in what:
        raise UsageError(f"{what!r} is not a file name: it contains a zero byte", "name a file")
    try:
        return Path(what).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{what}: there is no such home folder", "give the whole path") from error


def _by_url(url: str, catalogues: Sequence[Path]) -> BaseImage:
    try:
        _http_url(url)
    except ValueError as error:
        raise UsageError(f"{shown(url)}: {error}", "use http:// or https://") from error
    for image in load(catalogues).values():
        if image.url == url:
            return image
    file_name = unquote(Path(urlsplit(url).path).name) or urlsplit(url).netloc
    name = printable(file_name)
    return describe(BaseImage(name=name, url=url, signature=vendor_signature(url)), file_name)


def describe(image: BaseImage, file_name: str) -> BaseImage:
    """``image`` with the date, release and architecture in a file name of Raspberry Pi."""
    match = _OFFICIAL_NAME.search(file_name)
    if match is None or match["release"] not in tuple(Release):
        return image
    try:
        date = datetime.date.fromisoformat(match["date"])
    except ValueError:
        return image
    return dataclasses.replace(
        image, date=date, release=Release(match["release"]), architecture=match["architecture"]
    )


def checked_sha256(text: str) -> str:
    """The sha256 ``text`` in lower case. Raises UsageError when it is not a sha256."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UsageError(f"{text!r} is not a sha256", "it has 64 hexadecimal digits")
    return text.lower()


# HEX, HEX  NAME, HEX *NAME (sha256sum(1), which puts a backslash before the line of an escaped name)
_SUM = re.compile(r"\\?(?P<sum>[0-9a-fA-F]{64})(?:\s+\*?(?P<name>.*))?")
# SHA256 (NAME) = HEX (sha256sum --tag, BSD), SHA256(NAME)= HEX and SHA2-256(NAME)= HEX (openssl dgst)
_TAGGED_SUM = re.compile(r"\\?SHA(?:2-)?256 ?\((?P<name>.*)\) ?= ?(?P<sum>[0-9a-fA-F]{64})")


def read_sidecar(content: bytes, file_name: str) -> str:
    """The sha256 of ``file_name`` in the text of a .sha256 file, as sha256sum, BSD or openssl write it.

    The line that names the file counts, with any folder before the name; else the only checksum, whatever its
    name: the files may have been renamed, and a wrong checksum never fits. Raises PiimgError when there is
    none, or when it is ambiguous.
    """
    sums: list[tuple[str, str]] = []
    for line in _sidecar_text(content).splitlines():
        if match := _TAGGED_SUM.fullmatch(line.strip()) or _SUM.fullmatch(line.strip()):
            sums.append((match["sum"].lower(), (match["name"] or "").strip()))
    named = {digest for digest, name in sums if name == file_name}
    named = named or {digest for digest, name in sums if re.split(r"[/\\]", name)[-1] == file_name}
    found = named or {digest for digest, _ in sums}
    if len(found) == 1:
        return found.pop()
    problem = "has several checksums for it" if named else "does not name it" if sums else "has no sha256"
    raise PiimgError(f"the .sha256 beside {file_name} {problem}", "give the checksum with --sha256 HEX")


def _sidecar_text(content: bytes) -> str:
    """The text of a small file that Windows may have written: UTF-8 or UTF-16, with a byte order mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "replace")
