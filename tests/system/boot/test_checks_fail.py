"""Every check can fail: node images are spoiled and booted, and that check, and only that, says so.

Booting once for each spoil would take an hour. So each image carries several, and each spoil is in a set of
images of its own (``breaking.shares``): a check has to fail in exactly the images its spoil is in.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.boot.checks import CHECKS, failing
from imagebuilder.boot.expected import Expected
from imagebuilder.boot.run import AT_ONCE, Proof, StrayError, boards, guest, node_disk, prove_all
from imagebuilder.keys import ssh
from tests.conftest import SCRIPTS
from tests.support.certificates import authority
from tests.support.cluster import Place, make_place
from tests.system.boot.breaking import KEYFILE, SPOILS, add_stranger_unit, opened, shares
from tests.system.boot.conftest import ACCOUNT
from tests.system.boot.rig import expected, laboratory

RELEASE = "bookworm"
BOOTS, EACH = 7, 3
SHARES = shares(SPOILS, BOOTS, EACH)
SPOILED = tuple(f"worker{number + 1}" for number in range(BOOTS))
UNSPOILED, WITHOUT_SUDO, NEW_HOST_KEY, OPEN_KEYFILE = "worker8", "worker9", "worker10", "worker11"
WORKERS = (*SPOILED, UNSPOILED, WITHOUT_SUDO, NEW_HOST_KEY, OPEN_KEYFILE)
GATEWAY = "master"
UNIT = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""


SETTINGS = """swap = "off"
journal = "persistent"
ca_certificates = ["home.pem"]
mount = [{ source = "tmpfs", path = "/srv/scratch", type = "tmpfs" }]"""
Proofs = Mapping[str, Proof]
_ENTERING = threading.Lock()  # laboratory() looks into the environment, which is one for all threads


def laid_out(folder: Path) -> Place:
    """A cluster with as many workers as are spoiled, and a unit and a package of its own."""
    place = make_place(folder, folder / "cache")
    place.edit(r"^# password = .*", 'password = { secret = "user_password" }')
    place.edit(r'^(network = "10\.0\.0\.0/24")', r'\1\nipv6 = "fd12:3456:789a:1::/64"')
    text = place.manifest.read_text()
    kept = text[: text.index('[[node]]\nname = "worker1"')]
    nodes = [
        f'[[node]]\nname = "{name}"\nrole = "worker"\nboard = "pi-3b+"\n{SETTINGS}\n'
        f'address = "10.0.0.{11 + number}"\n'
        for number, name in enumerate(WORKERS)
    ]
    place.manifest.write_text(kept + "\n".join([*nodes, ACCOUNT]))
    (place.folder / "home.pem").write_bytes(authority("home").pem)
    (place.folder / "anna.pub").write_text(f"{ssh.make('anna').public}\n")
    layer = place.folder / "overlays" / "worker"
    system = layer / "root/etc/systemd/system"
    system.mkdir(parents=True)
    (system / "thermometer.service").write_text(UNIT)
    (layer / "layer.toml").write_text(
        'packages = ["ca-certificates", "tree"]\n[units]\nenable = ["thermometer.service"]\n'
    )
    return place


def spoil(place: Place) -> None:
    """Spoil the images."""
    for node in (GATEWAY, *WORKERS):
        with opened(node, place.build / f"{node}.img") as image:
            add_stranger_unit(image)
            if node in SPOILED:
                for check in SHARES[SPOILED.index(node)]:
                    SPOILS[check](image)
            elif node == WITHOUT_SUDO:
                (image.root / "etc/sudoers.d/010_piimg").unlink()
                (image.root / "etc/sudoers.d/010_pi-nopasswd").unlink()
            elif node == NEW_HOST_KEY:  # sshd is left with what the first boot makes anew
                image.edit("etc/ssh/sshd_config.d/10-piimg.conf", "^HostKey .*$", "")
            elif node == OPEN_KEYFILE:  # NetworkManager ignores it, and asks DHCP
                (image.root / KEYFILE).chmod(0o644)
            elif node == GATEWAY:
                image.edit("etc/piimg/gateway.conf", "^POLICY='on-demand'", "POLICY='on'")


def proof(place: Place, wanted: Expected) -> Proof:
    """Boot a node by itself, check it, and switch it off."""
    with ExitStack() as stack:
        with _ENTERING:
            lab = stack.enter_context(laboratory(place, [wanted.node.name], boards("virt", AT_ONCE)))
        disk = node_disk(lab, wanted.node, place.build / f"{wanted.node.name}.img")
        booted = stack.enter_context(guest(lab, wanted.node, disk))
        return prove_all(lab, [booted], {wanted.node.name: wanted})[0]


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proofs]:
    """What came of each node; two are booted at a time."""
    folder = tmp_path_factory.mktemp("spoiled")
    base = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", RELEASE, base], check=True)
    place = laid_out(folder)
    place.good("build", "--all", "--base", base)
    base.unlink()  # gigabytes, as is what the cache keeps of it
    shutil.rmtree(place.cache)
    wanted = {name: expected(place, name, RELEASE) for name in (*WORKERS, GATEWAY)}
    spoil(place)
    begun = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {name: pool.submit(proof, place, one) for name, one in wanted.items()}
        done = {name: job.result() for name, job in jobs.items()}
    print(f"{len(jobs)} nodes booted and checked in {time.monotonic() - begun:.0f} s")
    yield done


def wrong(proof: Proof) -> dict[str, str]:
    """The checks that found something wrong, and what they said."""
    return {outcome.check: outcome.wrong for outcome in proof.outcomes if outcome.wrong}


pytestmark = [pytest.mark.timeout(7200), pytest.mark.checks]  # on a machine that has other things to do


def test_every_check_has_its_spoil() -> None:
    assert SPOILS.keys() | {"sudo", "gateway"} == {check.name for check in CHECKS}


def test_no_two_spoils_are_in_the_same_images() -> None:
    places = {check: frozenset(at for at, share in enumerate(SHARES) if check in share) for check in SPOILS}
    for check, where in places.items():
        assert len(where) == EACH
        assert [other for other, there in places.items() if there <= where] == [check]


@pytest.mark.parametrize("check", SPOILS)
def test_its_own_check_and_no_other_finds_it(proofs: Proofs, check: str) -> None:
    """In the images that have it, and in no other."""
    found = {node for node in SPOILED if check in wrong(proofs[node])}
    assert found == {node for node, share in zip(SPOILED, SHARES, strict=True) if check in share}, found


@pytest.mark.parametrize("node", SPOILED)
def test_all_that_was_spoiled_in_an_image_is_found_and_nothing_else(proofs: Proofs, node: str) -> None:
    proof = proofs[node]
    assert proof.trouble is None
    assert failing(proof.outcomes) == SHARES[SPOILED.index(node)], wrong(proofs[node])
    assert all(outcome.seen for outcome in proof.outcomes)


def test_an_image_that_was_not_spoiled_is_good(proofs: Proofs) -> None:
    proof = proofs[UNSPOILED]
    assert proof.good, wrong(proof)
    assert all(outcome.good for outcome in proof.outcomes)


def test_a_failed_unit_that_is_not_ours_is_named(proofs: Proofs) -> None:
    for node in (UNSPOILED, *SPOILED):
        [services] = [outcome for outcome in proofs[node].outcomes if outcome.check == "services"]
        assert "no-such-hardware.service" in services.remark


def test_without_sudo_only_that_is_wrong_and_what_root_sees_is_not_judged(proofs: Proofs) -> None:
    outcomes = proofs[WITHOUT_SUDO].outcomes
    assert set(wrong(proofs[WITHOUT_SUDO])) == {"sudo"}
    assert {outcome.check for outcome in outcomes if not outcome.seen} == {
        check.name for check in CHECKS if check.needs_root
    } - {"gateway"}


def test_a_host_key_made_anew_is_not_logged_in_to(proofs: Proofs) -> None:
    proof = proofs[NEW_HOST_KEY]
    assert set(wrong(proofs[NEW_HOST_KEY])) == {"host-key"}
    assert not any(outcome.good for outcome in proof.outcomes)


def test_an_address_from_dhcp_is_reported_as_one(proofs: Proofs) -> None:
    """A keyfile with mode 0644 is silently ignored: the node takes what DHCP gives it, and is found there.

    What follows from that is wrong as well: a script that needs the LAN looks for the node's own address.
    """
    proof = proofs[OPEN_KEYFILE]
    found = wrong(proof)
    assert isinstance(proof.trouble, StrayError)
    assert set(found) == {"modes", "address", "static", "route", "ipv6", "dns", "first-boot"}
    assert found["modes"] == f"/{KEYFILE} is 0644 root, not 0600 root"
    assert "has a limited lifetime (DHCP)" in found["static"]


def test_a_gateway_left_open_is_found(proofs: Proofs) -> None:
    assert set(wrong(proofs[GATEWAY])) == {"gateway"}, wrong(proofs[GATEWAY])
