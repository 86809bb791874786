"""The base image of each node of a build: dressed where the node has packages or build scripts."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.apt import read_status
from imagebuilder.dressing.debian import installed
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import request_of
from imagebuilder.dressing.store import Dressed, Store
from imagebuilder.errors import PiimgError
from imagebuilder.events import Event, Message, Reporter, Silent
from imagebuilder.image.base.network import Interfaces
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.model import NodePlan
from imagebuilder.software import Installed

_TRIES = 3


@dataclasses.dataclass(frozen=True)
class _Once:
    """A Reporter that leaves out the warnings that were reported for the base image already."""

    reporter: Reporter
    known: frozenset[str]

    def emit(self, event: Event) -> None:
        if not (isinstance(event, Message) and event.data.get("finding") in self.known):
            self.reporter.emit(event)


@contextlib.contextmanager
def bases_of(
    plans: Sequence[NodePlan],
    base: Base,
    interfaces: Interfaces,
    cache: Cache,
    reporter: Reporter,
    stop: threading.Event,
    *,
    refresh: bool = False,
) -> Iterator[Mapping[str, Base]]:
    """The base image of each node of ``plans``, by the node's name; nodes with the same request share one.

    With ``refresh`` dressed bases are made anew.
    ``interfaces`` are those that the manifest sets up. Dressed bases stay in the cache while the block runs.
    ``stop`` raises Interrupted. Raises PiimgError.
    """
    requests = {plan.node.name: request for plan in plans if (request := request_of(plan))}
    keys = {node: request.key(base.digest) for node, request in requests.items()}
    records: dict[str, Dressed] = {}
    numbers: dict[str, tuple[str, int]] = {}
    with contextlib.ExitStack() as stack:
        # In the same order by each run: two runs never wait for each other.
        for key, request in sorted({keys[node]: request for node, request in requests.items()}.items()):
            make = partial(dressed, base, request, cache, reporter, stop)
            records[key] = stack.enter_context(_held(Store(cache), key, make, reporter, stop, refresh))
        bases = {
            key: _opened(base, Store(cache), key, record, interfaces, reporter)
            for key, record in records.items()
        }
        for node, key in keys.items():
            _compare_numbers(node, records[key], numbers)
        yield {
            plan.node.name: bases[keys[plan.node.name]] if plan.node.name in keys else base for plan in plans
        }


@contextlib.contextmanager
def _held(
    store: Store,
    key: str,
    make: Callable[..., object],
    reporter: Reporter,
    stop: threading.Event,
    refresh: bool,
) -> Iterator[Dressed]:
    """The dressed base ``key``, locked against pruning while the block runs; made if it is missing.

    Several runs can use it at the same time.
    """
    for _ in range(_TRIES):
        if refresh:
            make(refresh=True)
            refresh = False
        with store.using(key, reporter, stop):
            if record := store.find(key):
                yield record
                return
        make()
    raise PiimgError(f"the cache was pruned {_TRIES} times meanwhile", "wait until no other piimg prunes it")


def present_bases(
    plans: Sequence[NodePlan], base: Base, interfaces: Interfaces, cache: Cache
) -> dict[str, Base]:
    """The base image of each node of ``plans``, by the node's name, as far as it is in the cache.

    Nothing is installed or written. Raises PiimgError.
    """
    store, bases = Store(cache), dict[str, Base | None]()
    by_node: dict[str, Base] = {}
    for plan in plans:
        request = request_of(plan)
        key = request.key(base.digest) if request else ""
        if key not in bases:
            record = store.find(key) if key else None
            dressed_base = _opened(base, store, key, record, interfaces, Silent()) if record else None
            bases[key] = dressed_base if key else base
        if found := bases[key]:
            by_node[plan.node.name] = found
    return by_node


def packages_in(node: Mapping[str, Any], cache: Cache) -> tuple[Installed, ...]:
    """All packages of a node, by its NODE.json, or by its base image in ``cache`` if that was not dressed.

    Raises PiimgError if the base image is not there.
    """
    if node["packages"]:
        return tuple(Installed(one["name"], one["version"], one["architecture"]) for one in node["packages"])
    name, digest = node["base"]["name"], node["base"]["sha256"]
    record = cache.find(digest=digest)
    if record is None:
        raise PiimgError(f"{name} is not in the cache any more", f"run: piimg build --node {node['node']}")
    return installed(read_status(open_base(cache.path(record), name, digest, Silent())))


def _opened(
    base: Base, store: Store, key: str, record: Dressed, interfaces: Interfaces, reporter: Reporter
) -> Base:
    """The dressed base ``key`` that was made from ``base``."""
    known = _Once(reporter, frozenset(finding.name for finding in base.findings))
    opened = open_base(store.image(key), base.name, record.digest, known, interfaces, store.index(key))
    return dataclasses.replace(
        opened,
        date=base.date,
        made_from=base.digest,
        packages=record.packages,
        accounts=record.accounts,
    )


def _compare_numbers(node: str, record: Dressed, numbers: dict[str, tuple[str, int]]) -> None:
    """Raise PiimgError if an account has another number on an earlier node: NFS shares numbers."""
    for name, number in record.accounts.items():
        first, known = numbers.setdefault(name, (node, number))
        if known != number:
            raise PiimgError(
                f"the account {name} would have the number {known} on {first} and {number} on {node}",
                "name the packages that need it under [cluster], so that all nodes have the same accounts",
            )
