"""The base image of each node of a build: dressed where the node has packages or build scripts."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import request_of
from imagebuilder.dressing.store import Dressed, Store
from imagebuilder.errors import PiimgError
from imagebuilder.events import Event, Message, Reporter, Silent
from imagebuilder.image.base.network import Interfaces
from imagebuilder.image.base.opening import Base, open_base
from imagebuilder.model import NodePlan


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
    bases: dict[str, Base] = {}
    by_node: dict[str, Base] = {}
    numbers: dict[str, tuple[str, int]] = {}
    with contextlib.ExitStack() as stack:
        for plan in plans:
            request = request_of(plan)
            if not request:
                by_node[plan.node.name] = base
                continue
            key = request.key(base.digest)
            if key not in bases:
                result = dressed(base, request, cache, reporter, stop, refresh=refresh)
                stack.enter_context(Store(cache).using(key, reporter))
                bases[key] = _opened(base, Store(cache), key, result.record, interfaces, reporter)
                _compare_numbers(plan.node.name, result.record, numbers)
            by_node[plan.node.name] = bases[key]
        yield by_node


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
