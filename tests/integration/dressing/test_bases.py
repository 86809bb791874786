"""Dressed bases in the cache: several runs use one at the same time, and none is made again."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.bases import bases_of, present_bases
from imagebuilder.dressing.request import request_of
from imagebuilder.dressing.store import Dressed, Store
from imagebuilder.events import Event, Message, Silent
from imagebuilder.image.base.opening import open_base
from imagebuilder.software import Software
from imagebuilder.system.files import copy_sparse
from tests.integration.dressing.test_downloads import plan_of


class Heard(list[Event]):
    """A Reporter that keeps the events."""

    emit = list.append


@pytest.mark.timeout(60)
def test_a_dressed_base_is_used_by_several_runs_at_once(
    tmp_path: Path, specimen: Callable[[str], Path]
) -> None:
    base = open_base(specimen("trixie"), "base", "0" * 64, Silent())
    plan = dataclasses.replace(plan_of(), software=Software({"tree": ("cluster",)}))
    cache, stop, heard = Cache(tmp_path / "cache"), threading.Event(), Heard()
    assert present_bases([plan], base, None, cache) == {} and not cache.folder.exists()
    store, key = Store(cache), request_of(plan).key(base.digest)
    with store.making(key, Silent(), stop):
        copy_sparse(base.file, store.image(key))
        state = store.image(key).stat()
        record = Dressed("d" * 64, state.st_size, state.st_mtime_ns, base.digest, ("tree",), (), (), {})
        store.keep(key, record)
    with (
        bases_of([plan], base, None, cache, heard, stop) as first,
        bases_of([plan], base, None, cache, heard, stop) as second,
    ):
        found = first[plan.node.name]
        assert (found.file, found.digest, found.made_from) == (store.image(key), "d" * 64, base.digest)
        assert second == first
        assert Store(cache).prune(frozenset()) == [], "it is in use"
    assert [event for event in heard if isinstance(event, Message)] == []
    assert present_bases([plan], base, None, cache) == first
    store.prune(frozenset())
    assert present_bases([plan], base, None, cache) == {}
