"""`piimg plan`: the cluster on one screen, at a terminal and in a pipe; through a pager, as git does it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuilder.cli.planned import wording
from imagebuilder.cli.tables import fitted_table
from tests.support.terminal import Window, window
from tests.unit.plan.running import GIVEN, PIIMG, piimg, planned, refused


def shown(text: str, head: str) -> list[str]:
    """The lines under a heading of the overview."""
    lines = text.split("\n")
    at = lines.index(head) + 1
    return lines[at : next(number for number in range(at, len(lines)) if lines[number][:1] != " ")]


def table(text: str) -> dict[str, dict[str, str]]:
    """The rows of the table, by node and by the heading of the column."""
    _, head, *rows = text.partition("\n\n")[0].split("\n")
    starts = [match.start() for match in re.finditer(r"(?<=  )\S|^\S", head)]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    names = [head[start:end].strip() for start, end in spans]
    cells = [[row[start:end].strip() for start, end in spans] for row in rows]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cells}


def test_what_all_have_is_there_once_and_what_is_a_node_s_own(cluster: Path) -> None:
    for name, files in {
        "node-worker2": {"root/etc/motd": "mine"},
        "mpi": {"root/etc/mpi.j2": "{{ cluster.vars.token }}", "firstboot.d/70-mpi": "#!/bin/sh\n"},
    }.items():
        for path, content in files.items():
            file = cluster / "overlays" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    (cluster / "overlays/mpi/layer.toml").write_text('[files."root/etc/mpi"]\nmode = "0600"\n')
    manifest = cluster / "cluster.toml"
    text = manifest.read_text().replace('address = "10.0.0.13"', 'address = "10.0.0.13"\nlayers = ["mpi"]')
    manifest.write_text(text)
    said = planned(cluster)
    assert said.startswith("mine: 6 nodes, trixie, base image raspios-trixie-arm64-lite\n")
    rows = table(said)
    assert list(rows) == ["master", *(f"worker{number}" for number in range(1, 6))]
    master, second, third = rows["master"], rows["worker2"], rows["worker3"]
    assert (master["ROLE"], master["BOARD"], master["ADDRESS"]) == ("master", "pi-4b", "10.0.0.1")
    assert (master["WAY OUT"], master["SECRETS"]) == ("wlan0 (Wi-Fi)", "wifi_psk")
    assert (second["WAY OUT"], second["LAYERS"]) == ("master", "node-worker2 (own)")
    assert "mpi (own)" in third["LAYERS"] and third["SECRETS"] == "token"
    assert "70-mpi" in third["SCRIPTS"] and "70-mpi" not in second["SCRIPTS"]
    common = "\n".join(shown(said, "all nodes"))
    assert "base, base (own), network-manager, os-trixie" in common and "05-account, 10-locale" in common
    assert re.search(r"secrets +user_password\n", common)
    assert re.search(r"paths +\d\d the same; different: .*root/etc/hostname", common)
    assert any("root/etc/mpi" in line for line in shown(said, "worker3"))
    assert any("root/usr/local/sbin/piimg-gateway" in line for line in shown(said, "master"))
    assert "root/etc/hosts" not in said, "it is the same on all nodes"


def test_the_way_out(cluster: Path) -> None:
    manifest = cluster / "cluster.toml"
    text = manifest.read_text()
    radio = 'address = "10.0.0.11"\n\n[node.wifi]\nssid = "x"\ncountry = "GB"\n'
    manifest.write_text(text.replace('address = "10.0.0.11"\n', radio))
    assert table(planned(cluster))["worker1"]["WAY OUT"] == "wlan0 (Wi-Fi), master"
    off = manifest.read_text().replace('policy = "on-demand"', 'policy = "off"')
    manifest.write_text(off.replace('uplink = "wlan0"', 'uplink = "eth1"'))
    rows = table(planned(cluster))
    assert [rows[node]["WAY OUT"] for node in ("master", "worker1", "worker2")] == [
        *("eth1", "wlan0 (Wi-Fi)", "none")
    ]


def test_two_views_exclude_each_other(cluster: Path) -> None:
    views = (["--full"], ["--show", "/x"], ["--diff"], ["--graph"], ["--json"], ["--matrix"])
    for number, one in enumerate(views):
        for other in views[number + 1 :]:
            assert "exclude each other" in refused(piimg(cluster, "plan", *one, *other, env=GIVEN))


def at_terminal(
    folder: Path, *words: str, size: tuple[int, int] = (80, 24), env: Mapping[str, str] | None = None
) -> tuple[int, Window]:
    """The exit status of `piimg plan` at a terminal, and its screen."""
    with window(*size) as (screen, stream):
        child = subprocess.Popen(
            [PIIMG, "plan", *words],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "xterm", **GIVEN, **(env or {})},
            stdin=stream,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        while child.poll() is None:
            screen.read(0.05)
        screen.settle(0.2)
        return child.returncode, screen


@pytest.mark.parametrize("count", [1, 6, 40])
def test_at_80_columns(cluster: Path, count: int) -> None:
    manifest = cluster / "cluster.toml"
    head, *nodes = manifest.read_text().split("[[node]]")
    worker = '\nname = "n{0}"\nrole = "worker"\nboard = "pi-3b+"\naddress = "10.0.0.{0}"\n'
    more = [worker.format(number) for number in range(50, 90)]
    manifest.write_text("[[node]]".join([head, *[*nodes, *more][:count]]))
    status, screen = at_terminal(cluster, env={"PAGER": "cat", "NO_COLOR": "1"})
    lines = screen.everything
    assert status == 0 and len(lines) < count + 28
    if count > 1:
        assert len(table("\n".join(lines))) == count
    if count == 6:
        assert len(lines) <= 24, "one screen"
    whole = piimg(cluster, "plan", env=GIVEN).stdout.split("\n")
    assert lines[0] == whole[0] and max(map(len, lines)) <= 80
    # A line that was wrapped by the terminal, and not by piimg, begins in the first column.
    beginnings = {line.split(" ")[0] for line in whole}
    assert {line.split(" ")[0] for line in lines if line[:1] != " "} <= beginnings


def recorder(folder: Path, body: str) -> str:
    """A pager: a script that keeps what it read and its environment."""
    script = folder / "pager"
    script.write_text(f'#!/bin/sh\nenv > "{folder}/env"\n{body}\n')
    script.chmod(0o755)
    return str(script)


def test_the_pager(cluster: Path) -> None:
    pager = recorder(cluster, f'echo "$@" > "{cluster}/words"; cat > "{cluster}/read"')
    status, screen = at_terminal(cluster, "--full", env={"PAGER": f"{pager} -x 'a b'"})
    read = (cluster / "read").read_text()
    assert (status, screen.lines, (cluster / "words").read_text()) == (0, [], "-x a b\n")
    assert "\x1b[1mmaster: master" in read and "root/etc/hostname" in read
    env = dict(line.partition("=")[::2] for line in (cluster / "env").read_text().splitlines())
    assert (env["LESS"], env["TERM"]) == ("FRX", "xterm")
    assert [name for name in env if name.startswith("PIIMG_SECRET_")] == []
    (cluster / "read").unlink()
    for option, program in (
        ("--no-pager", pager),
        ("--json", pager),
        ("--node=worker5", "cat"),
        ("--node=worker5", "'"),
    ):
        status, screen = at_terminal(cluster, option, env={"PAGER": program})
        assert (status, (cluster / "read").exists()) == (0, False)
        assert any("worker5" in line for line in screen.everything), (option, program)
    for program in ("", "no-such-pager"):
        assert at_terminal(cluster, env={"PAGER": program})[1].everything
    assert "worker5" in planned(cluster, env={**GIVEN, "PAGER": pager})
    assert not (cluster / "read").exists(), "in a pipe there is no pager"


def test_colours(cluster: Path) -> None:
    pager = recorder(cluster, f'cat > "{cluster}/read"')
    cases: list[tuple[dict[str, str], bool]] = [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ]
    for more, coloured in cases:
        at_terminal(cluster, env={"PAGER": pager, **more})
        assert ("\x1b[" in (cluster / "read").read_text()) is coloured


@pytest.mark.parametrize("body", ["exit 3", "head -n 1 >/dev/null; exit 0", "kill -9 $$"])
def test_a_pager_that_ends_early(cluster: Path, body: str) -> None:
    status, _ = at_terminal(cluster, "--full", env={"PAGER": recorder(cluster, body)})
    assert status == 0


def test_ctrl_c_is_for_the_pager(cluster: Path) -> None:
    """piimg waits for it: else the shell and the pager would both read the keyboard."""
    body = f'trap "echo caught > {cluster}/caught" INT; touch "{cluster}/there"; sleep 3; sleep 1'
    pager = recorder(cluster, body)
    with window(80, 24) as (_, stream):
        child = subprocess.Popen(
            [PIIMG, "plan"],
            cwd=cluster,
            env={"PATH": "/usr/bin:/bin", "HOME": str(cluster), "TERM": "xterm", "PAGER": pager, **GIVEN},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + 60
        while not (cluster / "there").exists():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(60) == 0
    assert (cluster / "caught").exists()


def test_names_of_nodes() -> None:
    everyone = ["a", "b", "c", "d", "e", "f"]
    said = {
        "all nodes": everyone,
        "a": ["a"],
        "a, b": ["a", "b"],
        "a … c": ["a", "b", "c"],
        "a … c, e, f": ["a", "b", "c", "e", "f"],
    }
    assert {wording.named(names, everyone): names for names in said.values()} == said
    assert wording.named(["a"], ["a"]) == "a"


def test_lists_of_paths() -> None:
    paths = [f"root/etc/{'x' * length}" for length in range(30)]
    for width in (20, 40, 79):
        for most in (1, 2, 5):
            lines = wording.listed(paths, width, most)
            assert len(lines) <= most and re.search(r"and \d+ more$|30 of them$", lines[-1])
            assert all(len(line) <= width or ", " not in line for line in lines)
    assert wording.listed(["a", "b c"], 20, 1) == ["a, b c"]
    assert wording.listed([], 20, 1) == []


def test_a_table_that_fits() -> None:
    heads, rows = ("A", "B", "C"), [("x", ["one", "two", "three", "four"], ""), ("yy", ["five"], "")]
    assert fitted_table(heads, rows, 80) == ["A   B", "x   one, two, three, four", "yy  five"]
    assert fitted_table(heads, rows, 16) == ["A   B", "x   one, two,", "    three, four", "yy  five"]
    assert fitted_table(heads, rows, 5)[1].startswith("x   one")
