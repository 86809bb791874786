"""The judges: a right node is right by all of them; each fault is reported by its own check alone.

What is spoiled here is the node's answer; tests/system/boot spoils real node images and boots them.
"""

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.boot import checks, probe
from imagebuilder.boot.expected import Surroundings
from imagebuilder.model import Release
from imagebuilder.settings import Policy, Swap, SwapKind
from imagebuilder.software import Software
from tests.unit.boot.answers import BASE_ID, DISK_ID, Lines, Spoil, expected, less, more, right, spell, swap

NAMES = {check.name for check in checks.CHECKS} - {"ipv6"}
ALONE = Surroundings()
LAN6 = "fd12:3456:789a:1::/64"
WORKER_ROUTES6 = dict(right(expected(lan6=LAN6)))["routes6"]
ALL_THERE = Surroundings(gateway=True, internet=True)


def judged(
    lines: Lines, node: str = "worker2", around: Surroundings = ALONE, *, dressed: bool = True
) -> tuple[checks.CheckResult, ...]:
    return checks.judge(expected(node, around=around, dressed=dressed), probe.parse(spell(lines)))


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize("node", ["master", "worker2"])
@pytest.mark.parametrize("around", [Surroundings(), ALL_THERE])
def test_a_right_node_is_right(node: str, release: Release, around: Surroundings) -> None:
    one = expected(node, release, around)
    outcomes = checks.judge(one, probe.parse(spell(right(one))))
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert {outcome.check for outcome in outcomes} == NAMES - ({"gateway"} if node == "worker2" else set())


BY_DHCP: dict[str, Any] = {"router": "10.0.0.254", "by_dhcp": ("worker2", "worker3")}


def summary_of(lines: Lines) -> dict[str, object]:
    found = json.loads(dict(lines)["summary"])
    assert isinstance(found, dict)
    return found


def script(name: str, **changed: object) -> Spoil:
    """What the summary says of one script."""

    def spoil(lines: Lines) -> Lines:
        summary = summary_of(lines)
        scripts = summary["scripts"]
        assert isinstance(scripts, list)
        assert any(one["name"] == name for one in scripts)
        summary["scripts"] = [one | changed if one["name"] == name else one for one in scripts]
        return [(k, json.dumps(summary) if k == "summary" else v) for k, v in lines]

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(lines: Lines) -> Lines:
        for one in spoils:
            lines = one(lines)
        return lines

    return spoil


def everywhere(old: str, new: str) -> Spoil:
    return lambda lines: [(key, value.replace(old, new)) for key, value in lines]


def again(name: str, *statuses: int | None) -> Spoil:
    said = [f"exit status {status}" if status is not None else "try 9 (needs none)" for status in statuses]
    return both(*(more("ran", f'2026-11-24T22:00:00Z "{name}": {line}') for line in said))


Case = tuple[str, Spoil, str]

ON_WORKER: list[Case] = [
    ("manifest", swap("identity", "worker2", "worker3"), "for the node worker3"),
    ("manifest", swap("identity", '"cluster": "picluster"', '"cluster": "other"'), "cluster other"),
    ("manifest", swap("identity", expected().cluster.digest, "0" * 64), "build it again"),
    ("manifest", swap("identity", "{", ""), "not on the boot partition"),
    ("hostname", swap("hostname", "worker2", "raspberrypi"), "called raspberrypi"),
    ("hostname", swap("hostname-file", "worker2", "pi"), "/etc/hostname contains pi"),
    ("address", swap("links", "10.0.0.12", "10.0.0.99"), "has 10.0.0.99, not 10.0.0.12"),
    ("address", swap("links", "eth0", "end0"), "eth0 has no address"),
    ("mask", swap("links", '"prefixlen": 24', '"prefixlen": 16'), "/16, not /24"),
    ("static", swap("links", '"scope": "global"', '"scope": "global", "dynamic": true'), "limited lifetime"),
    ("static", swap("routes", "static", "dhcp"), "came from DHCP"),
    ("static", more("lease", "/var/lib/dhcpcd/eth0.lease"), "DHCP lease"),
    ("static", swap("profile", " manual ", " auto "), "piimg-lan.nmconnection: method auto"),
    ("static", swap("profile", "".join(expected().profiles), "0" * 8), "which is not the cluster's"),
    ("route", swap("routes", '10.0.0.1"', '10.0.0.2"'), "via 10.0.0.2 on eth0, not via 10.0.0.1"),
    ("route", swap("routes", "default", "192.0.2.0/24"), "no default route"),
    ("dns", swap("resolv", "1.1.1.1", "10.0.0.1"), "it uses 10.0.0.1, 9.9.9.9"),
    ("dns", less("resolv", "search"), "picluster.internal is not a search domain"),
    ("hosts", more("hosts", "127.0.1.1 worker2"), "worker2 resolves to 10.0.0.12, 127.0.1.1"),
    ("hosts", less("hosts", "worker5"), "worker5 resolves to nothing"),
    ("user", swap("passwd", "pi:x", "debian:x"), "UID 1000 is debian"),
    ("user", swap("passwd", "/bin/bash", "/usr/sbin/nologin"), "its shell"),
    ("user", swap("passwd", "/home/pi", "/home/debian"), "its home"),
    ("user", swap("groups", "sudo ", ""), "not in the group sudo"),
    ("user", swap("login", "pi", "root"), "becomes root"),
    ("password", swap("password", expected().password, "0" * 64), "not the password of the manifest"),
    ("keys", more("authorized", "ssh-ed25519 AAAA eve@elsewhere"), "may log in: eve@elsewhere"),
    ("keys", less("authorized", "somebody@desk"), "missing: somebody@desk"),
    ("accounts", less("account", "anna"), "there is no account anna"),
    ("accounts", swap("account", "1001:1001", "1002:1002"), "anna has 1002, /home/anna, /bin/bash"),
    ("accounts", swap("account", "/bin/bash", "/bin/sh"), "anna has 1001, /home/anna, /bin/sh"),
    ("accounts", swap("account-groups", " gpio", ""), "anna is not in the group gpio"),
    ("accounts", less("account-key", "anna"), "the keys of anna are not those of the manifest"),
    ("accounts", more("account-key", "anna ssh-ed25519 BBBB eve"), "the keys of anna are not those"),
    ("password-login", swap("sshd", "passwordauthentication no", "passwordauthentication yes"), "yes"),
    ("password-login", swap("sshd", "login without-password", "login yes"), "permitrootlogin yes"),
    ("password-login", swap("offered", "publickey", "publickey,password"), "offers public"),
    ("password-login", less("offered", ""), "did not refuse"),
    ("password-login", less("sshd", "passwordauthentication"), "does not report"),
    ("ssh-port", swap("sshd", "port 22", "port 2222"), "2222, not 22"),
    ("ssh-port", more("sshd", "port 2222"), "22, 2222, not 22"),
    ("host-key", swap("presented", "AAAA", "BBBB"), "another host key"),
    ("host-key", more("presented", "127.0.0.1 ssh-rsa AAAA"), "not made for the node, too: ssh-rsa"),
    ("host-key", less("presented", ""), "no host key"),
    ("known-hosts", less("known-host", "worker4"), "no key is known for worker4"),
    ("known-hosts", swap("known-host", expected().host_keys["master"], "ssh-rsa AA"), "another key"),
    ("machine-id", swap("machine-id", "4e712807accd45c3a257dbe09871afa2", "uninitialized"), "uninit"),
    ("disk-id", swap("disk-id", DISK_ID, "deadbeef"), "not PARTUUID=deadbeef"),
    ("disk-id", swap("cmdline", DISK_ID, BASE_ID), "cmdline.txt has"),
    ("disk-id", everywhere(DISK_ID, BASE_ID), "it is still 5b0012aa"),
    ("grown", swap("disk", "16777216 ", "33554432 "), "8192 MiB of the card"),
    ("grown", swap("file-system", "4096", "1024"), "of its partition"),
    ("grown", swap("disk", "16777216 1064960 15712256", ""), "not known"),
    ("consumed", more("on-boot", "USERCONF.TXT"), "USERCONF.TXT is still"),
    ("consumed", swap("cmdline", "rootwait", "rootwait resize"), "still has resize"),
    ("modes", swap("mode", "600 0 0 /etc/Net", "644 0 0 /etc/Net"), "0644 root, not 0600 root"),
    ("modes", swap("mode", "600 1000 1000", "600 0 0"), "0600 root, not 0600 1000:1000"),
    ("modes", less("mode", "gateway_key"), "gateway_key is missing"),
    ("time", swap("ntp-servers", "10.0.0.1", "192.0.2.1"), "uses 192.0.2.1, not 10.0.0.1"),
    ("time", swap("ntp", "yes", "no"), "switched off"),
    ("timezone", swap("timezone", "Europe/London", "Etc/UTC"), "Etc/UTC, not Europe/London"),
    ("timezone", swap("timezone-file", "London", "Paris"), "/etc/timezone says Europe/Paris"),
    ("locale", swap("lang", "en_GB", "C"), "LANG is C.UTF-8"),
    ("locale", swap("lang-at-login", "en_GB.UTF-8", ""), "at login is not set"),
    ("locale", less("locale", "en_GB"), "not generated"),
    ("keyboard", swap("keyboard", "gb", "us"), "us, not gb"),
    ("swap", less("swap", "/var/swap"), "there is no swap"),
    ("swap", swap("swap", "524284", "102396"), "/var/swap of 99 MiB, not of 512 MiB"),
    ("swap", more("swap", "/dev/zram0 partition 1918972 none"), "not a file of 512 MiB"),
    ("swap", swap("swap", "/var/swap file", "/dev/sda2 partition"), "not a file of 512 MiB"),
    ("mounts", less("fstab", "/srv/a"), "fstab has no such line for /srv/a"),
    ("mounts", swap("fstab", "size=16M,nofail", "size=16M"), "fstab has no such line for /srv/scratch"),
    ("mounts", less("mounted", "/srv/scratch"), "/srv/scratch is not mounted"),
    ("ca-certificates", less("certificate", "piimg-home"), ".crt is not trusted"),
    ("journal", swap("journal", "/var/log", "/run/log"), "it is in /run/log/journal/"),
    ("journal", less("journal", ""), "there is no journal"),
    ("first-boot", script("10-locale", status="failed", exit_status=1, attempts=5, said="no room"),
     "10-locale failed with exit status 1 after 5 tries: no room"),
    ("first-boot", script("10-locale", status="waiting"), "10-locale has not run"),
    ("first-boot", swap("summary", "10-locale", "10-other"), "07-ca-certificates, 10-other; planned are 05-"),
    ("first-boot", swap("summary", '"node": "worker2"', '"node": "worker1"'), "from worker1"),
    ("first-boot", swap("summary", "{", ""), "summary is not"),
    ("first-boot", less("stamp", "10-locale"), "stamps of 05-account"),
    ("first-boot", again("05-account", None), "ran again after"),
    ("first-boot", again("05-account", None, 0), "succeeded 2 times"),
    ("first-boot", less("ran", "05-account"), "05-account succeeded 0 times"),
    ("first-boot", both(less("ran", "05-account"), again("05-account", None, 0)), "another order"),
    ("packages", swap("package", "installed htop", "config-files htop"), "htop is not installed, but config"),
    ("packages", less("package", ""), r"figlet is not known to dpkg \(and 1 more\)"),
    ("services", swap("system", "running", "starting"), "the system is starting"),
    ("services", both(swap("system", "running", "starting"), more("job", "resize2fs_once.service start")),
     "the system is starting: it waits for resize2fs_once.service start"),
    ("services", more("failed", "ssh.service loaded failed failed x"), "ssh.service failed"),
    ("services", swap("unit", "FileState=enabled", "FileState=disabled"), "not enabled, but disabled"),
    ("services", less("unit", "Id=NetworkManager.service"), "NetworkManager.service is unknown"),
]  # fmt: skip

ON_MASTER: list[Case] = [
    ("route", swap("routes", "10.0.0.0/24", "default"), "into its own LAN"),
    ("dns", less("resolv", "9.9.9.9"), "not 1.1.1.1, 9.9.9.9"),
    ("gateway", swap("gateway", '"open": false', '"open": true'), "it is open, but its policy is on-demand"),
    ("gateway", swap("gateway", '"on-demand"', '"on"'), "its policy is on, not on-demand"),
    ("gateway", swap("gateway", "wlan0", "usb0"), "out through usb0"),
    ("gateway", less("table", "piimg_gateway"), "the LAN is not closed"),
    ("gateway", swap("gateway", '"problems": []', '"problems": ["nft: no"]'), "it reports: nft: no"),
    ("gateway", swap("gateway", "{", ""), "does not answer"),
]  # fmt: skip


WRONG = [("worker2", *one) for one in ON_WORKER] + [("master", *one) for one in ON_MASTER]


@pytest.mark.parametrize(
    ("node", "check", "spoil", "said"), WRONG, ids=[f"{one[1]}-{at}" for at, one in enumerate(WRONG)]
)
def test_what_is_wrong_is_reported_by_one_check(node: str, check: str, spoil: Spoil, said: str) -> None:
    outcomes = judged(spoil(right(expected(node))), node)
    assert checks.failing(outcomes) == {check}
    [reported] = [outcome.wrong for outcome in outcomes if outcome.wrong]
    assert reported.isprintable()
    assert re.search(said, reported), reported


def test_every_check_is_seen_failing() -> None:
    assert {one[1] for one in WRONG} == NAMES - {"sudo"}


def test_a_layer_with_packages_needs_no_internet_on_the_first_boot() -> None:
    given = expected("master", around=ALL_THERE, dressed=False)
    for place, said in (("role.master", ""), ("layer master", "30-time needs the internet, though")):
        plan = dataclasses.replace(given.plan, software=Software({"chrony": (place,)}))
        one = dataclasses.replace(given, plan=plan)
        outcomes = checks.judge(one, probe.parse(spell(right(one))))
        assert checks.failing(outcomes) == ({"first-boot"} if said else set())
        assert all(outcome.wrong.startswith(said) for outcome in outcomes if outcome.wrong)


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize(
    ("kind", "there", "said"),
    [
        (SwapKind.DEFAULT, ["/dev/zram0 partition 1918972 /dev/loop0"], None),
        (SwapKind.OFF, [], ""),
        (SwapKind.OFF, ["/var/swap file 524284 none"], "there is swap: /var/swap of 511 MiB"),
        (SwapKind.ZRAM, ["/dev/zram0 partition 1918972 none"], ""),
        (SwapKind.ZRAM, [], "there is no swap"),
        (SwapKind.ZRAM, ["/dev/zram0 partition 9 none", "/var/swap file 9 none"], "outside of memory"),
        (SwapKind.ZRAM, ["/dev/zram0 partition 1918972 /dev/loop0"], "/dev/zram0 writes to /dev/loop0"),
    ],
)
def test_swap(release: Release, kind: SwapKind, there: list[str], said: str | None) -> None:
    one = expected("worker2", release, swap=Swap(kind))
    lines = [*(line for line in right(one) if line[0] != "swap"), *(("swap", line) for line in there)]
    found = {outcome.check: outcome for outcome in checks.judge(one, probe.parse(spell(lines)))}
    if said is None:
        assert "swap" not in found
    else:
        assert said in found["swap"].wrong and bool(said) == bool(found["swap"].wrong)


@pytest.mark.parametrize("line", ["/var/swap file", "/var/swap file many none", "a b c d e"])
def test_a_line_of_swap_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(probe.FactsError, match="not understood: swap"):
        judged(more("swap", line)(right(expected())))


def test_without_sudo_only_sudo_is_wrong() -> None:
    lines = right(expected())
    at = [key for key, _ in lines].index("sudo")
    outcomes = judged([*lines[:at], ("sudo", "no")])
    assert checks.failing(outcomes) == {"sudo"}
    unseen = {outcome.check for outcome in outcomes if not outcome.seen}
    assert unseen == {check.name for check in checks.checks_for(expected()) if check.needs_root}
    assert not any(outcome.good for outcome in outcomes if outcome.check in unseen)


def test_a_node_nobody_reached_is_reported_by_one_check() -> None:
    outcomes = checks.unreached(expected(), "host-key", "another one")
    assert checks.failing(outcomes) == {"host-key"}
    assert [outcome for outcome in outcomes if outcome.good] == []


def test_what_waits_for_the_internet_is_said_and_no_failure() -> None:
    outcomes = judged(right(expected("master", dressed=False)), "master", dressed=False)
    [outcome] = [one for one in outcomes if one.check == "first-boot"]
    assert outcome.good and outcome.remark == "30-time waits for the internet"
    [outcome] = [one for one in outcomes if one.check == "time"]
    assert outcome.good
    assert outcome.remark == "chrony is not installed without the internet: systemd-timesyncd until then"


def test_where_there_is_internet_waiting_for_it_is_a_failure() -> None:
    lines = right(expected("master", dressed=False))
    outcomes = judged(lines, "master", ALL_THERE, dressed=False)
    assert checks.failing(outcomes) == {"first-boot"}


@pytest.mark.parametrize("dressed", [True, False])
def test_chrony_must_answer_the_lan(dressed: bool) -> None:
    one = expected("master", around=ALL_THERE, dressed=dressed)
    for spoil, said in ((less("chrony", "allow"), "does not answer"), (less("chrony", ""), "is missing")):
        outcomes = judged(spoil(right(one)), "master", ALL_THERE, dressed=dressed)
        assert checks.failing(outcomes) == {"time"}
        assert said in next(outcome.wrong for outcome in outcomes if outcome.wrong)


def test_failed_units_of_others_are_named_only() -> None:
    spoil = both(
        more("failed", "rpi-eeprom-update.service loaded failed failed x"),
        swap("system", "running", "degraded"),
    )
    outcomes = judged(spoil(right(expected())))
    assert checks.failing(outcomes) == set()
    [services] = [outcome for outcome in outcomes if outcome.check == "services"]
    assert services.remark == "other units failed: rpi-eeprom-update.service"


def test_a_profile_kept_by_netplan_is_named_only() -> None:
    made = "/run/NetworkManager/system-connections/netplan-NM-1.nmconnection"
    moved = swap("profile", "/etc/NetworkManager/system-connections/piimg-lan.nmconnection", made)
    outcomes = judged(moved(right(expected())))
    assert checks.failing(outcomes) == set()
    assert next(outcome for outcome in outcomes if outcome.check == "static").remark.endswith(
        f"folder, as {made}"
    )


def test_the_first_boot_unit_is_judged_with_its_scripts() -> None:
    spoil = both(
        more("failed", "piimg-firstboot.service loaded failed failed x"),
        swap("system", "running", "degraded"),
        script("10-locale", status="failed", exit_status=7),
        less("stamp", "10-locale"),
    )
    assert checks.failing(judged(spoil(right(expected())))) == {"first-boot"}


def test_a_gateway_in_use_is_named_only() -> None:
    spoil = both(
        swap("gateway", '"open": false', '"open": true'),
        swap("gateway", '"users": []', '"users": ["10.0.0.12"]'),
    )
    outcomes = judged(spoil(right(expected("master"))), "master")
    assert checks.failing(outcomes) == set()
    assert (
        next(outcome for outcome in outcomes if outcome.check == "gateway").remark == "kept open by 10.0.0.12"
    )


def test_a_gateway_whose_policy_is_on_must_be_open() -> None:
    one = expected("master")
    assert one.cluster.gateway is not None
    cluster = dataclasses.replace(
        one.cluster, gateway=dataclasses.replace(one.cluster.gateway, policy=Policy.ON)
    )
    always = dataclasses.replace(one, cluster=cluster)
    closed = swap("gateway", '"on-demand"', '"on"')(right(one))
    assert checks.failing(checks.judge(always, probe.parse(spell(closed)))) == {"gateway"}
    opened = swap("gateway", "false", "true")(closed)
    assert checks.failing(checks.judge(always, probe.parse(spell(opened)))) == set()
    stopper = '{"table": "ip filter", "chain": "FORWARD"}'
    stopped = swap("gateway", '"stopped_by": null', f'"stopped_by": {stopper}')(opened)
    assert checks.failing(checks.judge(always, probe.parse(spell(stopped)))) == {"gateway"}


KEYS = sorted({key for key, _ in right(expected("master"))} | {"lease", "failed", "job", "chrony", "table"})


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.text(max_size=40)), min_size=1, max_size=5))
def test_no_answer_makes_a_judge_stumble(changed: list[tuple[str, str]]) -> None:
    lines = right(expected("master"))
    for key, value in changed:
        at = next((at for at, line in enumerate(lines) if line[0] == key), len(lines))
        lines[at : at + 1] = [(key, value.replace("\n", " "))]
    try:
        found = probe.parse(spell(lines))
    except probe.FactsError:
        return
    for outcome in checks.judge(expected("master"), found):
        assert outcome.wrong.isprintable() and outcome.remark.isprintable()
        assert len(outcome.wrong) < 400
