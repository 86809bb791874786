"""`piimg fetch`: put base images into the cache, list them, and free space."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from imagebuilder.base import catalogue, vendor
from imagebuilder.base.cache import Cache, Record, default_folder
from imagebuilder.base.cached import Fetched
from imagebuilder.base.catalogue import BaseImage
from imagebuilder.base.fetch import fetch as fetch_base
from imagebuilder.base.notes import forget, needed_bases, prepared_folders
from imagebuilder.boot.kernel import current
from imagebuilder.cli.format import size
from imagebuilder.cli.output import echo, echo_json
from imagebuilder.cli.session import Session
from imagebuilder.dressing.store import Store
from imagebuilder.errors import UsageError
from imagebuilder.image.prepared import bases_of, downloads_of
from imagebuilder.text import printable


def fetch(
    session: Session,
    what: str | None,
    listing: bool,
    prune: bool,
    everything: bool,
    sha256: str,
    insecure: bool,
    vendor_catalogue: str,
    as_json: bool,
) -> None:
    """Run ``piimg fetch``, called as ``usage/fetch.py`` says."""
    cache = Cache(default_folder())
    if everything and not prune:
        raise UsageError("--all goes with --prune", "to free all that is cached: piimg fetch --prune --all")
    if (listing or prune) and what is not None:
        raise UsageError("--list and --prune take no image", "omit it")
    if listing:
        _list(session, cache, as_json)
    elif prune:
        _prune(session, cache, everything, as_json)
    else:
        fetched = fetch_base(
            _wanted(session, what, vendor_catalogue),
            catalogues=session.catalogues,
            cache=cache,
            reporter=session.reporter,
            folder=session.workspace.folder if session.has_manifest else None,
            sha256=sha256,
            insecure=insecure,
            vendor_catalogue=vendor.OFFICIAL if vendor_catalogue == "official" else vendor_catalogue,
        )
        _print_fetched(fetched, as_json)


def _wanted(session: Session, what: str | None, vendor_catalogue: str) -> str:
    if what is None:
        return session.cluster.base
    return what if vendor_catalogue else catalogue.from_here(what)


def _print_fetched(fetched: Fetched, as_json: bool) -> None:
    if as_json:
        echo_json({"name": fetched.base.name, "path": str(fetched.path), "sha256": fetched.digest})
    else:
        echo(str(fetched.path))


def _list(session: Session, cache: Cache, as_json: bool) -> None:
    images = catalogue.load(session.catalogues)
    records = cache.records()
    if as_json:
        echo_json(
            {
                "names": [_image_row(image, records) for image in images.values()],
                "aliases": {alias: image.name for alias, image in catalogue.aliases(images).items()},
                "cache": {"folder": str(cache.folder), "bytes": cache.used(), "bases": _rows(records, cache)},
            }
        )
        return
    width = max(len(name) for name in [*images, *(printable(record.name) for record in records), "NAME"])
    echo(f"{'NAME':<{width}}  {'DATE':<10}  {'DOWNLOAD':>8}  {'UNPACKED':>8}  CACHED")
    for image in images.values():
        echo(_line(image, records, width))
    pinned = {image.sha256 for image in images.values()}
    for record in records:
        if record.fetched not in pinned:
            echo(
                f"{printable(record.name):<{width}}  {printable(record.date):<10}"
                f"  {size(record.fetched_size):>8}  {size(record.size):>8}  yes, checksum: {record.trust}"
            )
    echo("\nA name without a date means the newest image of that name.")
    echo(f"{size(cache.used())} in {cache.folder}")


def _line(image: BaseImage, records: tuple[Record, ...], width: int) -> str:
    record = next((record for record in records if record.fetched == image.sha256), None)
    download = image.download_size or (record.fetched_size if record else None)
    unpacked = image.extract_size or (record.size if record else None)
    return (
        f"{image.name:<{width}}  {image.date or ''!s:<10}  {size(download) if download else '':>8}"
        f"  {size(unpacked) if unpacked else '':>8}  {'yes' if record else 'no'}"
    )


def _image_row(image: BaseImage, records: tuple[Record, ...]) -> dict[str, object]:
    return {
        "name": image.name,
        "url": image.source,
        "date": image.date.isoformat() if image.date else None,
        "release": image.release,
        "architecture": image.architecture or None,
        "sha256": image.sha256,
        "download_size": image.download_size,
        "extract_size": image.extract_size,
        "cached": any(record.fetched == image.sha256 for record in records),
    }


def _rows(records: tuple[Record, ...], cache: Cache) -> list[dict[str, object]]:
    return [dataclasses.asdict(record) | {"path": str(cache.path(record))} for record in records]


def _prune(session: Session, cache: Cache, everything: bool, as_json: bool) -> None:
    known = catalogue.load(session.catalogues).values()
    keep = set() if everything else {image.sha256 for image in known}
    with cache.held(session.reporter):
        dressed = Store(cache).bases()
        needs = [need.with_origins(dressed) for need in _needs(cache)]
        needed = frozenset[str]().union(*(need.bases for need in needs))
        names = {record.digest: record.name for record in cache.records()}
        downloads = frozenset[str]().union(*(need.files for need in needs))
        removed = Store(cache).prune(frozenset() if everything else needed | downloads)
        pruned = cache.prune(
            keep,
            () if everything else current(cache),
            needed=() if everything else needed,
            tests=everything,
        )
        pruned = dataclasses.replace(
            pruned, files=pruned.files + len(removed), freed=pruned.freed + sum(removed)
        )
    kept = [] if everything else [(names[base], need) for need in needs for base in need.bases & names.keys()]
    if as_json:
        echo_json(
            {
                "files": pruned.files,
                "bytes": pruned.freed,
                "kept": list(pruned.kept),
                "needed": [
                    {"base": base, "cluster": need.cluster, "folder": need.folder} for base, need in kept
                ],
            }
        )
        return
    for name in pruned.kept:
        echo(f"kept {printable(name)}: another piimg is using it")
    for base, need in kept:
        echo(f"kept {printable(base)}: {printable(need.text, None)}")
    echo(f"freed {size(pruned.freed)} ({pruned.files} files) in {cache.folder}")


@dataclasses.dataclass(frozen=True)
class _Need:
    """The base images and the downloads that the prepared nodes in ``folder`` need, by their sha256."""

    cluster: str
    folder: str
    nodes: int
    bases: frozenset[str]
    files: frozenset[str]

    def with_origins(self, dressed: Mapping[str, str]) -> "_Need":
        """The same, with the bases that dressed ones were made from, which ``dressed`` has by the dressed."""
        origins = (dressed[base] for base in self.bases if base in dressed)
        return dataclasses.replace(self, bases=self.bases.union(origins))

    @property
    def text(self) -> str:
        """Who needs the base images, in words."""
        prepared = f"{self.nodes} prepared nodes" if self.nodes != 1 else "1 prepared node"
        return f"{prepared if self.nodes else 'the prepared nodes'} of {self.cluster} in {self.folder}"


def _needs(cache: Cache) -> Iterator[_Need]:
    """The needs of all folders of prepared nodes; the notes of those without any are removed."""
    for file, note in prepared_folders(cache):
        files = frozenset[str]()
        try:
            found: dict[str, str] | None = bases_of(Path(note.folder))
            files = downloads_of(Path(note.folder))
        except PermissionError:
            found = None
        except OSError:
            found = {}
        if found == {}:
            forget(file)
        else:
            yield _Need(note.cluster, note.folder, len(found or ()), needed_bases(note, found), files)
