"""`piimg export`, read by the programs that it is for: ssh, ssh-keygen, getent, ansible-inventory."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder import export
from imagebuilder.errors import UsageError
from imagebuilder.export import Via
from imagebuilder.keys import ssh
from imagebuilder.model import Cluster
from tests.integration.overlays import rendered
from tests.support.cluster import Place, make_place
from tests.support.judge import said
from tests.support.networks import AT_HOME, BY_DHCP

NODES = {"master": "10.0.0.1", **{f"worker{n}": f"10.0.0.1{n}" for n in range(1, 6)}}


def made(folder: Path) -> Place:
    """A cluster whose keys were made, as a build makes them, and whose user has none."""
    place = make_place(folder, folder / "cache")
    place.entries("master", "trixie")
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One such cluster for all tests that only read it."""
    return made(tmp_path_factory.mktemp("exported"))


def asked(config: Path, host: str) -> dict[str, str]:
    """What ssh would do for ``ssh HOST``, by its own account; the first value of each setting."""
    found: dict[str, str] = {}
    for line in said("ssh", "-G", "-F", config, host).splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, value)
    return found


# --- without a gateway ---


def test_without_a_gateway_each_node_is_reached_at_its_address(tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    place.manifest.write_text(AT_HOME)
    place.credentials()
    config, known = tmp_path / "ssh.conf", tmp_path / "known"
    config.write_text(place.good("export", "ssh-config"))
    for node, address in (("master", "192.168.1.21"), ("worker1", "192.168.1.31")):
        found = asked(config, f"{node}.picluster.internal")
        assert (found["hostname"], found.get("proxyjump", "none")) == (address, "none")
    known.write_text(place.good("export", "known-hosts"))
    assert "found" in said("ssh-keygen", "-F", "192.168.1.21", "-f", known)
    refused = place.refused(2, "export", "ssh-config", "--via", "192.168.1.50")
    assert "the cluster has no gateway" in refused and "omit --via" in refused


def test_a_node_by_dhcp_is_known_by_its_name(tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    place.manifest.write_text(BY_DHCP)
    place.credentials()
    config, known = tmp_path / "ssh.conf", tmp_path / "known"
    config.write_text(place.good("export", "ssh-config"))
    assert asked(config, "worker2")["hostname"] == "worker2.local"
    known.write_text(place.good("export", "known-hosts"))
    assert "found" in said("ssh-keygen", "-F", "worker2.local", "-f", known)
    hosts = place.good("export", "hosts")
    assert "\n# worker2: its address is from DHCP and not known; it answers at worker2.local\n" in hosts
    assert "\n192.168.1.31 worker1.picluster.internal worker1\n" in hosts


# --- ssh-config ---


@pytest.mark.parametrize("domain", ["", ".mycluster.internal"])
@pytest.mark.parametrize("node", NODES)
def test_ssh_knows_the_way_to_each_node(place: Place, node: str, domain: str, tmp_path: Path) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config"))
    found = asked(config, f"{node}{domain}")
    assert found["user"] == "pi"
    assert found["hostkeyalias"] == f"{node}.mycluster.internal"
    assert found["userknownhostsfile"] == f"{Path('~').expanduser()}/.ssh/mycluster.known_hosts"
    assert found["stricthostkeychecking"] == "true"
    assert found["checkhostip"] == "no"
    assert found["port"] == "22"
    if node == "master":
        assert (found["hostname"], found.get("proxyjump")) == ("master.local", None)
    else:
        assert (found["hostname"], found["proxyjump"]) == (NODES[node], "master.mycluster.internal")


def test_the_key_made_for_the_cluster_is_the_one_tried(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config"))
    found = asked(config, "worker3")
    assert Path(found["identityfile"]) == place.folder / "state" / "mycluster" / "user-key"
    assert found["identitiesonly"] == "yes"


@pytest.mark.parametrize("whose", ["manifest", "home"])
def test_with_keys_of_ones_own_ssh_tries_those(tmp_path: Path, whose: str) -> None:
    place = made(tmp_path)
    own = ssh.make("me@here").public
    if whose == "manifest":
        place.edit(r"^# authorized_keys = .*", f"authorized_keys = [{json.dumps(own)}]")
    else:
        (place.folder.parent / ".ssh").mkdir()
        (place.folder.parent / ".ssh" / "id_ed25519.pub").write_text(f"{own}\n")
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config"))
    assert "IdentityFile" not in config.read_text()
    assert asked(config, "worker3")["identitiesonly"] == "no"


def test_included_it_touches_no_other_host(place: Place, tmp_path: Path) -> None:
    (tmp_path / "ssh.conf").write_text(place.good("export", "ssh-config"))
    config = tmp_path / "config"
    config.write_text(f"Include {tmp_path}/ssh.conf\nHost *\n    User somebody\n    Port 2200\n")
    other = asked(config, "example.org")
    assert (other["user"], other["port"], other["hostname"]) == ("somebody", "2200", "example.org")
    assert other.get("stricthostkeychecking") == "ask" and "hostkeyalias" not in other
    assert (asked(config, "worker1")["user"], asked(config, "worker1")["port"]) == ("pi", "22")


@pytest.mark.parametrize(
    ("via", "host", "port"),
    [
        ("192.168.1.50", "192.168.1.50", "22"),
        ("home.example.org:2222", "home.example.org", "2222"),
        ("fd00::7", "fd00::7", "22"),
        ("[fd00::7]:2222", "fd00::7", "2222"),
    ],
)
def test_the_gateway_may_be_anywhere(place: Place, via: str, host: str, port: str, tmp_path: Path) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config", "--via", via))
    found = asked(config, "master")
    assert (found["hostname"], found["port"]) == (host, port)
    assert asked(config, "worker1")["port"] == "22"
    known = tmp_path / "known"
    known.write_text(place.good("export", "known-hosts", "--via", via))
    assert "found" in said("ssh-keygen", "-F", host if port == "22" else f"[{host}]:{port}", "-f", known)


def test_each_node_has_its_own_port(tmp_path: Path) -> None:
    place = made(tmp_path)
    place.edit(r'^name = "master"', 'name = "master"\nssh_port = 2222')
    place.edit(r'^name = "worker1"', 'name = "worker1"\nssh_port = 2201')
    config, known = tmp_path / "ssh.conf", tmp_path / "known"
    config.write_text(place.good("export", "ssh-config"))
    ports = {node: asked(config, node)["port"] for node in ("master", "worker1", "worker2")}
    assert ports == {"master": "2222", "worker1": "2201", "worker2": "22"}
    known.write_text(place.good("export", "known-hosts"))
    for host in ("worker1", "[worker1]:2201", "[10.0.0.11]:2201", "[master.local]:2222", "worker2"):
        assert "found" in said("ssh-keygen", "-F", host, "-f", known), host
    for via, port in (("home.example.org", "2222"), ("home.example.org:22022", "22022")):
        config.write_text(place.good("export", "ssh-config", "--via", via))
        assert (asked(config, "master")["hostname"], asked(config, "master")["port"]) == (
            "home.example.org",
            port,
        )


@pytest.mark.parametrize("name", ["with space", "100%d", "a#b", "ü", "it's"])
def test_known_hosts_may_be_in_any_file(place: Place, tmp_path: Path, name: str) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config", "--known-hosts", tmp_path / name))
    # ssh -G shows the words as they stand; which file it opens it says when that is missing
    answer = "ProxyCommand=sh -c \"printf 'SSH-2.0-x\\r\\n'; head -c 1 >/dev/null\""
    done = subprocess.run(
        ["ssh", "-v", "-F", config, "-o", "ProxyJump=none", "-o", answer, "worker1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    opened = f"load_hostkeys: fopen {tmp_path / name}: No such file"
    # a terminal gets what is not ASCII in octal (vis(3))
    assert opened.replace("ü", "\\303\\274") in done.stderr.decode("ascii"), done.stderr


def test_known_hosts_may_be_named_from_home_or_from_here(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(place.good("export", "ssh-config", "--known-hosts", "~/elsewhere"))
    assert asked(config, "worker1")["userknownhostsfile"] == str(Path("~/elsewhere").expanduser())
    config.write_text(place.good("export", "ssh-config", "--known-hosts", "known"))
    assert asked(config, "worker1")["userknownhostsfile"] == str(place.folder / "known")


# --- known-hosts ---


@pytest.mark.parametrize("node", NODES)
def test_ssh_keygen_finds_the_key_of_each_node(place: Place, node: str, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(place.good("export", "known-hosts"))
    names = [node, f"{node}.mycluster.internal", NODES[node], *(["master.local"] if node == "master" else [])]
    made = (place.folder / "state" / "mycluster" / "host-keys" / f"{node}.pub").read_text().split()[1]
    for name in names:
        found = [line for line in said("ssh-keygen", "-F", name, "-f", known).splitlines() if line[0] != "#"]
        assert [line.split()[2] for line in found] == [made], name
    assert subprocess.run(["ssh-keygen", "-F", "example.org", "-f", known], check=False).returncode == 1


def test_capitals_in_a_name_are_found_all_the_same() -> None:
    """ssh folds the names it looks for; a line in capitals would not be found (sshd(8), SSH_KNOWN_HOSTS)."""
    cluster = rendered.cluster()
    loud = dataclasses.replace(cluster.nodes[1], name="Worker1")
    named = dataclasses.replace(cluster, nodes=(cluster.nodes[0], loud))
    text = export.known_hosts(named, {"master": "ssh-ed25519 A", "Worker1": "ssh-ed25519 B"}, Via("home"))
    assert "worker1,worker1.picluster.internal,10.0.0.11 ssh-ed25519 B\n" in text
    assert "HostKeyAlias worker1.picluster.internal\n" in export.ssh_config(named, Via("home"), "known")


def test_nothing_private_is_printed_and_nothing_made(place: Place, tmp_path: Path) -> None:
    before = sorted(place.folder.rglob("*"))
    everything = "".join(
        place.good("export", what) for what in ("ssh-config", "known-hosts", "hosts", "ansible-inventory")
    )
    assert "PRIVATE" not in everything
    assert sorted(place.folder.rglob("*")) == before


def test_no_secret_is_needed(place: Place, tmp_path: Path) -> None:
    place.good("export", "known-hosts", env={"PIIMG_SECRET_WIFI_PSK": ""})


# --- hosts ---


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to put a file over /etc/hosts for one process")
def test_the_resolver_finds_each_node(place: Place, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(place.good("export", "hosts"))
    script = 'mount --bind "$1" /etc/hosts && shift && for name; do getent hosts "$name"; done'
    names = [name for node in NODES for name in (node, f"{node}.mycluster.internal")]
    found = said("unshare", "--mount", "--net", "sh", "-c", script, "sh", hosts, *names).splitlines()
    assert [line.split()[0] for line in found] == [address for address in NODES.values() for _ in (0, 1)]
    assert found[2].split()[1] == "worker1.mycluster.internal"


# --- ansible-inventory ---


def inventory(file: Path) -> dict[str, dict[str, object]]:
    """What ansible-inventory makes of a file; it must have nothing to complain about."""
    done = subprocess.run(
        ["ansible-inventory", "-i", file, "--list"],
        env={**os.environ, "HOME": str(file.parent), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["inventory.yaml", "inventory.yml", "inventory"])
def test_ansible_reads_the_inventory(place: Place, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(place.good("export", "ansible-inventory"))
    found = inventory(tmp_path / name)
    assert found["role_master"] == {"hosts": ["master"]}
    assert found["role_worker"] == {"hosts": [f"worker{n}" for n in range(1, 6)]}
    assert found["cluster_mycluster"] == {"children": ["role_master", "role_worker"]}
    known = found["_meta"]["hostvars"]
    assert isinstance(known, dict) and set(known) == set(NODES)
    assert known["worker2"] == {
        "ansible_host": "worker2.mycluster.internal",
        "ansible_user": "pi",
        "ansible_python_interpreter": "/usr/bin/python3",
    }


@pytest.mark.parametrize("name", ["no", "null", "0x10", "1e3", "12-30", "y"])
def test_names_that_yaml_takes_for_something_else_stay_names(tmp_path: Path, name: str) -> None:
    cluster = rendered.cluster()
    odd = dataclasses.replace(cluster.nodes[1], name=name, role="my-role")
    file = tmp_path / "inventory.yaml"
    file.write_text(export.ansible_inventory(dataclasses.replace(cluster, nodes=(cluster.nodes[0], odd))))
    assert inventory(file)["role_my_role"] == {"hosts": [name]}


def test_roles_that_ansible_cannot_tell_apart_lose_no_node(tmp_path: Path) -> None:
    cluster = rendered.cluster()
    nodes = tuple(
        dataclasses.replace(node, role=role)
        for node, role in zip(cluster.nodes, ("master", "a-b", "a.b", "a_b", "examples/mpi"), strict=False)
    )
    file = tmp_path / "inventory.yaml"
    file.write_text(export.ansible_inventory(dataclasses.replace(cluster, nodes=nodes)))
    assert inventory(file)["role_a_b"] == {"hosts": ["worker1", "worker2", "worker3"]}
    assert inventory(file)["role_examples_mpi"] == {"hosts": ["worker4"]}


# --- what is refused ---


def test_without_host_keys_it_says_what_makes_them(tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    assert "no host key yet for master, worker1" in place.refused(1, "export", "known-hosts")
    assert "you have no SSH key" in place.refused(1, "export", "ssh-config")
    assert not (place.folder / "state").exists()
    place.entries("master", "trixie")
    (place.folder / "state" / "mycluster" / "host-keys" / "worker2").unlink()
    said = place.refused(1, "export", "known-hosts")
    assert "no host key yet for worker2\n" in said and "piimg build" in said
    (place.folder / "state" / "mycluster" / "host-keys" / "worker2").write_text("scrambled")
    assert "host-keys/worker2: not an OpenSSH private key" in place.refused(1, "export", "known-hosts")


def test_options_that_say_nothing_are_refused(place: Place, tmp_path: Path) -> None:
    assert "--via is not valid for hosts" in place.refused(2, "export", "hosts", "--via", "x")
    place.refused(2, "export", "ansible-inventory", "--known-hosts", "x")
    place.refused(2, "export", "known-hosts", "--known-hosts", "x")


NO_PLACES = ["", "a b", "-oProxyCommand=x", "host:0", "host:65536", "host:", "*.local", "!x", "[host]:22"]


@pytest.mark.parametrize("text", [*NO_PLACES, "a:b:c", "fe80::1%eth0", "x\n"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST"):
        export.via(text)


@given(st.text(max_size=40))
def test_whatever_via_is_taken_is_one_word_to_ssh(text: str) -> None:
    try:
        found = export.via(text)
    except UsageError:
        return
    assert found.host.isascii() and not set(found.host) & set(" \t\n#\"'*?!,%[]@") and found.host[0] != "-"
    assert 0 < found.port < 65536


@pytest.mark.parametrize("path", ['a"b', "a\\b", "${HOME}/x", "a\nb"])
def test_a_path_that_ssh_cannot_hold_is_refused(path: str) -> None:
    cluster: Cluster = rendered.cluster()
    with pytest.raises(UsageError, match="cannot contain the path"):
        export.ssh_config(cluster, Via("home"), path)


def test_the_programs_are_there() -> None:
    """None of the above is skipped for want of a program."""
    assert shutil.which("ansible-inventory") and shutil.which("ssh") and shutil.which("ssh-keygen")
