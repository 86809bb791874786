"""Why a node is prepared, in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.image import recipe
from imagebuilder.image.recipe import Recipe, reason, recipe_of
from imagebuilder.model import Cluster, Entry, Kind, NodePlan, Partition, Release
from imagebuilder.software import BuildScript, Software
from imagebuilder.workspace import Workspace
from tests.support.checkout import TOP

ENTRY = Entry(Partition.ROOT, "/etc/hosts", Kind.FILE, "base", content=b"one\n", secret=True)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Workspace(TOP / "manifests" / "picluster.toml").cluster


def of(cluster: Cluster, *entries: Entry, base: str = "b", mtime: int = 1) -> Recipe:
    plan = NodePlan(cluster.node("worker1"), Release.BOOKWORM, ("base",), entries or (ENTRY,))
    return recipe_of(cluster, plan, base, mtime)


def changed(cluster: Cluster, **more: object) -> Cluster:
    """The cluster with worker1 changed."""
    nodes = tuple(replace(node, **more) if node.name == "worker1" else node for node in cluster.nodes)  # type: ignore[arg-type]
    return replace(cluster, nodes=nodes)


def test_the_same_has_the_same_recipe_wherever_it_lies(cluster: Cluster) -> None:
    moved = replace(cluster, folder=Path("/elsewhere"), digest="0" * 64)
    moved_entry = replace(ENTRY, source="/elsewhere/overlays/base/root/etc/hosts", overrides=("x",))
    assert of(moved, moved_entry) == of(cluster)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": b"two\n"}, "/etc/hosts of the layer base changed"),
        ({"mode": 0o600}, "/etc/hosts of the layer base changed"),
        ({"uid": 7}, "/etc/hosts of the layer base changed"),
        ({"kind": Kind.LINES}, "/etc/hosts of the layer base changed"),
    ],
)
def test_a_changed_entry_is_named(cluster: Cluster, change: dict[str, object], words: str) -> None:
    now = of(cluster, replace(ENTRY, **change))  # type: ignore[arg-type]
    assert now.name != of(cluster).name
    assert reason(of(cluster).parts, now).replace("root/", "/") == words


def test_each_change_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(cluster)
    assert reason(None, before) == "not prepared yet"
    assert reason(None, before, kept=True) == "its record is damaged, or of another version of piimg"
    assert reason(before.parts, before) == "its files were damaged"
    assert reason(before.parts, of(cluster, base="c")) == "another base image"
    assert "the time changed" in reason(before.parts, of(cluster, mtime=2))
    assert "is gone" in reason(of(cluster, ENTRY, replace(ENTRY, path="/b")).parts, before)
    assert "is new" in reason(before.parts, of(cluster, ENTRY, replace(ENTRY, path="/b")))
    other = of(changed(cluster, vars={"a": "b"}))
    assert reason(before.parts, other) == "vars changed" and other.name == before.name
    with_digest = replace(ENTRY, path="/etc/piimg/node.conf")
    later = of(cluster, ENTRY, replace(with_digest, content=b"two\n"))
    assert reason(of(cluster, ENTRY, with_digest).parts, later) == "the manifest changed"
    monkeypatch.setattr(recipe, "FORMAT", 2)
    again = of(cluster)
    assert again.name != before.name and reason(before.parts, again) == "another version of piimg"


def test_many_changes_are_counted(cluster: Cluster) -> None:
    many = [replace(ENTRY, path=f"/etc/{name}") for name in "abcde"]
    assert reason(of(cluster, *many).parts, of(cluster, *[replace(one, mode=1) for one in many])).endswith(
        " and 2 more"
    )


def test_a_secret_is_not_in_the_parts(cluster: Cluster) -> None:
    assert "one" not in "".join(of(cluster).parts.values())


def test_the_order_of_entries_counts(cluster: Cluster) -> None:
    first, second = ENTRY, replace(ENTRY, kind=Kind.REMOVE)
    assert of(cluster, first, second).name != of(cluster, second, first).name


def dressed(
    cluster: Cluster, *packages: str, script: str = "", base: str = "d", made_from: str = "b"
) -> Recipe:
    """The recipe of worker1 with packages and a build script."""
    scripts = (BuildScript("10-own", "own", "own/build.d/10-own", script.encode()),) if script else ()
    software = Software(dict.fromkeys(packages, ("cluster",)), scripts)
    plan = NodePlan(cluster.node("worker1"), Release.BOOKWORM, ("base",), (ENTRY,), software=software)
    return recipe_of(cluster, plan, base, 1, made_from=made_from)


def test_what_changed_in_a_dressed_base_is_named(cluster: Cluster) -> None:
    plain, before = of(cluster), dressed(cluster, "tree")
    assert reason(plain.parts, before) == reason(before.parts, plain) == "packages changed"
    assert reason(before.parts, dressed(cluster, "htop", "tree", base="e")) == "packages changed"
    assert reason(before.parts, dressed(cluster, "tree", script="ls", base="e")) == "build scripts changed"
    both = dressed(cluster, "htop", script="ls", base="e")
    assert reason(before.parts, both) == "packages changed, build scripts changed"
    other = dressed(cluster, "htop", script="id", base="f")
    assert reason(both.parts, other) == "build scripts changed"
    assert reason(before.parts, dressed(cluster, "tree", base="e")) == "packages installed anew"
    assert reason(before.parts, dressed(cluster, "tree", base="e", made_from="c")) == "another base image"
    assert before.name == of(cluster, base="d").name, "what is in the base image is what counts"


def test_the_place_that_names_a_package_does_not_count(cluster: Cluster) -> None:
    moved = changed(cluster, packages={"tree": ("role.worker",)})
    assert of(moved) == of(cluster)
