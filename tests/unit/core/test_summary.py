"""What a cluster's nodes have in common, and what only some of them have."""

import dataclasses
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder import manifest
from imagebuilder.model import Entry, Kind, NodePlan, Partition, Release
from imagebuilder.summary import descriptions, scripts_of, summary
from tests.support.checkout import TOP

CLUSTER = manifest.load(TOP / "manifests/picluster.toml")
FIRSTBOOT = "/usr/local/lib/piimg/firstboot.d"


def entry(path: str, layer: str = "base", **more: object) -> Entry:
    return dataclasses.replace(Entry(Partition.ROOT, path, Kind.FILE, layer), **more)  # type: ignore[arg-type]


def plans(*entries: Sequence[Entry], layers: Sequence[Sequence[str]] = ()) -> list[NodePlan]:
    """The plans of the first nodes, with these entries."""
    named = [*layers, *[("base",)] * len(entries)]
    return [
        NodePlan(node, Release.TRIXIE, tuple(its), tuple(own), {"base": "all"}, secrets=("token",))
        for node, own, its in zip(CLUSTER.nodes, entries, named, strict=False)
    ]


def test_groups() -> None:
    made = plans(
        [entry("/a"), entry("/b", content=b"1"), entry("/m")],
        [entry("/a", source="x"), entry("/b", content=b"2"), entry("/w"), entry("/v", mode=0o600)],
        [entry("/a", "other"), entry("/b", content=b"1"), entry("/w"), entry("/v")],
        layers=[("base", "m"), ("base", "w"), ("base", "w")],
    )
    found = summary(CLUSTER, made)
    assert (found.layers, found.secrets, found.scripts) == (("base",), ("token",), ())
    assert [row.layers for row in found.rows] == [("m",), ("w",), ("w",)]
    assert [path for _, path in found.common.places] == ["/a", "/b"]
    assert [path for _, path in found.common.varying] == ["/b"]
    assert [(group.nodes, [path for _, path in group.places]) for group in found.own] == [
        (("master",), ["/m"]),
        (("worker1", "worker2"), ["/v", "/w"]),
    ]
    assert [path for _, path in found.own[1].varying] == ["/v"]
    assert descriptions(made) == {"base": "all"}


def test_one_node_has_nothing_in_common() -> None:
    (plan,) = plans([entry(f"{FIRSTBOOT}/10-x"), entry(f"{FIRSTBOOT}/05-y"), entry("/a")])
    found = summary(CLUSTER, [plan])
    assert (found.layers, found.common.entries) == ((), ())
    assert found.rows[0].layers == ("base",) and found.rows[0].scripts == scripts_of(plan) == ("10-x", "05-y")
    assert [group.nodes for group in found.own] == [("master",)]


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1)), min_size=2, max_size=6))
def test_every_path_of_every_node_is_in_one_group(contents: list[dict[str, int]]) -> None:
    made = plans(*([entry(f"/{path}", mode=mode) for path, mode in content.items()] for content in contents))
    found = summary(CLUSTER, made)
    seen: dict[str, list[str]] = {}
    for group in (found.common, *found.own):
        for place in group.places:
            for node in group.nodes:
                seen.setdefault(node, []).append(place[1])
            modes = {content[place[1][1:]] for content in contents if place[1][1:] in content}
            assert (place in group.varying) == (len(modes) > 1)
    assert {node: sorted(paths) for node, paths in seen.items()} == {
        plan.node.name: sorted(entry.path for entry in plan.entries) for plan in made if plan.entries
    }
