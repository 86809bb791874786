"""The power is cut again and again while a node boots: a keyfile survives that, netplan files do not.

The base behaves as Raspberry Pi's NetworkManager of Trixie does: it takes netplan files over, and writes them
anew at every boot without a sync (docs/test-bases.md). What a node has not written to its card when QEMU ends
is lost, as with a real power cut.
"""

import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.boot.machine import Machine
from imagebuilder.boot.run import AT_ONCE, StrayError, boards, guest, node_disk, prove, wait_for_login
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
WORD = 900.0  # seconds until the console says what a cut waits for
PATIENCE = 600.0  # seconds until a node that has its network can be logged in to
KEYFILE = "root/etc/NetworkManager/system-connections/piimg-lan.nmconnection"

STORED = "not synced"
"""What the base says on its console when it has removed netplan's file, and written its own."""

ON_CARD = 12.0
"""Seconds from there. ext4 commits every 5 s: the removal is on the card. What a program wrote follows after
30 s (dirty_expire_centisecs, with ext4's delayed allocation): the new file is there, and empty."""

CONSOLE = """[Service]
StandardOutput=journal+console
"""
"""For piimg-firstboot.service: what it has done is seen without a login."""

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
_ENTERING = threading.Lock()  # laboratory() looks into the environment, which is one for all threads


@dataclass(frozen=True)
class Cut:
    """When the power is cut: ``seconds`` after power-on, or after the console said ``word``."""

    seconds: float
    word: str = ""

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s after {self.word or 'power-on'}"


TRIES = 3
"""Boots until the netplan file is lost: a busy host may write all data to the card before the cut."""

Cuts = tuple[Cut, ...]  # of boots one after the other

WHILE_UNSYNCED: Cuts = (Cut(ON_CARD, STORED),)
"""Once is enough: an empty file stays empty."""

AT_EACH_STAMP: Cuts = (
    Cut(0.0, '"05-account": exit status 0'),
    Cut(0.0, '"10-locale": exit status 0'),
    Cut(0.0, '"50-hello": exit status 0'),
)
"""At once when a first-boot script is over: what it left must be on the card by then."""


def seeded() -> list[Cuts]:
    """Moments after power-on: the same for the same seed, spread over the whole."""
    source = random.Random(SEED)
    step = (LATEST - EARLIEST) / COUNT
    return [(Cut(EARLIEST + step * (number + source.random())),) * BOOTS for number in range(COUNT)]


def place_with(base: Path, folder: Path, netplan: bool) -> Place:
    """A cluster folder with the node image of NODE, set up by keyfiles or by netplan."""
    folder.mkdir()
    place = make_place(folder, folder / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    place.edit(rf'^name = "{NODE}"', f'name = "{NODE}"\nswap = "off"')
    own = place.folder / "overlays" / f"node-{NODE}"
    console = own / "root/etc/systemd/system/piimg-firstboot.service.d"
    console.mkdir(parents=True)
    (console / "console.conf").write_text(CONSOLE)
    if netplan:
        (own / "root/etc/netplan").mkdir(parents=True)
        (own / "root/etc/netplan/10-piimg-lan.yaml.j2").write_text(NETPLAN)
        (own / "layer.toml").write_text(f'remove = ["{KEYFILE}"]\nmay_be_missing = ["{KEYFILE}"]\n')
    place.good("build", "--node", NODE, "--base", base)
    shutil.rmtree(place.cache)
    return place


def cut_short(board: Machine, cut: Cut) -> list[str]:
    """Boot a node and cut its power: what its first-boot scripts had said by then, as in their log."""
    begun = time.monotonic()
    board.power_on()
    if cut.word:
        while cut.word not in board.last_start():
            board.check()
            assert time.monotonic() < begun + WORD, f"the console does not say {cut.word}"
            time.sleep(0.05)
        begun = time.monotonic()
    time.sleep(max(0.0, begun + cut.seconds - time.monotonic()))
    board.power_cut()
    return reported(board.last_start())


def reported(console: str) -> list[str]:
    """The whole lines of the first-boot scripts' runner on a console, also behind a prompt, as in its log."""
    whole = console[: console.rfind("\n") + 1]
    return re.findall(r'\] piimg-firstboot\[[0-9]+\]: (20\S+Z "[^"\n]+": .+)$', whole, re.MULTILINE)


def lost(said: Sequence[str], log: str) -> list[str]:
    """What a node said it had done before its power was cut, and did not keep: in its log, or as a stamp."""
    wrong = [f"not in the log: {line}" for line in said if line not in log.splitlines()]
    for name in ("05-account", "10-locale", "50-hello"):
        ends = [at for at, line in enumerate(said) if line.endswith(f'"{name}": exit status 0')]
        tries = [at for at, line in enumerate(said) if f'"{name}": try' in line]
        if ends and max(tries, default=-1) > min(ends):
            wrong.append(f"{name} ran again")
    return wrong


def after_cuts(place: Place, cuts: Cuts) -> list[str]:
    """What is wrong with a node whose first boots were cut short, once it boots in peace."""
    with ExitStack() as stack:
        with _ENTERING:
            lab = stack.enter_context(laboratory(place, [NODE], boards("virt", AT_ONCE)))
            wanted = expected(place, NODE, "trixie")
        node = lab.cluster.node(NODE)
        one = stack.enter_context(guest(lab, node, node_disk(lab, node, place.build / f"{NODE}.img")))
        said: list[str] = []
        for cut in cuts:
            said += cut_short(one.machine, cut)
        one.machine.power_on()
        try:
            wait_for_login(one, PATIENCE)
        except StrayError:
            return ["network"]
        except PiimgError as error:
            return [f"{error.message}: {error.hint}"]
        proof = prove(one, wanted, Silent())
        trouble = [proof.trouble.message] if proof.trouble else []
        trouble += [f"{outcome.check}: {outcome.wrong}" for outcome in proof.outcomes if outcome.wrong]
        said += reported(one.machine.last_start())
        log = one.login.run("cat /var/log/piimg/firstboot.log").stdout.decode()
        return trouble + lost(said, log) + ([] if said else ["the console has nothing of the first boot"])


Runs = dict[Cuts, list[str]]
"""What is wrong with a node after each run of cuts."""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Runs]:
    """What came of the node with a keyfile, and of that with a netplan file; two are booted at a time."""
    folder = tmp_path_factory.mktemp("cuts")
    base = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", "trixie-2026-10", base], check=True)
    places = [place_with(base, folder / kind, kind == "netplan") for kind in ("netplan", "keyfile")]
    base.unlink()
    runs = [[WHILE_UNSYNCED], [AT_EACH_STAMP, *seeded()]]

    def one(place: Place, cuts: Cuts) -> list[str]:
        moments = ", ".join(dict.fromkeys(str(cut) for cut in cuts))
        for _ in range(TRIES if cuts == WHILE_UNSYNCED else 1):
            found = after_cuts(place, cuts)
            print(f"\n{place.folder.parent.name}: cut {moments}: {found or 'good'}", flush=True)
            if found == ["network"]:
                break
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [
            {cuts: pool.submit(one, place, cuts) for cuts in mine}
            for place, mine in zip(places, runs, strict=True)
        ]
        netplan, keyfile = [{cuts: job.result() for cuts, job in some.items()} for some in jobs]
    return keyfile, netplan


def test_a_node_with_a_keyfile_is_good_after_every_cut(tried: tuple[Runs, Runs]) -> None:
    """Its network is there, and what its first-boot scripts said they had done is not lost."""
    assert len(tried[0]) == COUNT + 1
    assert {cuts: wrong for cuts, wrong in tried[0].items() if wrong} == {}


def test_a_node_with_a_netplan_file_loses_its_network(tried: tuple[Runs, Runs]) -> None:
    """Else the cuts above would prove nothing."""
    assert list(tried[1].values()) == [["network"]]
