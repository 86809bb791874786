"""The example layers on a master and two workers, without the internet: jobs across both workers.

The nodes are reached with the files that `piimg export` prints, and with nothing else.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.boot.run import bring_up_all, guest, lab, node_disk
from imagebuilder.events import Silent
from imagebuilder.keys import ssh
from imagebuilder.keys.credentials import public_host_keys
from imagebuilder.model import Release
from tests.conftest import SCRIPTS, releases
from tests.support.cluster import Place, make_place
from tests.support.waiting import wait_until
from tests.system.boot.conftest import CACHE

pytestmark = [pytest.mark.timeout(3600), pytest.mark.cluster]  # the first test waits for all that is booted

RELEASES = releases()
FIRST_BOOT = 2400  # seconds in emulation until all is installed
NODES = ("master", "worker1", "worker2")
DAEMONS = {"master": "slurmctld", "worker1": "slurmd", "worker2": "slurmd"}


@dataclass(frozen=True)
class Cluster:
    """The booted nodes, and the folder that has the exported files: ssh.conf, known, inventory.yaml.

    ``summary`` is the path of the results of the first-boot scripts on a node.
    """

    folder: Path
    summary: str

    @property
    def env(self) -> dict[str, str]:
        """The environment of a person with these files and no agent."""
        return {
            **{name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"},
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
        }

    def run(self, node: str, command: str, ok: int = 0) -> str:
        """What a command on a node prints; a test fails when it ends otherwise than ``ok``."""
        done = subprocess.run(
            ["ssh", "-F", self.folder / "ssh.conf", "-o", "BatchMode=yes", node, command],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == ok, f"{node}: {command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def wait(self, node: str) -> None:
        """Wait until a node's first-boot scripts have ended."""

        def summary() -> str:
            # at times it is not there: it is put in place anew after each script, on FAT
            return self.run(node, f"cat {self.summary} || :")

        # each look is two logins on nodes that have enough to do
        wait_until(
            lambda: '"finished": true' in summary(), FIRST_BOOT, lambda: f"{node}: {summary()}", pause=15
        )

    def first_boot(self, node: str) -> dict[str, Mapping[str, object]]:
        """The results of a node's first-boot scripts, by name."""
        summary = json.loads(self.run(node, f"cat {self.summary}"))
        return {script["name"]: script for script in summary["scripts"]}


def laid_out(folder: Path, key: str) -> Place:
    """A cluster folder for three nodes with the example layers."""
    place = make_place(folder, folder / "cache")
    place.edit(r"^(base = .*)$", r'\1\nlayers = ["examples/mpi", "examples/slurm"]')
    text = place.manifest.read_text()
    kept = text[: text.index('[[node]]\nname = "worker3"')]
    place.manifest.write_text(f'{kept}[vars]\nmpi_key = {{ secret = "mpi_key" }}\nmpi_public_key = "{key}"\n')
    return place


@pytest.fixture(scope="module", params=RELEASES)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster on each release, booted, its first-boot scripts run to their end."""
    folder = tmp_path_factory.mktemp("examples")
    key = ssh.make("mpi")
    place = laid_out(folder, key.public)
    base = folder / "base.img"
    subprocess.run([SCRIPTS / "make-debian-base", request.param, base], check=True)
    place.good("build", "--all", "--base", base, env={"PIIMG_SECRET_MPI_KEY": key.private})
    base.unlink()
    shutil.rmtree(place.cache)

    made, keys = place.workspace.cluster, place.workspace.keys()
    with ExitStack() as stack:
        laboratory = stack.enter_context(
            lab(
                made, made.nodes, cache=CACHE, host_keys=public_host_keys(made, keys),
                identities=(keys.user_key_file,), reporter=Silent(),
            )
        )  # fmt: skip
        guests = [
            stack.enter_context(
                guest(laboratory, node, node_disk(laboratory, node, place.build / f"{node.name}.img"))
            )
            for node in made.nodes
        ]
        took = bring_up_all(laboratory, guests, lambda one, up: up)
        assert all(isinstance(seconds, float) for seconds in took), took
        via = f"127.0.0.1:{laboratory.switch.doors['master']}"
        known = ("--known-hosts", folder / "known")
        (folder / "ssh.conf").write_text(place.good("export", "ssh-config", "--via", via, *known))
        (folder / "known").write_text(place.good("export", "known-hosts"))
        (folder / "inventory.yaml").write_text(place.good("export", "ansible-inventory"))
        booted = Cluster(folder, f"{Release(request.param).facts.boot_mount}/piimg-firstboot.json")
        for node in NODES:
            booted.wait(node)
        yield booted


@pytest.mark.parametrize("node", NODES)
def test_a_login_by_the_exported_files(cluster: Cluster, node: str) -> None:
    assert cluster.run(node, "hostname; id -un").split() == [node, "pi"]


def test_another_host_key_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    known = (cluster.folder / "known").read_text()
    lines = {line.split(",")[0]: line.split()[2] for line in known.splitlines() if line[0] != "#"}
    wrong = tmp_path / "known"
    wrong.write_text(known.replace(lines["worker1"], lines["worker2"]))
    done = subprocess.run(
        ["ssh", "-F", cluster.folder / "ssh.conf", "-o", f"UserKnownHostsFile={wrong}", "worker1", "true"],
        env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 255 and "Host key verification failed" in done.stderr


def test_ansible_pings_all(cluster: Cluster) -> None:
    done = subprocess.run(
        ["ansible", "all", "-i", cluster.folder / "inventory.yaml", "-m", "ping", "--one-line",
         "--ssh-common-args", f"-F {cluster.folder}/ssh.conf", "--timeout", "60"],
        env=cluster.env, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = sorted(done.stdout.splitlines())
    assert [line.split(" ")[0] for line in answers] == list(NODES)
    assert all("| SUCCESS =>" in line and '"ping": "pong"' in line for line in answers)


@pytest.mark.parametrize("node", NODES)
def test_the_first_boot_needed_no_internet(cluster: Cluster, node: str) -> None:
    found = cluster.first_boot(node)
    own = [] if node == "master" else ["50-hello"]  # piimg init lays it out
    assert list(found) == ["05-account", "10-locale", *own]
    assert {script["status"] for script in found.values()} == {"done"}, found
    daemons = ("chrony", "munge", DAEMONS[node]) if node == "master" else ("munge", DAEMONS[node])
    assert cluster.run(node, f"systemctl is-active {' '.join(daemons)}").split() == ["active"] * len(daemons)


def test_accounts_and_key_are_the_same_on_every_node(cluster: Cluster) -> None:
    key = "/etc/munge/munge.key"
    command = f"id -u munge slurm && sudo sha256sum {key} && sudo stat -c %U%a {key}"
    said = {cluster.run(node, command) for node in NODES}
    assert len(said) == 1, said
    assert said.pop().endswith("munge400\n")


def test_mpi_runs_a_job_across_two_workers(cluster: Cluster) -> None:
    said = cluster.run("master", "mpirun --hostfile /etc/mpi-hostfile -np 2 --map-by node hostname")
    assert sorted(said.split()) == ["worker1", "worker2"]


def test_slurm_runs_a_job_across_two_workers(cluster: Cluster) -> None:
    assert sorted(cluster.run("master", "srun -N 2 hostname").split()) == ["worker1", "worker2"]


def test_without_the_key_nobody_belongs_to_the_cluster(cluster: Cluster) -> None:
    """The same worker with another key is turned away, and is back with the right one."""
    cluster.run("worker2", "sudo cp -a /etc/munge/munge.key /etc/munge/kept")
    cluster.run("worker2", "head -c 128 /dev/urandom | sudo tee /etc/munge/munge.key >/dev/null")
    cluster.run("worker2", "sudo systemctl restart munge")
    cluster.run("worker2", "squeue", ok=1)
    cluster.run("worker2", "sudo mv /etc/munge/kept /etc/munge/munge.key && sudo systemctl restart munge")
    cluster.run("worker2", "squeue")


def test_the_gateway_was_never_opened(cluster: Cluster) -> None:
    assert not json.loads(cluster.run("master", "sudo piimg-gateway status --json"))["open"]
