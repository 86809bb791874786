"""Completion of the values of `piimg plan`: paths of layers, and what there is to compare with."""

from pathlib import Path

import click
import pytest

from imagebuilder.cli.completion import complete_against, complete_paths
from imagebuilder.cli.main import piimg
from tests.support.checkout import TOP

MANIFEST = TOP / "manifests" / "picluster.toml"


def completed(manifest: Path, begun: str) -> list[str]:
    with piimg.make_context("piimg", ["--manifest", str(manifest)], resilient_parsing=True) as context:
        return [item.value for item in complete_paths(context, click.Option(["--show"]), begun)]


@pytest.mark.parametrize(
    ("begun", "wanted"),
    [
        ("/etc/host", ["/etc/hostname", "/etc/hosts"]),
        ("root/etc/host", ["root/etc/hostname", "root/etc/hosts"]),
        ("boot/pi", ["boot/piimg.json"]),
        ("/nothing", []),
    ],
)
def test_paths(begun: str, wanted: list[str]) -> None:
    assert completed(MANIFEST, begun) == wanted


def test_paths_of_the_cluster_s_own_layers(tmp_path: Path) -> None:
    own = tmp_path / "overlays/worker/root/etc"
    own.mkdir(parents=True)
    (own / "mine.conf.j2").write_text("")
    (own / "bad\x1b[31m").write_text("")
    (tmp_path / "cluster.toml").write_text("[")
    assert completed(tmp_path / "cluster.toml", "/etc/mine") == ["/etc/mine.conf"]
    assert not any("\x1b" in path for path in completed(tmp_path / "cluster.toml", "/etc/"))


def test_what_to_compare_with_is_a_file() -> None:
    with piimg.make_context("piimg", [], resilient_parsing=True) as context:
        (item,) = complete_against(context, click.Option(["--diff"]), "old/")
    assert (item.value, item.type) == ("old/", "file")
