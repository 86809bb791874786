"""Completion of the values of options: paths of layers, ready layers, and what there is to compare with."""

from pathlib import Path

import click
import pytest

from imagebuilder.cli.completion import complete_against, complete_paths, complete_ready_layers
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


@pytest.mark.parametrize(
    ("given", "begun", "wanted"),
    [
        ((), "k", ["k3s"]),
        ((), "docker,k", ["docker,k3s"]),
        ((), "k3s,k", []),
        (("k3s",), "k", []),
        ((), "nothing", []),
    ],
)
def test_ready_layers_that_are_not_named_yet(given: tuple[str, ...], begun: str, wanted: list[str]) -> None:
    words = [word for layer in given for word in ("--with", layer)]
    command = piimg.get_command(click.Context(piimg), "init")
    assert command
    with command.make_context("init", ["x", *words], resilient_parsing=True) as context:
        option = next(param for param in command.params if param.name == "layers")
        assert [item.value for item in complete_ready_layers(context, option, begun)] == wanted
