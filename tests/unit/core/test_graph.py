"""The drawing of a cluster: well-formed, complete, and nothing from outside is markup or a control."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from imagebuilder import graph, manifest
from imagebuilder.model import Cluster, Node
from imagebuilder.settings import Policy
from tests.support.checkout import TOP

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script><!-- \" ' & ]]> \x1b]0;owned\x07\x9b31m\u202e\u200b\r\n"


def cluster(count: int = 6) -> Cluster:
    """The example cluster, with so many nodes."""
    made = manifest.load(TOP / "manifests/picluster.toml")
    last = made.nodes[-1]
    assert last.address
    more = [
        dataclasses.replace(last, name=f"worker{number}", address=last.address + number)
        for number in range(6, count)
    ]
    return dataclasses.replace(made, nodes=(*made.nodes, *more)[:count])


def drawn(
    made: Cluster, cards: dict[str, str] | None = None, columns: int = graph.WIDE
) -> ElementTree.Element:
    """The SVG, parsed; it consists of what a drawing consists of."""
    root = ElementTree.fromstring("\n".join(graph.as_svg(made, made.nodes, cards or {}, columns)))
    known = {"svg", "title", "desc", "style", "rect", "text", "path", "g"}
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= known
    names = {name for one in root.iter() for name in one.attrib}
    shapes = {"x", "y", "width", "height", "rx", "d", "class", "viewBox"}
    assert names <= shapes | {"role"}, "no link, no handler"
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_without_a_gateway_the_router_is_in_its_place() -> None:
    made = cluster()
    made = dataclasses.replace(made, gateway=None, router=made.lan[254])
    nodes = (dataclasses.replace(made.nodes[0], address=None), *made.nodes[1:])
    made = dataclasses.replace(made, nodes=nodes)
    lines = graph.as_text(made, made.nodes, {})
    assert lines[1] == "└─ router 10.0.0.254" and lines[2].strip() == "network 10.0.0.0/24"
    assert "master" in lines[3] and "address by DHCP" in lines[3]
    assert len(lines) == 3 + len(made.nodes)
    said = texts(drawn(made))
    assert {"router", "10.0.0.254", "address by DHCP"} <= set(said)
    assert all(node.name in said for node in made.nodes)


@pytest.mark.parametrize("columns", [graph.WIDE, graph.NARROW])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 14, 40])
def test_every_node_is_in_its_place(count: int, columns: int) -> None:
    made = cluster(count)
    root = drawn(made, {"master": "card in a slot"}, columns)
    said, width, height = texts(root), float(root.attrib["width"]), float(root.attrib["height"])
    for node in made.nodes:
        assert said.count(node.name) == 1 and said.count(str(node.address)) == 1
    assert "card in a slot" in said and f"switch {made.lan}" in said and "internet" in said
    boxes = [
        tuple(float(one.attrib[name]) for name in ("x", "y", "width", "height"))
        for one in root.iter(f"{SVG}rect")
    ]
    assert len(boxes) == count + 2
    for number, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for left, top, wide, high in boxes[number + 1 :]:
            assert x + w <= left or left + wide <= x or y + h <= top or top + high <= y, "two boxes overlap"
    for path in root.iter(f"{SVG}path"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
        assert max(numbers) <= max(width, height)
    lines = graph.as_text(made, made.nodes, {"worker1": "card in a slot"})
    assert all(sum(node.name in line.split() for line in lines) == 1 for node in made.nodes)
    assert any(line.endswith("card in a slot") for line in lines) is (count > 1)


def test_the_text() -> None:
    made = cluster(3)
    assert graph.as_text(made, made.nodes, {"worker2": "card in usb-1"}) == [
        "internet",
        "└─ wlan0, Wi-Fi HomeNetwork",
        "   master   10.0.0.1   pi-4b   master",
        "   │  gateway: the others go out on demand",
        "   └─ eth0",
        "      switch 10.0.0.0/24",
        "      ├─ worker1  10.0.0.11  pi-3b+  worker",
        "      └─ worker2  10.0.0.12  pi-3b+  worker  card in usb-1",
    ]
    assert made.gateway
    off = dataclasses.replace(
        made, gateway=dataclasses.replace(made.gateway, uplink="eth1", policy=Policy.OFF)
    )
    lines = graph.as_text(off, off.nodes[:2], {})
    assert lines[1] == "└─ eth1" and "do not go out" in lines[3] and len(lines) == 7


def hostile(made: Cluster) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """The cluster with each of its texts made hostile in turn, whatever a manifest may say today."""
    for field in dataclasses.fields(Cluster):
        if isinstance(getattr(made, field.name), str):
            yield changed(made, field.name, HOSTILE), {}
    yield changed(made, "gateway", changed(made.gateway, "uplink", HOSTILE)), {}
    for number, node in enumerate(made.nodes[:2]):
        for spoilt in _spoilt(node):
            nodes = (*made.nodes[:number], spoilt, *made.nodes[number + 1 :])
            yield (
                changed(
                    changed(made, "nodes", nodes), "gateway", changed(made.gateway, "node", nodes[0].name)
                ),
                {},
            )
        yield made, {node.name: HOSTILE}


def _spoilt(node: Node) -> Iterator[Node]:
    for field in dataclasses.fields(Node):
        value = getattr(node, field.name)
        if isinstance(value, str):
            yield changed(node, field.name, HOSTILE)
        elif field.name in ("board", "wifi") and value is not None:
            for inner in dataclasses.fields(value):
                if isinstance(getattr(value, inner.name), str) and inner.name != "medium":
                    yield changed(node, field.name, changed(value, inner.name, HOSTILE))


def changed(one: Any, name: str, value: object) -> Any:
    return dataclasses.replace(one, **{name: value})


def test_every_field_is_only_text() -> None:
    count = 0
    for made, cards in hostile(cluster(3)):
        everything = "".join(drawn(made, cards).itertext())
        lines = graph.as_text(made, made.nodes, cards)
        assert all(line.isprintable() for line in (*lines, *everything.split("\n")))
        count += "</text>" in everything
    assert count >= 10, "the hostile text was not drawn"


def test_nothing_is_loaded() -> None:
    text = "\n".join(graph.as_svg(cluster(), cluster().nodes, {}))
    assert not re.search(r"url\(|@import|href|src=|http(?!://www\.w3\.org/2000/svg)", text)


def test_its_style_is_for_the_drawing_only() -> None:
    """A style sheet in an SVG is in force for the whole page of HTML that the SVG is in."""
    rules = re.findall(r"^ *([^@}\n][^{]*) \{", graph._STYLE, re.MULTILINE)
    assert len(rules) > 10 and all(rule.startswith(".cluster") for rule in rules)
