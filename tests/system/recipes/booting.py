"""Nodes with ready layers, booted: built as a user builds them, with packages from Debian's own archive."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from imagebuilder.boot.machine import Hardware
from imagebuilder.boot.network import Service
from imagebuilder.boot.run import Guest, guest, node_disk, prove_all
from tests.conftest import SCRIPTS
from tests.support.cluster import Place, make_place
from tests.system.boot.rig import expected, laboratory


def make_cluster(folder: Path, release: str, workers: int = 1) -> tuple[Place, Path]:
    """A cluster folder of a master and some workers, and the base image of ``release`` beside it."""
    place, base = make_place(folder, folder / "cache"), folder / "base.img"
    text = place.manifest.read_text()
    place.manifest.write_text(text[: text.index(f'[[node]]\nname = "worker{workers + 1}"')])
    subprocess.run([SCRIPTS / "make-debian-base", release, base], check=True)
    return place, base


@contextmanager
def booted(
    place: Place,
    base: Path,
    release: str,
    names: Sequence[str],
    *,
    hardware: Hardware | None = None,
    services: tuple[Service, ...] = (),
) -> Iterator[dict[str, Guest]]:
    """The nodes called ``names``, up, with every check good."""
    words = [word for name in names for word in ("--node", name)]
    begun = time.monotonic()
    place.good("build", *words, "--base", base)
    base.unlink()  # gigabytes, as is what the cache keeps of it
    shutil.rmtree(place.cache)
    print(f"built in {time.monotonic() - begun:.0f} s")
    wanted = {name: expected(place, name, release) for name in names}
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(place, names, hardware, services))
        disks = {name: node_disk(lab, lab.cluster.node(name), place.build / f"{name}.img") for name in names}
        guests = [stack.enter_context(guest(lab, lab.cluster.node(name), disks[name])) for name in names]
        begun = time.monotonic()
        proofs = prove_all(lab, guests, wanted)
        print(f"booted and checked in {time.monotonic() - begun:.0f} s")
        assert [proof.trouble for proof in proofs if proof.trouble] == []
        assert [
            f"{proof.node}: {each.check}: {each.wrong}"
            for proof in proofs
            for each in proof.outcomes
            if each.wrong
        ] == []
        yield dict(zip(names, guests, strict=True))


def said(one: Guest, command: str, ok: int = 0) -> str:
    """What a shell command on the node prints; it must end with ``ok``."""
    done = one.login.run(command)
    assert done.returncode == ok, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout.decode()
