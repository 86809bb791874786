"""The power is cut again and again while a node boots: a keyfile survives that, netplan files do not.

The base behaves as Raspberry Pi's NetworkManager of Trixie does: it takes netplan files over, and writes them
anew at every boot without a sync (docs/test-bases.md). What a node has not written to its card when QEMU ends
is lost, as with a real power cut.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.boot.run import Guest, Lab, StrayError, guest, node_disk, prove, wait_for_login
from imagebuilder.errors import PiimgError
from imagebuilder.events import Silent
from tests.conftest import SCRIPTS
from tests.support.cluster import Place, make_place
from tests.system.boot.rig import expected, laboratory

NODE = "worker2"
COUNT = int(os.environ.get("PIIMG_CUTS") or 10)
SEED = int(os.environ.get("PIIMG_SEED") or 20261006)
EARLIEST, LATEST = 20.0, 60.0  # seconds after power-on
BOOTS = 3  # cut short, one after the other
PATIENCE = 600.0  # seconds until a node that has its network can be logged in to
KEYFILE = "root/etc/NetworkManager/system-connections/piimg-lan.nmconnection"

NETPLAN = """# netplan(5)
network:
  version: 2
  renderer: NetworkManager
  ethernets:
    {{ node.interface }}:
      dhcp4: false
      dhcp6: false
      addresses: ["{{ node.address }}/{{ cluster.lan.prefixlen }}"]
      routes:
        - to: default
          via: "{{ gateway.address }}"
      nameservers:
        addresses: [{{ cluster.dns | map("string") | map("tojson") | join(", ") }}]
        search: [{{ cluster.domain | tojson }}]
"""
"""The network as piimg 0.1.0 set it up on Trixie."""

pytestmark = [pytest.mark.timeout(4 * 3600), pytest.mark.cuts]


def moments() -> list[float]:
    """When the power is cut, in seconds after power-on: the same for the same seed, spread over the whole."""
    source = random.Random(SEED)
    step = (LATEST - EARLIEST) / COUNT
    return [EARLIEST + step * (number + source.random()) for number in range(COUNT)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("base") / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", "trixie-2026-10", made], check=True)
    yield made
    made.unlink()


def place_with(base: Path, folder: Path, netplan: bool) -> Place:
    """A cluster folder with the node image of NODE, set up by keyfiles or by netplan."""
    place = make_place(folder, folder / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    if netplan:
        own = place.folder / "overlays" / f"node-{NODE}"
        (own / "root/etc/netplan").mkdir(parents=True)
        (own / "root/etc/netplan/10-piimg-lan.yaml.j2").write_text(NETPLAN)
        (own / "layer.toml").write_text(f'remove = ["{KEYFILE}"]\nmay_be_missing = ["{KEYFILE}"]\n')
    place.good("build", "--node", NODE, "--base", base)
    shutil.rmtree(place.cache)
    return place


def cut(one: Guest, moment: float) -> None:
    """Boot a node, and cut its power ``moment`` seconds after it was switched on."""
    begun = time.monotonic()
    one.machine.power_on()
    time.sleep(max(0.0, begun + moment - time.monotonic()))
    one.machine.power_cut()


def after_cuts(lab: Lab, place: Place, moment: float) -> list[str]:
    """What is wrong with a node whose first boots were cut short at ``moment``, once it boots in peace."""
    node = lab.cluster.node(NODE)
    with guest(lab, node, node_disk(lab, node, place.build / f"{NODE}.img")) as one:
        for _ in range(BOOTS):
            cut(one, moment)
        one.machine.power_on()
        try:
            wait_for_login(one, PATIENCE)
        except StrayError:
            return ["network"]
        except PiimgError as error:
            return [f"{error.message}: {error.hint}"]
        proof = prove(one, expected(place, NODE, "trixie"), Silent())
        trouble = [proof.trouble.message] if proof.trouble else []
        return trouble + [f"{one.check}: {one.wrong}" for one in proof.outcomes if one.wrong]


def tried(place: Place) -> dict[float, list[str]]:
    """What is wrong with a node after cuts at each of the moments."""
    found: dict[float, list[str]] = {}
    with laboratory(place, [NODE]) as lab:
        for moment in moments():
            found[moment] = after_cuts(lab, place, moment)
            print(f"{place.folder.parent.name}: cut at {moment:.1f} s: {found[moment] or 'good'}", flush=True)
    return found


def test_a_node_with_a_keyfile_is_good_after_every_cut(base: Path, tmp_path: Path) -> None:
    found = tried(place_with(base, tmp_path, netplan=False))
    assert {moment: wrong for moment, wrong in found.items() if wrong} == {}


def test_a_node_with_a_netplan_file_loses_its_network(base: Path, tmp_path: Path) -> None:
    """Else the cuts above would prove nothing."""
    found = tried(place_with(base, tmp_path, netplan=True))
    assert ["network"] in found.values(), found
