"""The layers docker and k3s, rendered for the example cluster. tests/system/recipes boots them."""

import dataclasses
import json
import re
import shlex
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.boards import BOARDS
from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Kind, NodePlan, Partition, Release, Secret, Value
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import check_architecture, plan_node
from imagebuilder.settings import Swap, SwapKind
from imagebuilder.software import Download
from tests.integration.overlays import rendered

TOKEN = "nobodyguesses"
RELEASE = "https://github.com/k3s-io/k3s/releases/download/v1.31.4%2Bk3s1"
VARS: dict[str, Value] = {
    "k3s_token": Secret("k3s_token"),
    "k3s_version": "v1.31.4+k3s1",
    "k3s_sha256": "a" * 64,
    "k3s_images_sha256": "b" * 64,
}
UNITS = "/etc/systemd/system"


def cluster(*layers: str, **variables: Value) -> Cluster:
    """The example cluster with ``layers`` on every node."""
    return dataclasses.replace(rendered.cluster(), layers=layers, vars=variables)


def changed(given: Cluster, name: str, **values: object) -> Cluster:
    """The cluster with other values of the node called ``name``."""
    nodes = tuple(
        dataclasses.replace(node, **values) if node.name == name else node  # type: ignore[arg-type]
        for node in given.nodes
    )
    return dataclasses.replace(given, nodes=nodes)


def planned(
    given: Cluster, name: str, release: Release = Release.TRIXIE, own: Path | None = None
) -> NodePlan:
    """What a node gets."""
    known = rendered.credentials()
    credentials = dataclasses.replace(known, secrets={**known.secrets, "k3s_token": TOKEN})
    overlays = Overlays(resources.shipped("overlays"), own)
    return plan_node(given, given.node(name), release, credentials, overlays)


def refused(given: Cluster, name: str = "worker1") -> tuple[str, str]:
    """The error that the plan of a node ends with, and its hint."""
    with pytest.raises(UsageError) as error:
        planned(given, name)
    return error.value.message, error.value.hint


def words(plan: NodePlan) -> list[str]:
    """What is added to cmdline.txt."""
    return [
        word
        for entry in plan.entries
        if entry.partition is Partition.BOOT and entry.kind is Kind.WORDS
        for word in entry.content.decode().split()
    ]


def command(plan: NodePlan, unit: str) -> list[str]:
    """The words of ExecStart in a unit."""
    text = rendered.files(plan)[f"{UNITS}/{unit}"].content.decode().replace("\\\n", " ")
    (found,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(found)


# --- docker ---


@pytest.mark.parametrize("release", list(Release))
def test_docker_is_debians_of_the_release(release: Release) -> None:
    plan = planned(cluster("docker"), "worker1", release)
    of_layer = [name for name, places in plan.software.packages.items() if places == ("layer docker",)]
    assert of_layer == ["apparmor", *(["docker-cli"] if release is Release.TRIXIE else []), "docker.io"]
    assert "cgroup_enable=memory" in words(plan)
    assert json.loads(rendered.files(plan)["/etc/docker/daemon.json"].content)["log-driver"] == "local"


@pytest.mark.parametrize(
    ("given", "has"),
    [({}, False), ({"docker_without_sudo": False}, False), ({"docker_without_sudo": True}, True)],
)
def test_nobody_is_in_dockers_group_unless_the_manifest_says_so(given: dict[str, Value], has: bool) -> None:
    scripts = [Path(path).name for path in rendered.files(planned(cluster("docker", **given), "worker1"))]
    assert ("59-docker-account" in scripts) is has and "60-docker" in scripts


@pytest.mark.parametrize("value", ["false", "", 1, Secret("yes")])
def test_without_sudo_is_true_or_false(value: Value) -> None:
    message, hint = refused(cluster("docker", docker_without_sudo=value))
    assert message.startswith(
        "worker1: the layer docker: docker_without_sudo in [vars] must be true or false, not "
    )
    assert hint == "such as docker_without_sudo = false"


def test_containers_are_not_lost_at_each_start() -> None:
    message, _ = refused(cluster("docker", "read-only-root"))
    assert "would lose its images and containers" in message


# --- k3s ---


@pytest.mark.parametrize("release", list(Release))
def test_the_gateway_is_the_server_and_the_others_join_it(release: Release, tmp_path: Path) -> None:
    given = cluster("k3s", **VARS)
    server, agent = (planned(given, name, release) for name in ("master", "worker1"))
    common = ["--flannel-iface", "eth0"]
    assert command(server, "k3s.service") == [
        *("/usr/local/bin/k3s", "server", "--agent-token-file", "/etc/rancher/k3s/token"),
        *("--node-name", "master", "--node-ip", "10.0.0.1", *common),
    ]
    assert command(agent, "k3s-agent.service") == [
        *("/usr/local/bin/k3s", "agent", "--server", "https://10.0.0.1:6443"),
        *(
            "--token-file",
            "/etc/rancher/k3s/token",
            "--node-name",
            "worker1",
            "--node-ip",
            "10.0.0.11",
            *common,
        ),
    ]
    for plan, unit, other in ((server, "k3s", "k3s-agent"), (agent, "k3s-agent", "k3s")):
        paths = {entry.path for entry in plan.entries}
        wanted = f"{UNITS}/multi-user.target.wants"
        assert f"{wanted}/{unit}.service" in paths and f"{UNITS}/{unit}.service" in paths
        assert f"{wanted}/{other}.service" not in paths and f"{UNITS}/{other}.service" not in paths
        token = rendered.files(plan)["/etc/rancher/k3s/token"]
        assert (token.mode, token.uid, token.secret, token.content) == (0o600, 0, True, f"{TOKEN}\n".encode())
        holders = [entry.path for entry in plan.entries if TOKEN.encode() in entry.content]
        assert holders == ["/etc/rancher/k3s/token"]
        assert "cgroup_enable=memory" in words(plan)
        assert complaints(plan, f"{unit}.service", tmp_path / unit) == []


def complaints(plan: NodePlan, unit: str, root: Path) -> list[str]:
    """What systemd says of a unit of the plan, laid out below ``root``."""
    root.mkdir()
    rendered.unpack(plan, root)
    (root / "sbin").mkdir()
    (root / "sbin/modprobe").symlink_to("/bin/true")
    verify = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", unit]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if unit in line]


def test_program_and_images_are_fetched_with_their_digests() -> None:
    plan = planned(cluster("k3s", **VARS), "worker1")
    found = {entry.path: (entry.mode, entry.download) for entry in plan.entries if entry.download}
    images = "k3s-airgap-images-arm64.tar.zst"
    assert found == {
        "/usr/local/bin/k3s": (0o755, Download(f"{RELEASE}/k3s-arm64", "a" * 64)),
        f"/var/lib/rancher/k3s/agent/images/{images}": (0o644, Download(f"{RELEASE}/{images}", "b" * 64)),
    }


def test_program_and_images_may_be_files_of_the_users_own_layer(tmp_path: Path) -> None:
    own = tmp_path / "k3s/root"
    for path in ("usr/local/bin/k3s", "var/lib/rancher/k3s/agent/images/mine.tar.gz"):
        (own / path).parent.mkdir(parents=True)
        (own / path).write_bytes(b"\x7fELF")
        (own / path).chmod(0o755)
    plan = planned(cluster("k3s", k3s_token=Secret("k3s_token")), "worker1", own=tmp_path)
    program = rendered.files(plan)["/usr/local/bin/k3s"]
    assert (program.layer, program.mode, program.content) == ("k3s (own)", 0o755, b"\x7fELF")


def test_without_a_gateway_the_manifest_names_the_server() -> None:
    home = dataclasses.replace(
        rendered.cluster(), gateway=None, router=rendered.cluster().node("master").address
    )
    given = changed(
        dataclasses.replace(home, layers=("k3s",), vars={**VARS, "k3s_server": "worker2"}),
        "master",
        address=None,
        layers=(),
    )
    assert command(planned(given, "worker2"), "k3s.service")[1] == "server"
    assert "https://10.0.0.12:6443" in command(planned(given, "worker1"), "k3s-agent.service")


@pytest.mark.parametrize("release", list(Release))
def test_there_is_no_swap(release: Release) -> None:
    plan = planned(cluster("k3s", **VARS), "worker1", release)
    conf = rendered.files(plan).get("/etc/rpi/swap.conf.d/95-k3s.conf")
    assert (conf is not None) is (release is Release.TRIXIE)
    masked = [entry.path for entry in plan.entries if entry.target == "/dev/null"]
    assert masked == [f"{UNITS}/dphys-swapfile.service"]
    assert [entry.path for entry in plan.entries if entry.kind is Kind.REMOVE and entry.layer == "k3s"] == [
        "/var/swap"
    ]


HOME = dataclasses.replace(cluster("k3s", **VARS), gateway=None)
WRONG: dict[str, tuple[Cluster, str]] = {
    "no token": (cluster("k3s"), "needs k3s_token in [vars]: what an agent joins the server with"),
    "no server": (HOME, "needs k3s_server in [vars], the node that is the server, because"),
    "no such server": (cluster("k3s", **VARS, k3s_server="worker9"), "has a server that is no node"),
    "server without it": (
        changed(changed(cluster(**VARS), "worker1", layers=("k3s",)), "master", layers=()),
        "has a server without it",
    ),
    "an address from DHCP": (
        changed(cluster("k3s", **VARS), "worker1", address=None),
        "needs a static address",
    ),
    "the server's address from DHCP": (
        changed(cluster("k3s", **VARS), "master", address=None),
        "has a server whose address is from DHCP",
    ),
    "root is only read": (
        cluster("k3s", "read-only-root", **VARS),
        "would lose its pods and its state at the next start",
    ),
    "swap": (changed(cluster("k3s", **VARS), "worker1", swap=Swap(SwapKind.ZRAM)), "runs without swap"),
    "the LAN": (
        dataclasses.replace(cluster("k3s", **VARS), lan=IPv4Network("10.0.0.0/8")),
        "which the LAN overlaps",
    ),
    "another LAN": (
        dataclasses.replace(cluster("k3s", **VARS), lan=IPv4Network("10.43.7.0/24")),
        "which the LAN overlaps",
    ),
    "32 bits": (
        changed(cluster("k3s", **VARS), "worker1", board=BOARDS["pi-2"]),
        "needs arm64, which Raspberry Pi 2 Model B cannot boot",
    ),
    "a version alone": (
        cluster("k3s", k3s_token=Secret("k3s_token"), k3s_version="v1.31.4+k3s1"),
        "has no program",
    ),
    "digests alone": (
        cluster("k3s", **{name: value for name, value in VARS.items() if name != "k3s_version"}),
        "needs k3s_version in [vars]: a release of k3s",
    ),
    "no images": (
        cluster("k3s", **{name: value for name, value in VARS.items() if name != "k3s_images_sha256"}),
        "has no images, without which it needs the internet",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_is_one_sentence(case: str) -> None:
    given, said = WRONG[case]
    message, hint = refused(given)
    assert message.startswith(f"worker1: the layer k3s {said}") or (
        message.startswith("worker1: ") and said in message
    )
    assert hint and "\n" not in message + hint


@pytest.mark.parametrize("value", ["latest", "A" * 64, "a" * 65, 7])
def test_a_digest_that_is_none_is_reported(value: Value) -> None:
    message, _ = refused(cluster("k3s", **{**VARS, "k3s_sha256": value}))
    assert message.startswith("worker1: the layer k3s: k3s_sha256 in [vars] ")
    assert message.endswith("of this release: 64 digits 0-9 and a-f")


@pytest.mark.parametrize("value", ["latest", "v1.31.4", "v1.31.4+k3s1/../x", "v1.31.4-rc1+k3s1"])
def test_a_version_is_one_of_k3s(value: str) -> None:
    given = cluster("k3s", **{**VARS, "k3s_version": value})
    if "rc1" in value:
        planned(given, "worker1")
        return
    message, hint = refused(given)
    assert f'k3s_version in [vars] cannot be "{value}": a release of k3s' in message
    assert hint == 'such as k3s_version = "v1.31.4+k3s1"'


def test_a_base_image_with_32_bits_is_refused() -> None:
    given = dataclasses.replace(
        cluster("k3s", **VARS), base="raspios-trixie-armhf-lite", architecture="armhf"
    )
    assert refused(given)[0] == ("worker1: the layer k3s needs arm64, and raspios-trixie-armhf-lite is armhf")
    plan = planned(dataclasses.replace(given, architecture="arm64"), "worker1")
    check_architecture([plan], None, "x.img")  # not known
    with pytest.raises(UsageError, match=r"worker1: the layer k3s needs arm64, and x\.img is armhf"):
        check_architecture([plan], "armhf", "x.img")
