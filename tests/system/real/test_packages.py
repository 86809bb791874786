"""Packages and build scripts in a real Debian system, from a mirror of the test and from Debian's own."""

import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.base.cache import Cache
from imagebuilder.dressing.dress import dressed
from imagebuilder.dressing.request import Request
from imagebuilder.dressing.store import Store
from imagebuilder.errors import Interrupted
from imagebuilder.events import Event, Message, Silent
from imagebuilder.image.base.opening import open_base
from imagebuilder.software import BuildScript
from imagebuilder.system import loop, mount
from imagebuilder.system.files import copy_sparse
from tests.conftest import SCRIPTS, releases
from tests.support import judge
from tests.support.cluster import Place, make_place
from tests.system.real.dressing_bench import Bench, opened_with, tree_of

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]


@dataclass
class Recorder:
    """A Reporter that keeps the events."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)


def status_of_host() -> bytes:
    return Path("/var/lib/dpkg/status").read_bytes()


def test_packages_are_installed_once_and_the_host_is_left_alone(bench: Bench) -> None:
    before, known = status_of_host(), bench.base.file.stat().st_mtime_ns
    result = bench.dress("piimg-top")
    names = {package.name for package in result.record.packages}
    assert {"piimg-top", "piimg-one", "dpkg"} <= names
    assert judge.on_root(result.path, "/usr/bin/piimg-top") == b"#!/bin/sh\n"
    states = judge.on_root(result.path, "/var/lib/apt/extended_states").decode()
    assert (
        "Package: piimg-one\nArchitecture: all\nAuto-Installed: 1\n" in states and "piimg-top" not in states
    )
    made = result.path.stat()
    again = bench.dress("piimg-top")
    assert again == result and again.path.stat() == made
    assert status_of_host() == before and bench.base.file.stat().st_mtime_ns == known
    judge.check_file_systems(result.path, result.path.parent)


def test_accounts_have_the_same_number_whatever_else_is_installed(bench: Bench) -> None:
    alone, both = bench.dress("piimg-one"), bench.dress("piimg-one", "piimg-two")
    number = alone.record.accounts["pione"]
    assert both.record.accounts["pione"] == number
    passwd = judge.on_root(both.path, "/etc/passwd").decode()
    assert f"\npione:x:{number}:{number}:" in passwd
    opened = open_base(both.path, "x", "0" * 64, Silent())
    with mount.ext4(both.path, opened.root.start, opened.root.size, read_only=True) as point:
        info = (point / "var/lib/pione").stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (number, number, 0o2750)


def test_the_same_request_gives_the_same_tree(bench: Bench) -> None:
    first = bench.dress("piimg-one", "piimg-secrets")
    tree = tree_of(first)
    Store(bench.cache).clear(first.key)
    assert tree_of(bench.dress("piimg-one", "piimg-secrets")) == tree


def test_nodes_share_no_secret_and_nothing_reaches_the_host(bench: Bench) -> None:
    seen = Recorder()
    request = Request(("piimg-secrets",))
    Store(bench.cache).clear(request.key(bench.base.digest))
    result = dressed(bench.base, request, bench.cache, seen, threading.Event())
    opened = open_base(result.path, "x", "0" * 64, Silent())
    with mount.ext4(result.path, opened.root.start, opened.root.size, read_only=True) as point:
        assert not (point / "etc/munge/munge.key").exists()
        assert not (point / "etc/ssh/ssh_host_test_key").exists()
        assert (point / "etc/machine-id").read_bytes() == opened.info.release.facts.machine_id
        assert not (point / "usr/sbin/policy-rc.d").exists()
        assert not (point / "run/piimg").exists()
    warnings = [
        event.text for event in seen.events if isinstance(event, Message) and event.level == "warning"
    ]
    assert [text for text in warnings if "/etc/ssl/private/snake.key" in text]


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (("piimg-secert",), "the base has no package piimg-secert in its sources; is piimg-secrets meant?"),
        (("piimg-what",), "piimg-what is not a package but a name for several"),
        (("piimg-alone",), "piimg-alone : Depends: piimg-nowhere but it is not installable"),
        (("piimg-this", "piimg-that"), "cannot be installed on the base: piimg-t"),
        (
            ("piimg-bad",),
            "the package piimg-bad cannot be installed: installed piimg-bad package post-installation",
        ),
        (("piimg-bad",), "the disk is made of cheese"),
        (("piimg-large",), "not enough space to dress the base"),
    ],
)
def test_what_is_wrong_with_packages_is_reported_in_one_sentence(
    bench: Bench, packages: tuple[str, ...], message: str
) -> None:
    assert message in bench.refused(*packages).message


def script(text: str, *, internet: bool = False, timeout: int = 100) -> tuple[BuildScript, ...]:
    return (BuildScript("20-test", "own", "own/build.d/20-test", text.encode(), internet, timeout),)


@pytest.mark.parametrize(
    ("text", "timeout", "message"),
    [
        (
            "#!/bin/bash\nset -e\ntrue\nls /nonexistent\n",
            100,
            "own/build.d/20-test:4: failed with exit status 2: ls",
        ),
        ("#!/bin/sh\nset -e\nnosuch\n", 100, "own/build.d/20-test:3: failed with exit status 127"),
        ("#!/bin/sh\nexit 7\n", 100, "own/build.d/20-test: failed with exit status 7: it printed nothing"),
        ("#!/bin/nosuch\n", 100, "own/build.d/20-test: failed with exit status 127"),
        ("#!/bin/sh\nwhile :; do sleep 0.1; done\n", 2, "own/build.d/20-test took longer than 2 seconds"),
    ],
)
def test_a_script_that_fails_is_named_with_its_line(
    bench: Bench, text: str, timeout: int, message: str
) -> None:
    error = bench.refused(scripts=script(text, timeout=timeout))
    assert message in error.message


def test_a_script_runs_in_the_image_and_its_programs_end_with_it(bench: Bench) -> None:
    text = (
        f"#!/bin/sh\n# needs: internet\nset -e\napt-get update && apt-get install --yes piimg-two\n"
        f"test $RELEASE = {bench.base.info.release} && grep -q . /etc/resolv.conf\n"
        "echo made >/etc/made\nsetsid sleep 1000 >/dev/null 2>&1 &\nsleep 1000 &\n"
    )
    resolver = judge.on_root(bench.base.file, "/etc/resolv.conf")
    result = bench.dress(scripts=script(text, internet=True))
    assert judge.on_root(result.path, "/etc/made") == b"made\n"
    assert judge.on_root(result.path, "/etc/resolv.conf") == resolver
    assert "piimg-two" in {package.name for package in result.record.packages}
    assert b"20-test" in result.log.read_bytes()


def test_a_mirror_that_is_down(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "base.img"
    copy_sparse(bench.base.file, file)
    base = opened_with(file, "deb [trusted=yes] http://127.0.0.1:9 ./\n", tmp_path)
    down = Bench(base, Cache(tmp_path / "cache"), bench.mirror, bench.url)
    error = down.refused("piimg-top")
    assert "the lists of packages cannot be fetched" in error.message and "127.0.0.1:9" in error.message


def test_an_unsigned_mirror_is_refused(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "base.img"
    copy_sparse(bench.base.file, file)
    base = opened_with(file, f"deb {bench.url} ./\n", tmp_path)
    unsigned = Bench(base, Cache(tmp_path / "cache"), bench.mirror, bench.url)
    assert "the lists of packages cannot be fetched" in unsigned.refused("piimg-top").message


def test_a_stop_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(Interrupted):
        bench.dress("piimg-top", "piimg-two", "piimg-secrets", stop=True)
    bench.check_nothing_is_left(Request(("piimg-secrets", "piimg-top", "piimg-two")))


@pytest.mark.parametrize("release", releases())
def test_six_nodes_of_one_role_run_apt_once_with_packages_of_debian(release: str, tmp_path: Path) -> None:
    """The whole way: manifest, layer, plan, build; on Debian's own mirror."""
    base = tmp_path / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", release, base], check=True)
    place = make_place(tmp_path, tmp_path / "cache")
    place.edit(r"^\[gateway\]", '[role.worker]\npackages = ["tree"]\n\n[gateway]')
    layer = place.folder / "overlays/worker"
    (layer / "build.d").mkdir(parents=True)
    (layer / "layer.toml").write_text('packages = ["htop"]\n')
    (layer / "build.d/20-made").write_text("#!/bin/sh\ntree --version >/etc/made\n")
    shown = place.good("plan", "--full", "--release", release, "--node", "worker1")
    assert "package   htop (layer worker (own))" in shown and "package   tree (role.worker)" in shown
    assert "build.d   20-made (layer worker (own))" in shown
    out = place.run("--progress", "json", "build", "--node", "worker1", "--node", "worker2", "--base", base)
    assert out.returncode == 0, out.stderr
    events = [json.loads(line) for line in out.stderr.splitlines() if line.startswith("{")]
    begun = [event["task"] for event in events if event.get("event") == "started"]
    assert begun.count("packages") == 1 and begun.count("unpack") >= 1
    for node in ("worker1", "worker2"):
        document = json.loads((place.build / f"{node}.json").read_text())
        packages = {one["name"]: one["version"] for one in document["packages"]}
        assert packages["htop"] and packages["tree"]
        assert document["base"]["dressed"] != document["base"]["sha256"]
        assert judge.on_root(place.build / f"{node}.img", "/etc/made").startswith(b"tree v")
        names = {
            load["name"] for load in json.loads(place.good("export", "sbom", "--node", node))["components"]
        }
        assert packages.keys() < names
    check_that_all_commands_know_it(place, base, tmp_path / "card")


def check_that_all_commands_know_it(place: Place, base: Path, card: Path) -> None:
    """What two workers were built from is used, kept and named by the other commands."""
    prepared = place.folder / "state/mycluster/prepared"
    (dressed_base,) = Store(Cache(place.cache)).folder.glob("*.img")
    made = dressed_base.stat()
    assert {node["node"]: node["up_to_date"] for node in nodes_of(place, base)} == {
        **dict.fromkeys(("worker1", "worker2"), True),
        **dict.fromkeys(("master", "worker3", "worker4", "worker5"), False),
    }
    place.good("fetch", "--prune")
    before = (prepared / "worker1.json").stat()
    card.touch()
    os.truncate(card, 8 * 10**9)
    with loop.attached(card, direct_io=True) as device:
        words = ("--node", "worker1", "--virtual", "--yes", "--base", base)
        place.good("flash", device, *words)
        assert judge.on_root(device, "/etc/made").startswith(b"tree v")
        assert (prepared / "worker1.json").stat() == before and dressed_base.stat() == made
        place.edit(r'^packages = \["tree"\]', 'packages = ["figlet", "tree"]')
        workers = [node for node in nodes_of(place, base) if node["node"] != "master"]
        assert [node["up_to_date"] for node in workers] == [None] * len(workers)
        done = place.run("flash", device, *words)
        assert done.returncode == 0 and "\nworker1: packages changed\n" in done.stderr, done.stderr
        assert judge.on_root(device, "/usr/bin/figlet-figlet")
    (worker2,) = (node for node in nodes_of(place, base) if node["node"] == "worker2")
    assert worker2["changes"] == ["packages changed"]
    place.good("build", "--node", "worker2", "--base", base)
    place.good("fetch", "--prune")
    assert not dressed_base.exists() and len(list(dressed_base.parent.glob("*.img"))) == 1
    assert [node["up_to_date"] for node in nodes_of(place, base)].count(True) == 2


def nodes_of(place: Place, base: Path) -> list[dict[str, Any]]:
    """The nodes in `piimg status --json`."""
    nodes: list[dict[str, Any]] = json.loads(place.good("status", "--json", "--base", base))["nodes"]
    return nodes
