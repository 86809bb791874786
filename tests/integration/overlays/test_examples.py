"""The example layers, rendered for the example cluster on each release. tests/system/boot boots them."""

import dataclasses
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.errors import UsageError
from imagebuilder.keys import ssh
from imagebuilder.model import Cluster, Kind, NodePlan, Release, Secret, Value
from imagebuilder.overlay import layer
from tests.integration.overlays import rendered

LAYERS = ("examples/mpi", "examples/slurm")
KEY = ssh.make("mpi")
VARS: dict[str, Value] = {
    "mpi_key": Secret("mpi_key"),
    "mpi_public_key": KEY.public,
}


def cluster(layers: tuple[str, ...] = LAYERS) -> Cluster:
    """The example cluster with the example layers on every node."""
    return dataclasses.replace(rendered.cluster(), layers=layers, vars=VARS)


def node_plan(name: str, release: Release, given: Cluster | None = None) -> NodePlan:
    """What a node of it gets."""
    known = rendered.credentials()
    secrets = {**known.secrets, "mpi_key": KEY.private}
    return rendered.node_plan(name, release, given or cluster(), dataclasses.replace(known, secrets=secrets))


@pytest.fixture(params=[f"{release}-{node}" for release in Release for node in ("master", "worker1")])
def planned(request: pytest.FixtureRequest) -> NodePlan:
    release, node = request.param.split("-")
    return node_plan(node, Release(release))


def test_every_example_is_tried_here() -> None:
    shipped = layer.names([resources.shipped("overlays")])
    assert {name for name in shipped if name.startswith("examples/")} == set(LAYERS)


def test_the_first_boot_needs_no_internet(planned: NodePlan) -> None:
    scripts = [path for path in rendered.files(planned) if path.startswith(layer.FIRSTBOOT_FOLDER)]
    assert [Path(path).name for path in scripts] == ["05-account", "10-locale"]
    daemon = {"slurmctld", "chrony"} if planned.node.name == "master" else {"slurmd"}
    shared = {"munge", "openmpi-bin", "openssh-client", "slurm-client"}
    assert set(planned.software.packages) == shared | daemon
    assert planned.software.packages["munge"] == ("layer examples/slurm",)


# --- mpi ---


def test_the_hostfile_names_the_workers(planned: NodePlan) -> None:
    lines = rendered.files(planned)["/etc/mpi-hostfile"].content.decode().splitlines()
    assert [line for line in lines if line[0] != "#"] == [f"worker{n} slots=4" for n in range(1, 6)]


def test_the_key_between_nodes_is_the_accounts_and_good_only_on_the_lan(
    planned: NodePlan, tmp_path: Path
) -> None:
    key = rendered.files(planned)["/home/pi/.ssh/id_ed25519"]
    assert (key.secret, key.mode, key.uid, key.gid) == (True, 0o600, 1000, 1000)
    file = tmp_path / "id_ed25519"
    file.write_bytes(key.content)
    file.chmod(0o600)
    public = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True)
    assert public.stdout.split()[1] == KEY.public.split()[1]
    stack = [entry for entry in planned.entries if entry.path == "/home/pi/.ssh/authorized_keys"]
    assert [entry.kind for entry in stack] == [Kind.FILE, Kind.LINES]
    assert rendered.someone().public in stack[0].content.decode()  # the user's own key is still there
    assert stack[1].content.decode() == f'from="10.0.0.0/24" {KEY.public}\n'
    keys = tmp_path / "authorized_keys"
    keys.write_bytes(stack[0].content + stack[1].content)
    listed = subprocess.run(["ssh-keygen", "-l", "-f", keys], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 2


def test_a_job_talks_over_the_lan_only(planned: NodePlan) -> None:
    settings = rendered.files(planned)["/home/pi/.openmpi/mca-params.conf"]
    assert "btl_tcp_if_include = 10.0.0.0/24\n" in settings.content.decode()
    assert (settings.uid, settings.gid) == (1000, 1000)
    folders = {entry.path: entry for entry in planned.entries if entry.kind is Kind.DIRECTORY}
    assert folders["/home/pi/.openmpi"].uid == 1000


# --- slurm ---


def test_a_daemon_that_fails_is_started_again(planned: NodePlan) -> None:
    folder = "/etc/systemd/system"
    units = [path.removeprefix(folder) for path in rendered.files(planned) if "/slurm" in path]
    daemon = "slurmctld" if planned.node.name == "master" else "slurmd"
    assert units == ["/etc/slurm/slurm.conf", f"/{daemon}.service.d/piimg.conf"]


def test_slurm_has_one_configuration_for_all(planned: NodePlan) -> None:
    conf = rendered.files(planned)["/etc/slurm/slurm.conf"].content
    other = node_plan("worker5", planned.release)
    assert conf == rendered.files(other)["/etc/slurm/slurm.conf"].content
    text = conf.decode()
    assert "SlurmctldHost=master(10.0.0.1)\n" in text
    assert [line for line in text.splitlines() if line.startswith("NodeName=")] == [
        f"NodeName=worker{n} NodeAddr=10.0.0.1{n} CPUs=4" for n in range(1, 6)
    ]


# --- what is missing ---


@pytest.mark.parametrize("name", sorted(VARS))
def test_a_var_of_mpi_that_is_not_given_is_an_error_of_one_sentence(name: str) -> None:
    bare = dataclasses.replace(
        cluster(("examples/mpi",)), vars={one: value for one, value in VARS.items() if one != name}
    )
    with pytest.raises(UsageError, match=r"^worker1: the layer examples/mpi needs mpi_key and ") as error:
        node_plan("worker1", Release.TRIXIE, bare)
    assert "ssh-keygen" in error.value.hint


def test_slurm_needs_a_gateway() -> None:
    alone = dataclasses.replace(cluster(("examples/slurm",)), gateway=None, router=IPv4Address("10.0.0.254"))
    with pytest.raises(UsageError, match="has its controller on the gateway, and this cluster has none"):
        node_plan("worker1", Release.TRIXIE, alone)
