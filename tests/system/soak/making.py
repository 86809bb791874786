"""The cluster of a soak: many nodes, each with a small node image of its own."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.image import allocation, bmap
from imagebuilder.system.process import run
from tests.integration.card.conftest import CLUSTER
from tests.integration.card.rig import MIB
from tests.integration.card.running import TOP

_BOOT, _BOOT_SIZE = 4 * MIB, 8 * MIB  # bytes
_ROOT, _ROOT_SIZE = 12 * MIB, 12 * MIB
_TABLE = b"label: dos\nlabel-id: 0x50a4c0de\nstart=4MiB,size=8MiB,type=c\nstart=12MiB,type=83\n"
_NODE = '[[node]]\nname = "{}"\nrole = "worker"\nboard = "pi-3b+"\naddress = "10.0.{}.{}"\n\n'
_ROW = 200  # addresses that are used of each 256


def make_cluster(folder: Path, count: int) -> list[str]:
    """A cluster folder of ``count`` nodes, all of them built; their names."""
    names = [f"n{number:03}" for number in range(count)]
    parts = (TOP / "manifests" / "picluster.toml").read_text().split("[[node]]")
    head = parts[0].replace('network = "10.0.0.0/24"', 'network = "10.0.0.0/16"')
    nodes = [_NODE.format(name, 1 + at // _ROW, 1 + at % _ROW) for at, name in enumerate(names)]
    build = folder / "build"
    build.mkdir(parents=True)
    (folder / "cluster.toml").write_text(f"{head}[[node]]{parts[1]}{''.join(nodes)}")
    template = folder / "template"
    _template(template)
    # The master, which the manifest begins with: it is a node like the others.
    for name in ("master", *names):
        _image(template, build / f"{name}.img", name, CLUSTER)
    _image(template, folder / "elsewhere.img", "worker1", "elsewhere")
    template.unlink()
    return ["master", *names]


def _template(image: Path) -> None:
    """What the node images have in common: two partitions, with files in both."""
    files = image.with_name("files")
    files.mkdir()
    (files / "noise").write_bytes(os.urandom(2 * MIB))
    (files / "zeros").write_bytes(bytes(MIB // 2))
    for number in range(40):
        (files / f"file{number}").write_bytes(os.urandom(number * 100))
    image.touch()
    os.truncate(image, _ROOT + _ROOT_SIZE)
    run(["sfdisk", "--quiet", image], data=_TABLE)
    sectors, kib = str(_BOOT // 512), str(_BOOT_SIZE // 1024)
    run(["mkfs.vfat", "-F", "16", "-s", "1", "--offset", sectors, image, kib])
    run(["mcopy", "-i", f"{image}@@{_BOOT}", files / "noise", "::"])
    run(["mkfs.ext4", "-q", "-E", f"offset={_ROOT}", "-d", files, image, f"{_ROOT_SIZE // 1024}k"])
    shutil.rmtree(files)


def _image(template: Path, image: Path, node: str, cluster: str) -> None:
    run(["cp", "--sparse=always", template, image])
    identity = image.with_suffix(".identity")
    identity.write_text(json.dumps({"node": node, "cluster": cluster}))
    run(["mcopy", "-i", f"{image}@@{_BOOT}", identity, "::piimg.json"])
    identity.unlink()
    bmap.write(image.with_suffix(".bmap"), bmap.make(image, allocation.used_ranges(image)))
    image.with_suffix(".json").write_text(json.dumps({"node": node, "cluster": CLUSTER, "tree_digest": node}))


def prior_content(kind: str, size: int, image: Path, changed: Sequence[int]) -> bytes:
    """What a card of ``size`` bytes holds before; of a large one only the start, zeros behind it."""
    if kind == "noise":
        return os.urandom(min(size, 64 * MIB))
    if kind == "zeros":
        return bytes(min(size, 64 * MIB))
    ones = b"\xff" * min(size, 64 * MIB)
    if kind == "ones":
        return ones
    content = bytearray(image.read_bytes())
    for at in changed:
        content[at] ^= 0xFF
    return bytes(content) + ones[len(content) :]
