"""The files of prepared nodes: damaged ones are not used, and nothing of one node reaches another."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.builder import build_nodes, prepare_nodes, present_ingredients, report_reasons
from imagebuilder.errors import UsageError
from imagebuilder.events import Event, Message
from imagebuilder.image.base.opening import Base
from imagebuilder.image.prepared import PreparedFiles, PreparedNode
from imagebuilder.model import Kind, NodePlan
from imagebuilder.plan import plan_nodes
from imagebuilder.system.files import data_ranges
from tests.integration.building.preparing import check_blocks, entry, opened
from tests.support.cluster import PASSWORD, Place, make_place

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("nothing_held"),
]


@pytest.fixture(scope="module")
def base(specimen: Callable[[str], Path]) -> Base:
    return opened(specimen("bookworm"))


class Heard:
    """A Reporter that keeps the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Message):
            self.said.append(f"{event.subject}: {event.text}")


@pytest.fixture(scope="module")
def small(base: Base, tmp_path_factory: pytest.TempPathFactory) -> "Small":
    folder = tmp_path_factory.mktemp("small")
    return Small(make_place(folder, folder / "cache"), base)


class Small:
    """A cluster whose worker1 has one entry."""

    def __init__(self, place: Place, base: Base) -> None:
        self.place, self.base = place, base
        self.files = PreparedFiles(place.folder / "state" / "mycluster" / "prepared", "worker1")

    def prepare(self, content: bytes = b"small\n") -> tuple[PreparedNode, list[str]]:
        """Bring worker1 up to date; the node, and what was said."""
        cluster, heard = self.place.workspace.cluster, Heard()
        entries = (entry("root/etc/small", "file", content=content),)
        plan = NodePlan(cluster.node("worker1"), self.base.info.release, (), entries)
        with prepare_nodes(cluster, [plan], self.base, reporter=heard) as (node,):
            return node, heard.said

    def sealed(self, change: Callable[[dict[str, object]], None]) -> None:
        """Change the record, and seal it again."""
        record = json.loads(self.files.record.read_bytes().partition(b"\n")[2])
        change(record)
        text = json.dumps(record).encode()
        self.files.record.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def test_a_base_image_that_a_layer_is_not_for_is_refused(small: Small) -> None:
    base = replace(small.base, info=replace(small.base.info, architecture="armhf"))
    cluster = small.place.workspace.cluster
    plan = NodePlan(
        cluster.node("worker1"), base.info.release, ("own",), (), architectures={"own": ("arm64",)}
    )
    said = f"worker1: the layer own needs arm64, and {base.name} is armhf"
    with pytest.raises(UsageError) as error, prepare_nodes(cluster, [plan], base):
        pass
    assert error.value.message == said
    with pytest.raises(UsageError) as error:
        present_ingredients(cluster, [plan], base)
    assert error.value.message == said and error.value.hint


def flipped(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def other_spans(record: dict[str, object]) -> None:
    spans = record["spans"]
    assert isinstance(spans, list) and len(spans) > 1
    spans[0], spans[1] = spans[1], spans[0]


def other_format(record: dict[str, object]) -> None:
    record["parts"] = {**record["parts"], "tool": "0"}  # type: ignore[dict-item]
    record["recipe"] = "0" * 64


def other_fields(record: dict[str, object]) -> None:
    del record["boot_paths"]


RECORD = "its record is damaged, or of another version of piimg"
FILES = "its files were damaged"
DAMAGES: dict[str, tuple[Callable[[Small], None], str]] = {
    "a bit of the blocks": (lambda one: flipped(one.files.blocks, 5000), FILES),
    "the last bit of the blocks": (lambda one: flipped(one.files.blocks, -1), FILES),
    "a bit of the block map": (lambda one: flipped(one.files.block_map, 900), FILES),
    "a bit of the record": (lambda one: flipped(one.files.record, 900), RECORD),
    "a bit of the seal": (lambda one: flipped(one.files.record, 0), RECORD),
    "blocks cut off": (lambda one: cut_off(one.files.blocks), FILES),
    "blocks with more": (lambda one: os.truncate(one.files.blocks, 1 << 20), FILES),
    "map cut off": (lambda one: cut_off(one.files.block_map), FILES),
    "record cut off": (lambda one: cut_off(one.files.record), RECORD),
    "record empty": (lambda one: os.truncate(one.files.record, 0), RECORD),
    "no blocks": (lambda one: one.files.blocks.unlink(), FILES),
    "no map": (lambda one: one.files.block_map.unlink(), FILES),
    "no record": (lambda one: one.files.record.unlink(), "not prepared yet"),
    "spans out of order": (lambda one: one.sealed(other_spans), FILES),
    "another format": (lambda one: one.sealed(other_format), "another version of piimg"),
    "other fields": (lambda one: one.sealed(other_fields), RECORD),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_prepared_anew(damage: str, small: Small) -> None:
    first, _ = small.prepare()
    assert small.prepare() == (first, []), "it is up to date"
    act, why = DAMAGES[damage]
    act(small)
    again, said = small.prepare()
    assert said == [f"worker1: {why}"]
    assert again.tree_digest == first.tree_digest
    assert small.prepare() == (again, [])


def test_nothing_else_is_left_and_all_is_for_its_owner_only(small: Small) -> None:
    node, said = small.prepare(b"another\n")
    assert said == ["worker1: root/etc/small of the layer test changed"]
    folder = small.files.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    there = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert there == dict.fromkeys(("worker1.blocks", "worker1.bmap", "worker1.json", ".lock"), 0o600)
    small.prepare()
    assert node.content.changes == small.files.blocks


def test_nothing_of_a_node_reaches_another(base: Base, tmp_path: Path) -> None:
    """Every secret of each node is looked for in every other's files, and all over its whole image."""
    place = make_place(tmp_path, tmp_path / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    layers = place.folder / "overlays"
    for node in ("master", "worker1", "worker2"):
        folder = layers / f"node-{node}" / "root" / "etc"
        folder.mkdir(parents=True)
        (folder / "token").write_text("".join(f"{node}-{number}-token\n" for number in range(4000)))
    workspace = place.workspace
    nodes = [workspace.cluster.node(name) for name in ("master", "worker1", "worker2")]
    credentials = place.credentials()
    plans = plan_nodes(workspace.cluster, nodes, base.info.release, credentials, workspace.overlays)
    folder = tmp_path / "build"
    build_nodes(workspace.cluster, plans, base, folder)
    secrets = {plan.node.name: frozenset(secrets_of(plan)) for plan in plans}
    wanted = {credentials.wifi_psks["master"].encode(), b"master-3999-token"}
    assert wanted <= secrets["master"] and len(secrets["worker1"]) > 4
    assert not any(PASSWORD.encode() in one for each in secrets.values() for one in each)
    prepared = place.folder / "state" / "mycluster" / "prepared"
    for name, own in secrets.items():
        others = frozenset[bytes]().union(*secrets.values()) - own
        for file in (*prepared.glob(f"{name}.*"), *folder.glob(f"{name}.*")):
            found = looked_for(others, file)
            assert not found, f"{file} has {found}"
        assert looked_for(own, prepared / f"{name}.blocks") == own
        assert looked_for(own, folder / f"{name}.img") == own
    with prepare_nodes(workspace.cluster, plans, base) as (master, *_):
        check_blocks(master, base, folder / "master.img")


def secrets_of(plan: NodePlan) -> Iterator[bytes]:
    """What only this node may have: the lines of its secret files, and its tokens."""
    for one in plan.entries:
        if one.path == "/etc/token":
            yield from (one.content.splitlines()[0], one.content.splitlines()[-1])
        elif one.secret and one.kind is Kind.FILE:
            yield from (line for line in one.content.splitlines() if re.fullmatch(rb"[\w+/=]{40,}", line))
            yield from re.findall(rb"\b[0-9a-f]{64}\b", one.content)


def looked_for(secrets: frozenset[bytes], file: Path) -> frozenset[bytes]:
    """Those of ``secrets`` that are anywhere in a file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        parts = [os.pread(stream.fileno(), end - at, at) for at, end in data_ranges(stream.fileno(), 0, size)]
    return frozenset(secret for secret in secrets if any(secret in part for part in parts))


def test_what_a_killed_container_left_is_removed(small: "Small") -> None:
    """Its journal is gone with it. What a link of that name leads to stays."""
    prepared = small.files.record.parent
    small.prepare()
    left, elsewhere, link = prepared / ".piimg-left", small.place.folder / "own", prepared / ".piimg-link"
    for folder in (left, elsewhere):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "worker1.img").write_bytes(b"secret")
    link.symlink_to(elsewhere)
    small.prepare()
    assert not left.exists() and link.is_symlink()
    assert (elsewhere / "deep" / "worker1.img").exists()


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        ({"a": "not prepared yet", "b": "not prepared yet"}, ["a: not prepared yet", "b: not prepared yet"]),
        (
            {**dict.fromkeys("abcd", "not prepared yet"), "e": "hosts changed"},
            [": 4 nodes: not prepared yet", "e: hosts changed"],
        ),
    ],
)
def test_why_many_nodes_are_prepared_is_one_line(reasons: dict[str, str], said: list[str]) -> None:
    heard = Heard()
    report_reasons(reasons, heard)
    assert heard.said == said
