"""The layers nfs, watchdog, log-to-master, monitoring and unattended-upgrades, rendered and read.

tests/system/recipes boots them; the programs that are only on a node read their files there.
"""

import dataclasses
import os
import re
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.errors import UsageError
from imagebuilder.model import Cluster, Kind, NodePlan, Partition, Release, Secret, Value
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import plan_node
from imagebuilder.settings import Policy
from tests.integration.overlays import rendered

GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
LAYERS = ("nfs", "watchdog", "log-to-master", "monitoring", "unattended-upgrades")


def cluster(*layers: str, **variables: Value) -> Cluster:
    """The example cluster with ``layers`` on every node."""
    return dataclasses.replace(rendered.cluster(), layers=layers or LAYERS, vars=variables)


@pytest.fixture(params=[f"{release}-{node}" for release in Release for node in ("master", "worker1")])
def planned(request: pytest.FixtureRequest) -> NodePlan:
    release, node = request.param.split("-")
    return rendered.node_plan(node, Release(release), cluster())


def text(plan: NodePlan, path: str) -> str:
    """The content of a file of the root partition; a test fails when there is none."""
    return rendered.files(plan)[path].content.decode()


def refused(given: Cluster, node: str = "worker1") -> str:
    """The error of a plan, and its hint."""
    with pytest.raises(UsageError) as error:
        rendered.node_plan(node, Release.TRIXIE, given)
    assert error.value.hint and "\n" not in error.value.message
    return error.value.message


def test_packages_are_in_the_image(planned: NodePlan) -> None:
    every = {"nfs-common", "rsyslog", "prometheus-node-exporter", "unattended-upgrades"}
    master = {"nfs-kernel-server", "logrotate", "chrony"} if planned.node.name == "master" else set()
    assert set(planned.software.packages) == every | master
    scripts = [path for path in rendered.files(planned) if "/firstboot.d/" in path]
    assert [Path(path).name for path in scripts] == ["05-account", "10-locale"]


# --- nfs ---


def fstab(plan: NodePlan) -> str:
    """What is added to /etc/fstab."""
    return "".join(
        entry.content.decode()
        for entry in plan.entries
        if entry.kind is Kind.LINES and entry.path == "/etc/fstab"
    )


def test_the_folder_is_mounted_when_it_is_used(planned: NodePlan, tmp_path: Path) -> None:
    file = tmp_path / "fstab"
    file.write_text(fstab(planned))
    folders = [tmp_path / name for name in ("normal", "early", "late")]
    for folder in folders:
        folder.mkdir()
    subprocess.run([GENERATOR, *folders], env={**os.environ, "SYSTEMD_FSTAB": str(file)}, check=True)
    units = {unit.name: unit for unit in folders[0].iterdir() if unit.is_file()}
    if planned.node.name == "master":
        assert not units
        return
    assert set(units) == {"srv-cluster.automount", "srv-cluster.mount"}
    mount = units["srv-cluster.mount"].read_text()
    assert "What=10.0.0.1:/srv/cluster\n" in mount and "Type=nfs4\n" in mount
    wanted = folders[0] / "remote-fs.target.wants/srv-cluster.automount"
    assert wanted.is_symlink()  # wanted, not required: a worker starts without the master
    assert "network-online.target" not in units["srv-cluster.automount"].read_text()


def test_the_folder_is_exported_to_the_lan_only() -> None:
    for release in Release:
        plan = rendered.node_plan("master", release, cluster("nfs", nfs_folder="/srv/all_of_it"))
        assert "/srv/all_of_it 10.0.0.0/24(rw,sync,no_subtree_check)\n" in text(
            plan, "/etc/exports.d/piimg.exports"
        )
        assert "d /srv/all_of_it 2775 1000 1000 -\n" in text(plan, "/etc/tmpfiles.d/piimg-nfs.conf")
        if release is Release.BULLSEYE:
            assert 'RPCNFSDOPTS="-N 3 -H 10.0.0.1"\n' in text(plan, "/etc/default/nfs-kernel-server")
        else:
            assert text(plan, "/etc/nfs.conf.d/piimg.conf").endswith("[nfsd]\nvers3=n\nhost=10.0.0.1\n")
        worker = rendered.node_plan("worker1", release, cluster("nfs", nfs_folder="/srv/all_of_it"))
        assert fstab(worker).startswith("10.0.0.1:/srv/all_of_it /srv/all_of_it nfs4 ")


ELSEWHERE = ("", "srv", "/", "/srv", "/opt", "/etc", "/home/pi", "/srvx/a", "//srv/a", "/srv//a", "/srv/a/")
NO_PATH = ("/srv/a b", "/srv/a#b", "/srv/é", "/srv/../etc", "/srv/a/..", "/srv/.", "/srv/a\n", 7, Secret("x"))


@pytest.mark.parametrize("folder", [*ELSEWHERE, *NO_PATH])
def test_a_folder_elsewhere_is_refused(folder: Value) -> None:
    assert refused(cluster("nfs", nfs_folder=folder)).startswith(
        "worker1: the layer nfs: nfs_folder in [vars] "
    )


@pytest.mark.parametrize("folder", ["/data", "/data/x", "/mnt/a-b_c.d/e", "/media/USB", "/opt/0"])
def test_a_folder_for_data_is_accepted(folder: str) -> None:
    plan = rendered.node_plan("master", Release.TRIXIE, cluster("nfs", nfs_folder=folder))
    assert f"d {folder} 2775 " in text(plan, "/etc/tmpfiles.d/piimg-nfs.conf")


# --- watchdog ---


def test_the_watchdog_has_fifteen_seconds(planned: NodePlan) -> None:
    conf = text(planned, "/etc/systemd/system.conf.d/90-piimg-watchdog.conf")
    assert "[Manager]\nRuntimeWatchdogSec=15s\n" in conf
    lines = [
        entry for entry in planned.entries if entry.partition is Partition.BOOT and entry.layer == "watchdog"
    ]
    assert [(line.path, line.content) for line in lines] == [("/config.txt", b"dtparam=watchdog=on\n")]


# --- log-to-master, monitoring ---


def test_services_listen_on_the_lan_only(planned: NodePlan) -> None:
    address = str(planned.node.address)
    unit = text(planned, "/etc/systemd/system/prometheus-node-exporter.service.d/piimg.conf")
    assert f"--web.listen-address={address}:9100 $ARGS\n" in unit
    conf = text(planned, "/etc/rsyslog.d/00-piimg.conf")
    if planned.node.name == "master":
        assert 'input(type="imtcp" port="514" address="10.0.0.1")\n' in conf
    else:
        assert 'target="10.0.0.1"' in conf and "imtcp" not in conf
    assert conf.endswith("\nstop\n")


def test_a_node_by_dhcp_listens_on_all_its_addresses() -> None:
    nodes = tuple(dataclasses.replace(node, address=None) for node in rendered.cluster().nodes)
    given = dataclasses.replace(cluster(), nodes=nodes, gateway=None, router=IPv4Address("10.0.0.254"))
    master, worker = (rendered.node_plan(name, Release.TRIXIE, given) for name in ("master", "worker1"))
    unit = text(worker, "/etc/systemd/system/prometheus-node-exporter.service.d/piimg.conf")
    assert "--web.listen-address=:9100 $ARGS\n" in unit
    assert 'target="master.local"' in text(worker, "/etc/rsyslog.d/00-piimg.conf")
    assert fstab(worker).startswith("master.local:/srv/cluster ")
    assert "host=" not in text(master, "/etc/nfs.conf.d/piimg.conf")
    assert "$AllowedSender TCP, 127.0.0.1, 10.0.0.0/24\n" in text(master, "/etc/rsyslog.d/00-piimg.conf")
    assert not [path for path in rendered.files(master) if path.startswith("/etc/sysctl.d/")]


@pytest.mark.parametrize("layer", ["nfs", "log-to-master"])
@pytest.mark.parametrize("masters", [0, 2])
def test_there_must_be_one_master(layer: str, masters: int) -> None:
    roles = {"master": "master" if masters else "worker", "worker1": "master" if masters == 2 else "worker"}
    nodes = tuple(
        dataclasses.replace(node, role=roles.get(node.name, node.role)) for node in rendered.cluster().nodes
    )
    given = dataclasses.replace(cluster(layer), nodes=nodes)
    assert "with the role master, of which there must be exactly one" in refused(given, "worker2")


def with_nodes(given: Cluster, **values: dict[str, object]) -> Cluster:
    """The cluster with other values of its nodes, by name."""
    nodes = tuple(
        dataclasses.replace(node, **values.get(node.name, {}))  # type: ignore[arg-type]
        for node in given.nodes
    )
    return dataclasses.replace(given, nodes=nodes)


@pytest.mark.parametrize("layer", ["nfs", "log-to-master"])
def test_the_master_must_have_the_layer_too(layer: str) -> None:
    given = with_nodes(dataclasses.replace(cluster(layer), layers=()), worker1={"layers": (layer,)})
    assert f"the layer {layer} is not on the master, which " in refused(given)
    both = with_nodes(given, master={"layers": (layer,)})
    assert rendered.node_plan("worker1", Release.TRIXIE, both)


@pytest.mark.parametrize("layer", ["nfs", "log-to-master"])
def test_only_the_master_keeps_something(layer: str) -> None:
    given = cluster(layer, "read-only-root")
    assert "at its next start" in refused(given, "master") or "at the next start" in refused(given, "master")
    rendered.node_plan("worker1", Release.TRIXIE, given)


def test_messages_are_sent_with_their_whole_time() -> None:
    """The default of omfwd has neither year nor time zone (rsyslog.conf(5))."""
    conf = text(rendered.node_plan("worker1", Release.TRIXIE, cluster()), "/etc/rsyslog.d/00-piimg.conf")
    (action,) = re.findall(r"^action\((.*?)\)$", conf, re.MULTILINE | re.DOTALL)
    assert 'type="omfwd"' in action and 'template="RSYSLOG_ForwardFormat"' in action


TIMER = """[Unit]
Description=Daily rotation of log files
[Timer]
OnCalendar=daily
AccuracySec=12h
Persistent=true
"""  # of Debian's logrotate in Bullseye


def test_logs_are_rotated_every_hour(planned: NodePlan, tmp_path: Path) -> None:
    path = "/etc/systemd/system/logrotate.timer.d/piimg.conf"
    if planned.node.name != "master":
        assert path not in rendered.files(planned)
        return
    units = tmp_path / "etc/systemd/system"
    (units / "logrotate.timer.d").mkdir(parents=True)
    (units / "logrotate.timer.d/piimg.conf").write_text(text(planned, path))
    (units / "logrotate.timer").write_text(TIMER)
    (units / "logrotate.service").write_text("[Service]\nType=oneshot\nExecStart=/true\n")
    (tmp_path / "true").symlink_to("/bin/true")
    verify = ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", "--recursive-errors=no"]
    done = subprocess.run([*verify, "logrotate.timer"], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "logrotate" in line or "piimg" in line] == []
    lines = text(planned, path).splitlines()
    assert lines[-4:] == ["OnCalendar=", "OnCalendar=hourly", "AccuracySec=1min", "RandomizedDelaySec=0"]
    rules = text(planned, "/etc/logrotate.d/piimg-nodes").split()
    assert {"daily", "nodateext"} <= {*rules} and rules[rules.index("{") :].count("maxsize") == 1


# --- unattended-upgrades ---


def apt_config(plan: NodePlan, tmp_path: Path) -> str:
    """What apt reads from the plan's files of apt.conf.d, after Debian's own lists."""
    folder = tmp_path / "apt.conf.d"
    folder.mkdir()
    (folder / "50unattended-upgrades").write_text(
        'Unattended-Upgrade::Origins-Pattern { "origin=Debian,codename=${distro_codename},label=Else"; };\n'
    )
    for path in rendered.files(plan):
        if path.startswith("/etc/apt/apt.conf.d/"):
            (folder / Path(path).name).write_text(text(plan, path))
    conf = tmp_path / "apt.conf"
    conf.write_text(f'Dir::Etc::parts "{folder}";\nDir::Etc::main "/dev/null";\n')
    env = {**os.environ, "APT_CONFIG": str(conf)}
    return subprocess.run(["apt-config", "dump"], env=env, capture_output=True, text=True, check=True).stdout


def test_apt_knows_the_archives_and_its_days(planned: NodePlan, tmp_path: Path) -> None:
    lines = apt_config(planned, tmp_path).splitlines()
    patterns = [
        line.split('"')[1] for line in lines if line.startswith("Unattended-Upgrade::Origins-Pattern:")
    ]
    own = "codename=${distro_codename}"
    assert patterns == [
        f"origin=Debian,{own},label=Debian",
        f"origin=Debian,{own}-updates,label=Debian",
        f"origin=Debian,{own},label=Debian-Security",
        f"origin=Debian,{own}-security,label=Debian-Security",
        f"origin=Raspberry Pi Foundation,{own},label=Raspberry Pi Foundation",
        f"origin=Raspbian,{own},label=Raspbian",
    ]
    assert 'APT::Periodic::Unattended-Upgrade "1";' in lines
    assert 'DPkg::Pre-Invoke:: "/usr/local/sbin/piimg-watchdog extend";' in lines
    assert 'DPkg::Post-Invoke:: "/usr/local/sbin/piimg-watchdog restore";' in lines


def test_a_worker_upgrades_through_the_gateway(planned: NodePlan) -> None:
    folder = "/etc/systemd/system"
    for unit, verb in (("apt-daily", "update"), ("apt-daily-upgrade", "install")):
        path = f"{folder}/{unit}.service.d/piimg.conf"
        if planned.node.name == "master":
            assert path not in rendered.files(planned)
            continue
        command = f"/usr/local/bin/with-internet /usr/lib/apt/apt.systemd.daily {verb}"
        assert text(planned, path).endswith(f"[Service]\nExecStart=\nExecStart={command}\n")


DROP_IN = "/etc/systemd/system/apt-daily.service.d/piimg.conf"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("worker1", {"role": "master"}),
        ("worker1", {"role": "worker", "layers": ("master",)}),
        ("worker1", {"role": "lab"}),
        ("worker1", {"role": "lab", "layers": ("master",)}),
        ("worker1", {"role": "lab", "layers": ("worker",)}),
        ("master", {"role": "worker"}),
        ("master", {"role": "lab"}),
    ],
)
def test_only_a_node_with_the_key_asks_the_gateway(
    name: str, values: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "lab/root").mkdir(parents=True)
    given = with_nodes(cluster("unattended-upgrades"), **{name: values})
    overlays = Overlays(resources.shipped("overlays"), tmp_path)
    plan = plan_node(given, given.node(name), Release.TRIXIE, rendered.credentials(), overlays)
    has_key = "/etc/piimg/gateway_key" in rendered.files(plan)
    assert (DROP_IN in rendered.files(plan)) is (has_key and name != "master")


def test_a_gateway_that_is_always_closed_lets_no_upgrade_in() -> None:
    given = cluster("unattended-upgrades")
    assert given.gateway
    given = dataclasses.replace(given, gateway=dataclasses.replace(given.gateway, policy=Policy.OFF))
    assert "gets its upgrades through the gateway, and that is always closed" in refused(given)
    rendered.node_plan("master", Release.TRIXIE, given)


def test_a_root_that_is_only_read_is_not_upgraded() -> None:
    assert "would lose every upgrade" in refused(cluster("unattended-upgrades", "read-only-root"))
