"""The checks over several nodes can fail too: a master and a worker are spoiled, and booted together.

Four pairs of images carry all that is spoiled, each spoil in pairs of its own: its check has to fail in
exactly those.
"""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagebuilder.boot import cluster_checks, gateway_checks
from imagebuilder.boot.checks import CheckResult
from imagebuilder.boot.cluster import ClusterProof, prove_cluster
from imagebuilder.boot.cluster_checks import Member
from imagebuilder.boot.gateway_checks import Scene, judge_gateway
from imagebuilder.boot.network import INTERNET, INTERNET_PORT
from imagebuilder.boot.run import guest, node_disk
from imagebuilder.system.files import copy_sparse
from tests.conftest import SCRIPTS
from tests.support.cluster import Place, make_place
from tests.system.boot.breaking import Image, opened
from tests.system.boot.rig import expected, laboratory

RELEASE = "bookworm"
MASTER, WORKER = "master", "worker1"
GATEWAY = "usr/local/lib/piimg/piimg_gateway"
PAIRS = 4

pytestmark = [pytest.mark.timeout(7200), pytest.mark.cluster]  # on a machine that has other things to do


# --- what is spoiled: each is called with both images -------------------------------------------------------


def _drop_ssh(image: Image) -> None:
    if image.node == WORKER:
        chain = "'{ type filter hook input priority 0; }'"
        rule = "ip saddr 10.0.0.1 tcp dport 22 drop"
        image.unit(
            "drop-ssh", f"nft add table ip x; nft add chain ip x i {chain}; nft add rule ip x i {rule}"
        )


def _same_machine_id(image: Image) -> None:
    (image.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")


def _same_disk_id(image: Image) -> None:
    drawn = r"^\tdd if=/dev/urandom (of=.*)$"
    image.edit("usr/lib/raspberrypi-sys-mods/firstboot", drawn, r"\tprintf abcd | dd \1")


@functools.cache
def _host_key() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
        return key.read_bytes()


def _same_host_key(image: Image) -> None:
    """A second one, as if it had come with the base image."""
    key = image.root / "etc/piimg/ssh/ssh_host_ecdsa_key"
    key.touch(0o600)
    key.write_bytes(_host_key())
    image.append("etc/ssh/sshd_config.d/10-piimg.conf", "HostKey /etc/piimg/ssh/ssh_host_ecdsa_key")


def _at_boot(image: Image, name: str, number: int, command: str) -> None:
    """Run a shell command at the boot with this number (the first is 0), before the system counts as up."""
    script = f"""n=$(cat /var/lib/{name} 2>/dev/null || echo 0)
    echo $((n + 1)) >/var/lib/{name} && sync
    [ "$n" != {number} ] || {command}"""
    image.unit(name, script, "piimg-gateway.service piimg-firstboot.service", kind="oneshot")


OPEN = "until piimg-gateway on; do sleep 1; done"


def _left_open(image: Image) -> None:
    if image.node == MASTER:
        _at_boot(image, "left-open", 0, OPEN)


def _opened_by_a_reboot(image: Image) -> None:
    if image.node == MASTER:
        _at_boot(image, "open-later", 1, OPEN)


def _status_lost(image: Image) -> None:
    if image.node == WORKER:
        image.edit("usr/local/bin/with-internet", r'^    return "\$status"$', "    return 0")


def _too_long(image: Image) -> None:
    if image.node == MASTER:
        image.edit(f"{GATEWAY}/command.py", r'^_SECONDS = \{"s": 1,', '_SECONDS = {"s": 999,')


def _off_forgets(image: Image) -> None:
    if image.node == MASTER:
        image.edit(
            f"{GATEWAY}/service.py",
            r"^(                    self._end_holders\(\)\n) *self._needs.switch\(None\)\n",
            r"\1",
        )


def _key_may_all(image: Image) -> None:
    if image.node == MASTER:
        image.append("etc/sudoers.d/020_piimg-gateway", "piimg-gateway ALL=(root) NOPASSWD: ALL")


def _runs_twice(image: Image) -> None:
    if image.node == WORKER:
        again = "{ rm /var/lib/piimg/firstboot/10-locale; systemctl --no-block restart piimg-firstboot; }"
        _at_boot(image, "run-again", 1, again)


@dataclass(frozen=True)
class Spoil:
    """What is spoiled, the pairs it is in, and what the checks of the nodes themselves find of it."""

    of: Callable[[Image], None]
    pairs: frozenset[int]
    by_itself: Mapping[str, str] = field(default_factory=dict)


def _in(*pairs: int) -> frozenset[int]:
    return frozenset(pairs)


SPOILS: Mapping[str, Spoil] = {
    "closed": Spoil(_left_open, _in(0, 1), {MASTER: "gateway"}),
    "with-internet": Spoil(_status_lost, _in(0, 2)),
    "on-for": Spoil(_too_long, _in(0, 3)),
    "off": Spoil(_off_forgets, _in(2, 3)),
    "key": Spoil(_key_may_all, _in(1, 2)),
    "rebooted": Spoil(_opened_by_a_reboot, _in(1, 3)),
    "reach": Spoil(_drop_ssh, _in(0)),
    "machine-ids": Spoil(_same_machine_id, _in(1)),
    "disk-ids": Spoil(_same_disk_id, _in(2)),
    "host-keys": Spoil(_same_host_key, _in(3), {MASTER: "host-key", WORKER: "host-key"}),
    "unchanged": Spoil(_runs_twice, _in(1, 2, 3)),
}
"""By the check that is to find it. What cannot be switched off is never left open as well: it would stay so.

The uplink is spoiled on a running gateway: then nothing else of it can be judged.
"""


@dataclass(frozen=True)
class Bench:
    """What came of each pair; and of the gateway alone, its uplink unplugged."""

    proofs: tuple[ClusterProof, ...]
    unplugged: tuple[CheckResult, ...]

    def wrong(self, pair: int) -> dict[str, str]:
        """The checks over both nodes of a pair that found something wrong, and what they said."""
        return {one.check: one.wrong for one in self.proofs[pair].together if one.wrong}


def proof(place: Place, pair: int) -> tuple[ClusterProof, tuple[CheckResult, ...]]:
    """Spoil a pair, boot it, check it; then the gateway once more, with its uplink down."""
    images = {name: place.folder / f"pair{pair}-{name}.img" for name in (MASTER, WORKER)}
    wanted = {name: expected(place, name, RELEASE) for name in images}
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(place, list(images)))
        guests = []
        for name, image in images.items():
            copy_sparse(place.build / f"{name}.img", image)
            stack.callback(image.unlink)
            with opened(name, image) as spoiled:
                for one in SPOILS.values():
                    if pair in one.pairs:
                        one.of(spoiled)
            node = lab.cluster.node(name)
            guests.append(stack.enter_context(guest(lab, node, node_disk(lab, node, image))))
        done = prove_cluster(lab, guests, wanted)
        master, worker = (Member(wanted[one.node.name], one.login) for one in guests)
        master.said("sudo ip link set wlan0 down")
        return done, tuple(judge_gateway(Scene(master, worker, INTERNET, INTERNET_PORT)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All pairs, one after the other."""
    folder = tmp_path_factory.mktemp("pairs")
    base = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", RELEASE, base], check=True)
    place = make_place(folder, folder / "cache")
    place.good("build", "--node", MASTER, "--node", WORKER, "--base", base)
    base.unlink()  # gigabytes, as is what the cache keeps of it
    shutil.rmtree(place.cache)
    done = [proof(place, pair) for pair in range(PAIRS)]
    yield Bench(tuple(one for one, _ in done), done[-1][1])


def test_every_check_has_its_spoil() -> None:
    assert SPOILS.keys() | {"uplink"} == cluster_checks.ABOUT.keys() | gateway_checks.ABOUT.keys()


def test_no_two_spoils_are_in_the_same_pairs() -> None:
    assert len({spoil.pairs for spoil in SPOILS.values()}) == len(SPOILS)


@pytest.mark.parametrize("check", SPOILS)
def test_its_own_check_and_no_other_finds_it(bench: Bench, check: str) -> None:
    """In the pairs that have it, and in no other."""
    found = {pair for pair in range(PAIRS) if check in bench.wrong(pair)}
    assert found == SPOILS[check].pairs, [bench.wrong(pair) for pair in range(PAIRS)]


@pytest.mark.parametrize("pair", range(PAIRS))
def test_all_that_was_spoiled_in_a_pair_is_found_and_nothing_else(bench: Bench, pair: int) -> None:
    assert set(bench.wrong(pair)) == {check for check, one in SPOILS.items() if pair in one.pairs}
    assert all(one.seen for one in bench.proofs[pair].together)
    for proof in bench.proofs[pair].nodes:
        wrong = {outcome.check: outcome.wrong for outcome in proof.outcomes if outcome.wrong}
        spoils = [one.by_itself for one in SPOILS.values() if pair in one.pairs]
        assert set(wrong) == {own[proof.node] for own in spoils if proof.node in own}, wrong


def test_without_an_uplink_nothing_is_concluded_of_the_gateway(bench: Bench) -> None:
    assert [one.check for one in bench.unplugged if one.wrong] == ["uplink"]
    assert [one.check for one in bench.unplugged if one.seen] == ["uplink"]
