"""`piimg plan --diff` against another manifest, and what it can be given. Needs no secret."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.plan.running import GIVEN, Done, piimg, refused


@pytest.fixture
def other(cluster: Path) -> Path:
    """A copy of the cluster folder, as it was."""
    shutil.copytree(cluster, cluster.parent / "was")
    return cluster.parent / "was" / "cluster.toml"


def diff(cluster: Path, *words: str | Path) -> Done:
    done = piimg(cluster, "plan", "--diff", *map(str, words))
    assert done.returncode == 0, done.stderr
    return done


def changed(text: str) -> dict[str, str]:
    """What follows each heading; a heading is a line with nodes and a path."""
    found = re.split(r"(?:^|\n\n)(?=[^\n ]+[^\n]*: (?:root|boot|the node itself))", text)
    return {part.partition("\n")[0]: part.partition("\n")[2].rstrip("\n") for part in found if part}


def edit(cluster: Path, old: str, new: str) -> None:
    manifest = cluster / "cluster.toml"
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new, 1))


def test_nothing(cluster: Path, other: Path) -> None:
    (cluster / "secrets.toml").unlink()
    done = diff(cluster, other)
    assert (done.stdout, done.stderr) == ("", f"all nodes: nothing differs from {other}\n")
    edit(cluster, "# picluster", "# Picluster") if "# picluster" in (
        cluster / "cluster.toml"
    ).read_text() else edit(cluster, "[cluster]", "# a comment\n[cluster]")
    done = diff(cluster, other)
    assert (done.stdout, done.stderr) == ("", "all nodes: nothing differs but the digest of the manifest\n")


def test_a_change_is_there_once_for_all_that_have_it(cluster: Path, other: Path) -> None:
    edit(cluster, "10.0.0.11", "10.0.0.41")
    edit(cluster, 'board = "pi-4b"', 'board = "pi-5"')
    found = changed(diff(cluster, other).stdout)
    assert list(found)[:2] == ["master: the node itself", "worker1: the node itself"]
    assert "-board pi-4b\n+board pi-5" in found["master: the node itself"]
    assert "-address 10.0.0.11 on eth0\n+address 10.0.0.41 on eth0" in found["worker1: the node itself"]
    hosts = found["all nodes: root/etc/hosts"]
    assert hosts.startswith(f"--- {other}\n+++ planned\n@@ -5,7 +5,7 @@\n")
    assert "-10.0.0.11 worker1.mine.internal worker1\n+10.0.0.41 worker1.mine.internal worker1" in hosts
    assert "worker1: root/etc/piimg/node.conf" in found
    assert not any("worker2" in title and "node.conf" in title for title in found), "only the digest differs"
    assert list(changed(diff(cluster, other, "--node", "worker3").stdout)) == [
        *("worker3: root/etc/hosts", "worker3: root/etc/ssh/ssh_known_hosts")
    ]


def test_layers_modes_owners_links_and_binary_files(cluster: Path, other: Path) -> None:
    for folder, mode, target, content in (
        (other.parent, "0644", "/a", b"\0"),
        (cluster, "0600", "/b", b"\0\1"),
    ):
        base = folder / "overlays/base"
        (base / "root/etc").mkdir(parents=True, exist_ok=True)
        (base / "root/etc/mode").write_text("same\n")
        (base / "root/etc/binary").write_bytes(content)
        owner = "user" if mode == "0600" else "root"
        rule = f'[files."root/etc/mode"]\nmode = "{mode}"\nowner = "{owner}"\n'
        (base / "layer.toml").write_text(f'{rule}[links]\n"root/etc/link" = "{target}"\n')
    (cluster / "overlays/base/root/etc/new").write_text("new\n")
    (other.parent / "overlays/base/root/etc/old").write_text("old\n")
    (cluster / "overlays/node-worker3/root").mkdir(parents=True)
    (cluster / "overlays/node-worker3/root/only").write_text("")
    found = changed(diff(cluster, other).stdout)
    assert found["all nodes: root/etc/mode"] == "-mode 0644\n+mode 0600\n-owner root\n+owner user"
    assert found["all nodes: root/etc/link"] == "-link to /a\n+link to /b"
    assert re.fullmatch(
        r"-\S+: binary, 1 bytes, sha256 \w{16}…\n\+planned: binary, 2 bytes, sha256 \w{16}…",
        found["all nodes: root/etc/binary"],
    )
    assert found["all nodes: root/etc/new"].startswith("only planned: file 0644 root, layer base (own)\n")
    assert found["all nodes: root/etc/old"].endswith("@@ -1 +0,0 @@\n-old")
    assert "+layer node-worker3 (own)" in found["worker3: the node itself"]


def test_nodes_that_came_and_went(cluster: Path, other: Path) -> None:
    edit(cluster, 'name = "worker5"', 'name = "worker6"')
    done = diff(cluster, other)
    assert f"worker6: not in {other}\n" in done.stderr and f"worker5: only in {other}\n" in done.stderr


def test_a_secret_is_masked_on_both_sides(cluster: Path, other: Path) -> None:
    for folder in (cluster, other.parent):
        base = folder / "overlays/base"
        (base / "root/etc").mkdir(parents=True, exist_ok=True)
        text = "{{ cluster.vars.token }}" + (" more\n" if folder == cluster else "\n")
        (base / "root/etc/token.j2").write_text(text)
        (base / "layer.toml").write_text('[files."root/etc/token"]\nmode = "0600"\n')
    found = changed(diff(cluster, other).stdout)
    assert found["all nodes: root/etc/token"].endswith("-********\n+******** more")


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda path: None, "cannot read "),
        (lambda path: path.mkdir(), "there are no node images in "),
        (lambda path: path.write_text("[cluster]\nname = 3\n"), "x has "),
        (lambda path: path.write_bytes(b"\0" * 99), "x:1: not TOML"),
        (lambda path: path.write_bytes(b"\0" * 510 + b"\x55\xaa"), "carries no node, or cannot be read"),
        (lambda path: path.symlink_to("/dev/null"), "is a character device"),
    ],
)
def test_what_cannot_be_compared_with(cluster: Path, make: Callable[[Path], object], wanted: str) -> None:
    make(cluster / "x")
    assert wanted in refused(piimg(cluster, "plan", "--diff", "x", env=GIVEN))


def test_nothing_is_prepared_yet(cluster: Path) -> None:
    done = piimg(cluster, "plan", "--diff", env=GIVEN)
    assert (done.returncode, done.stdout) == (0, "")
    assert "all nodes: neither prepared nor built yet, so there is nothing to compare with\n" in done.stderr
    assert not (cluster / "state").exists()
    assert piimg(cluster, "plan", "--diff", "-v", "--node", "master", env=GIVEN).returncode == 0
