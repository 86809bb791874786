"""`piimg init --with`: the manifest that it writes can be planned, whatever is chosen of the ready layers."""

import dataclasses
import itertools
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imagebuilder import manifest, resources
from imagebuilder.cli.main import piimg
from imagebuilder.cli.ready_layers import ready_layers
from imagebuilder.cli.ready_manifest import read_ready
from imagebuilder.errors import UsageError
from imagebuilder.model import Credentials, Release
from imagebuilder.overlay import layer
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import plan_nodes
from tests.support.checkout import TOP
from tests.unit.overlay.making import CREDENTIALS

OVERLAYS = Overlays(resources.shipped("overlays"))
FILLED_IN = {
    "k3s_version": "v1.31.4+k3s1",
    "k3s_sha256": "a" * 64,
    "k3s_images_sha256": "b" * 64,
}
"""A value for each variable that the user must fill in."""


def made(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(piimg, ["init", str(folder), *words])


def filled_in(text: str) -> str:
    for name, value in FILLED_IN.items():
        text = re.sub(rf"^# {name} = .*$", f'{name} = "{value}"', text, flags=re.MULTILINE)
    return text


def credentials(folder: Path) -> Credentials:
    secrets = tomllib.loads((folder / "secrets.toml").read_text())
    return dataclasses.replace(CREDENTIALS, secrets=secrets)


def test_ready_layers_are_those_that_say_for_which_roles() -> None:
    """The quick reading finds what the parser finds."""
    shipped = resources.shipped("overlays")
    declared = {name: layer.read(name, shipped / name).declared for name in layer.names([shipped])}
    assert ready_layers() == {
        name: one.description for name, one in sorted(declared.items()) if one.for_roles
    }
    assert {"docker", "k3s"} <= ready_layers().keys()


def test_each_has_a_recipe() -> None:
    recipes = (TOP / "docs" / "recipes.md").read_text()
    assert sorted(re.findall(r"^## ([a-z0-9-]+)$", recipes, re.MULTILINE)) == sorted(ready_layers())


COUNTS = range(len(ready_layers()) + 1)
QUICK = (0, 1, 2, COUNTS[-1])  # half a second each; what two of them cannot do together, more cannot


@pytest.mark.parametrize(
    "count", [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.long]) for one in COUNTS]
)
def test_every_combination_can_be_planned(count: int, tmp_path: Path) -> None:
    for chosen in itertools.combinations(ready_layers(), count):
        folder = tmp_path / "-".join(("cluster", *chosen))
        done = made(folder, *(["--with", ",".join(chosen)] if chosen else []))
        assert done.exit_code == 0, done.output
        missing = [name for each in chosen for name in read_ready(each).to_fill_in]
        assert set(missing) <= FILLED_IN.keys()
        assert (f"To be filled in, in cluster.toml: {', '.join(missing)} (" in done.output) is bool(missing)
        text = (folder / "cluster.toml").read_text()
        cluster = manifest.parse(filled_in(text).encode(), folder / "cluster.toml", layers=OVERLAYS.names())
        nodes = [cluster.node("master"), cluster.node("worker1")]
        plans = plan_nodes(cluster, nodes, Release.TRIXIE, credentials(folder), OVERLAYS)
        for plan in plans:
            wanted = {each for each in chosen if plan.node.role in read_ready(each).roles}
            assert wanted == set(plan.layers) & ready_layers().keys()


def test_without_workers_there_is_no_table_of_their_role(tmp_path: Path) -> None:
    assert made(tmp_path / "new", "--with", "docker", "--workers", "0").exit_code == 0
    assert tomllib.loads((tmp_path / "new/cluster.toml").read_text())["role"] == {
        "master": {"layers": ["docker"]}
    }


def test_variables_are_explained_and_secrets_are_made(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert made(tmp_path / name, "--with", "k3s", "--with", "docker,k3s").exit_code == 0
    text = (tmp_path / "one/cluster.toml").read_text()
    table = tomllib.loads(text)
    assert table["vars"] == {"k3s_token": {"secret": "k3s_token"}}
    assert table["role"] == {role: {"layers": ["k3s", "docker"]} for role in ("master", "worker")}
    assert "\n# docker_without_sudo = false\n" in text and "\n# k3s: what an agent joins" in text
    files = [tmp_path / name / "secrets.toml" for name in ("one", "two")]
    tokens = [tomllib.loads(file.read_text())["k3s_token"] for file in files]
    assert len({*tokens}) == 2 and all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)
    assert files[0].stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("k3", "no ready layer is named k3; is k3s meant?"),
        ("docker,", "no ready layer is named ''"),
        ("worker", "no ready layer is named worker"),
        ("../base", "no ready layer is named ../base"),
    ],
)
def test_an_unknown_name_creates_nothing(given: str, said: str, tmp_path: Path) -> None:
    error = made(tmp_path / "new", "--with", given).exception
    assert isinstance(error, UsageError)
    assert error.message.startswith(said) and error.hint == f"ready layers: {', '.join(ready_layers())}"
    assert not (tmp_path / "new").exists()


def test_the_help_lists_them() -> None:
    shown = CliRunner().invoke(piimg, ["init", "--help"], terminal_width=80).output
    for name, about in ready_layers().items():
        assert f"  {name} " in shown and about.split()[0] in shown
