"""The layers that make swap, on each release: which there are, and what their readers make of them."""

import configparser
import dataclasses
import subprocess
from pathlib import Path

import pytest

from imagebuilder.model import Kind, NodePlan, Release
from imagebuilder.settings import Swap, SwapKind
from tests.integration.overlays import rendered

BEFORE_TRIXIE = [Release.BULLSEYE, Release.BOOKWORM]
DROP_IN = "/etc/rpi/swap.conf.d/90-piimg.conf"
DPHYS = "/etc/dphys-swapfile"
MASK = "/etc/systemd/system/dphys-swapfile.service"
OFF, ZRAM, SIZE = Swap(SwapKind.OFF), Swap(SwapKind.ZRAM), Swap(SwapKind.FILE, 3072)


def planned(release: Release, swap: Swap) -> NodePlan:
    """What worker1 gets with ``swap``."""
    cluster = rendered.cluster()
    nodes = tuple(dataclasses.replace(node, swap=swap) for node in cluster.nodes)
    return rendered.node_plan("worker1", release, dataclasses.replace(cluster, nodes=nodes))


def links(plan: NodePlan) -> dict[str, str]:
    """The links of a plan, by path."""
    return {entry.path: entry.target for entry in plan.entries if entry.kind is Kind.LINK}


@pytest.mark.parametrize("release", list(Release))
def test_the_default_is_the_releases_own(release: Release) -> None:
    plan = planned(release, Swap())
    assert not [name for name in plan.layers if name.startswith("swap")]
    assert not [entry.path for entry in plan.entries if "swap" in entry.path or "zram" in entry.path]


@pytest.mark.parametrize(
    ("swap", "settings"),
    [
        (OFF, {"Main": {"mechanism": "none"}}),
        (ZRAM, {"Main": {"mechanism": "zram"}}),
        (SIZE, {"Main": {"mechanism": "swapfile"}, "File": {"fixedsizemib": "3072"}}),
    ],
)
def test_rpi_swap_gets_a_drop_in(swap: Swap, settings: dict[str, dict[str, str]]) -> None:
    plan = planned(Release.TRIXIE, swap)
    parser = configparser.ConfigParser()
    parser.read_string(rendered.files(plan)[DROP_IN].content.decode())
    assert {name: dict(parser[name]) for name in parser.sections()} == settings
    assert MASK not in links(plan) and DPHYS not in rendered.files(plan)


@pytest.mark.parametrize("release", BEFORE_TRIXIE)
def test_dphys_swapfile_gets_the_size_and_no_smaller_limit(release: Release, tmp_path: Path) -> None:
    plan = planned(release, SIZE)
    (tmp_path / "conf").write_bytes(rendered.files(plan)[DPHYS].content)
    script = f"CONF_SWAPSIZE= CONF_MAXSWAP=2048; . {tmp_path}/conf; echo $CONF_SWAPSIZE $CONF_MAXSWAP"
    said = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert said.stdout == "3072 3072\n"
    assert MASK not in links(plan) and DROP_IN not in rendered.files(plan)


@pytest.mark.parametrize("release", BEFORE_TRIXIE)
@pytest.mark.parametrize("swap", [OFF, ZRAM])
def test_no_file_is_made_where_none_is_wanted(release: Release, swap: Swap) -> None:
    plan = planned(release, swap)
    assert links(plan)[MASK] == "/dev/null"
    (gone,) = [entry for entry in plan.entries if entry.path == "/var/swap"]
    assert (gone.kind, gone.optional) == (Kind.REMOVE, True)
    wanted = "/etc/systemd/system/swap.target.wants/piimg-zram.service"
    assert (wanted in links(plan)) == (swap is ZRAM)
    assert ("/usr/local/sbin/piimg-zram" in rendered.files(plan)) == (swap is ZRAM)
