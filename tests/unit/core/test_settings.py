"""The settings of the cluster, a role and a node: how the levels are joined, and what is refused."""

# ruff: noqa: E501  # the tables of cases are read a line each

import re
import tomllib
from typing import Any

import pytest

from imagebuilder.manifest import checks
from imagebuilder.manifest.shape import LanShape, ManifestShape, NodeShape, WifiShape
from imagebuilder.settings import Account, HeaderInterface, Journal, KeyFile, Mount, data_uuid
from tests.support.checkout import TOP
from tests.unit.core.test_manifest import TEXT, changed, errors, parse

CLUSTER = 'keyboard = "gb"'
WORKER2 = 'name = "worker2"'


def with_cluster(more: str, text: str = TEXT) -> str:
    return changed(CLUSTER, f"{CLUSTER}\n{more}", text)


def with_worker2(more: str, text: str = TEXT) -> str:
    return changed(WORKER2, f"{WORKER2}\n{more}", text)


def said_of_worker2(more: str) -> str:
    """The one error of worker2 with these lines, without its line number."""
    (said,) = errors(with_worker2(more))
    assert "node[3]." in said
    return said.partition("node[3].")[2]


def test_config_is_joined_by_filter_and_the_nearest_level_is_last() -> None:
    text = with_cluster('config.all = ["gpu_mem=16"]\nconfig.pi4 = ["arm_boost=1"]')
    text = with_worker2('config.all = ["gpu_mem=32", "dtparam=audio=off"]', text)
    text += '\n[role.worker.config]\nall = ["gpu_mem=24"]\n"gpio4=1" = ["include extra.txt"]\n'
    nodes = {node.name: node.config for node in parse(text).nodes}
    assert nodes["master"] == {"all": ("gpu_mem=16",), "pi4": ("arm_boost=1",)}
    assert nodes["worker1"] == {
        "all": ("gpu_mem=16", "gpu_mem=24"),
        "pi4": ("arm_boost=1",),
        "gpio4=1": ("include extra.txt",),
    }
    assert nodes["worker2"]["all"] == ("gpu_mem=16", "gpu_mem=24", "gpu_mem=32", "dtparam=audio=off")


def test_interfaces_are_joined() -> None:
    text = with_worker2('interfaces = ["serial", "i2c"]', with_cluster('interfaces = ["i2c", "1-wire"]'))
    nodes = {node.name: node.interfaces for node in parse(text).nodes}
    assert nodes["master"] == (HeaderInterface.I2C, HeaderInterface.ONE_WIRE)
    assert nodes["worker2"] == (HeaderInterface.I2C, HeaderInterface.ONE_WIRE, HeaderInterface.SERIAL)


@pytest.mark.parametrize(
    "right",
    ["all", "none", "pi3", '"pi3+"', "tryboot", '"0x12345678"', '"board-type=0x11"', '"EDID=VSC-TD2220"', '"HDMI:0"'],
)  # fmt: skip
def test_a_filter_of_the_firmware_is_taken(right: str) -> None:
    assert parse(with_worker2(f'config.{right} = ["hdmi_group:0=2"]')).node("worker2").config


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('config.pi3 = ["arm_boost"]', "config.pi3[1]: 'arm_boost' is not a line of config.txt"),
        ('config.pi3 = ["[all]"]', "config.pi3[1]: '[all]' is a filter: write it as the key"),
        ('config.pi3 = ["a=1\\n[all]\\nb=2"]', "has a character that is not printable ASCII"),
        ('config.pi3 = ["a=\\u001b[2J"]', "has a character that is not printable ASCII"),
        ('config.pi3 = ["cmdline=é"]', "has a character that is not printable ASCII"),
        (f'config.pi3 = ["cmdline={"x" * 91}"]', "is longer than 98 characters"),
        ('config.pi3 = "gpu_mem=16"', 'config.pi3: takes a list, such as ["gpu_mem=16"]'),
        ('config = ["gpu_mem=16"]', "config: takes a table"),
        ('config.PI3 = ["gpu_mem=16"]', "'PI3' is not a filter of config.txt such as all, pi4 or cm5; is pi3 meant?"),
        ('config."[pi3]" = ["gpu_mem=16"]', "is not a filter of config.txt such as all, pi4 or cm5; is pi3 meant?"),
        ('config."pi3]\\n[all" = ["a=1"]', "is not a filter of config.txt"),
        ('config.pi4 = ["arm_boost=1"]', "config.pi4: pi-3b+ ignores [pi4], which is for cm4, cm4s, pi-400, pi-4b"),
        ('interfaces = ["i2s"]', "interfaces[1]: takes i2c, spi, serial, serial-console, 1-wire; is i2c meant?"),
        ('interfaces = [true]', "interfaces[1]: takes i2c, spi, serial, serial-console, 1-wire"),
        ('interfaces = ["serial", "serial-console"]', "interfaces: worker2 has serial, for programs, and serial-console"),
    ],
)  # fmt: skip
def test_what_the_firmware_could_not_read_is_refused(more: str, said: str) -> None:
    assert said in said_of_worker2(more)


def test_a_line_of_98_characters_is_taken() -> None:
    assert parse(with_worker2(f'config.pi3 = ["cmdline={"x" * 90}"]')).node("worker2").config


def test_a_role_that_no_node_has_is_refused() -> None:
    (said,) = errors(TEXT + '\n[role.workers]\ninterfaces = ["i2c"]\n')
    assert "role.workers: no node has the role workers; is worker meant?" in said


def test_a_wrong_setting_of_a_role_has_its_place() -> None:
    (said,) = errors(TEXT + '\n[role.worker]\ninterfaces = ["can"]\n')
    assert "role.worker.interfaces[1]: takes i2c" in said


def test_the_nearest_journal_counts() -> None:
    assert {node.journal for node in parse(TEXT).nodes} == {Journal.DEFAULT}
    text = with_worker2('journal = "default"', with_cluster('journal = "persistent"'))
    text += '\n[role.master]\njournal = "default"\n'
    journals = [node.journal for node in parse(text).nodes[:4]]
    assert journals == [Journal.DEFAULT, Journal.PERSISTENT, Journal.DEFAULT, Journal.PERSISTENT]


@pytest.mark.parametrize("wrong", ['"volatile"', "true", "1", '"persistent\\n"', "[]"])
def test_no_other_journal(wrong: str) -> None:
    assert said_of_worker2(f"journal = {wrong}") == "journal: takes 'default' or 'persistent'"


def test_the_nearest_port_counts() -> None:
    text = with_worker2("ssh_port = 2202", with_cluster("ssh_port = 2222"))
    assert [node.ssh_port for node in parse(text).nodes[:4]] == [2222, 2222, 2202, 2222]
    assert {node.ssh_port for node in parse(TEXT).nodes} == {22}


@pytest.mark.parametrize("wrong", ["0", "65536", "-1", '"22"', "true", "22.0", "[22]"])
def test_what_is_no_port(wrong: str) -> None:
    assert (
        said_of_worker2(f"ssh_port = {wrong}")
        == "ssh_port: takes a port number from 1 to 65535, such as 2222"
    )


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDZHCS8U8FuNvIKxcYCtIKrSWch0egb+xXpISRy44U33 eve@elsewhere"


def with_account(more: str, name: str = "anna") -> str:
    return f'{TEXT}\n[[account]]\nname = "{name}"\n{more}\n'


def test_accounts_have_numbers_in_their_order() -> None:
    text = with_account(f'groups = ["sudo", "gpio", "sudo"]\nauthorized_keys = ["{KEY}"]')
    text += (
        '[[account]]\nname = "ben"\nauthorized_keys = ["keys/ben.pub", "keys/authorized_keys", "ben.keys"]\n'
    )
    assert parse(text).accounts == (
        Account("anna", 1001, ("sudo", "gpio"), (KEY,)),
        Account("ben", 1002, (), tuple(map(KeyFile, ("keys/ben.pub", "keys/authorized_keys", "ben.keys")))),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (with_account(f'authorized_keys = ["{KEY}"]', "pi"), "account[1].name: 'pi' is not the name of an account"),
        (with_account(f'authorized_keys = ["{KEY}"]', "root"), "account[1].name: 'root' is not the name"),
        (with_account(f'authorized_keys = ["{KEY}"]', "systemd-network"), "account[1].name: 'systemd-network' is not"),
        (with_account(f'authorized_keys = ["{KEY}"]', "a b"), "account[1].name: 'a b' is not the name"),
        (with_account(""), "account[1].authorized_keys: missing"),
        (with_account("authorized_keys = []"), "account[1].authorized_keys: takes a list with at least one item"),
        (with_account('authorized_keys = ["ssh-ed25519 AAAA"]'), "authorized_keys[1]: is not a complete SSH public key"),
        (with_account('authorized_keys = ["anna"]'), "authorized_keys[1]: 'anna' is not an SSH public key line"),
        (with_account('authorized_keys = ["~/anna.pub"]'), "authorized_keys[1]: '~/anna.pub' is not the path of a file"),
        (with_account('authorized_keys = ["a\\nb.pub"]'), "is not the path of a file"),
        (with_account(f'authorized_keys = ["restrict {KEY}"]'), "is not an SSH public key line"),
        (with_account(f'groups = ["a,b"]\nauthorized_keys = ["{KEY}"]'), "groups[1]: 'a,b' is not the name of a group"),
        (with_account(f'groups = ["x:0:"]\nauthorized_keys = ["{KEY}"]'), "groups[1]: 'x:0:' is not the name of a group"),
        (with_account(f'password = "x"\nauthorized_keys = ["{KEY}"]'), "account[1].password: unknown key"),
        (f'{TEXT}\n[account]\nname = "anna"\n', "account: write [[account]], with two brackets"),
    ],
)  # fmt: skip
def test_what_is_no_account(text: str, said: str) -> None:
    (found,) = errors(text)
    assert said in found


def test_two_accounts_of_one_name_are_refused() -> None:
    text = changed('name = "pi"', 'name = "anna"', with_account(f'authorized_keys = ["{KEY}"]'))
    (found,) = errors(text)
    assert "account[1].name: two accounts are called anna" in found


def test_certificates_are_joined() -> None:
    text = with_worker2('ca_certificates = ["b.pem", "a.pem"]', with_cluster('ca_certificates = ["a.pem"]'))
    assert [node.ca_certificates for node in parse(text).nodes[1:3]] == [("a.pem",), ("a.pem", "b.pem")]


@pytest.mark.parametrize("wrong", ['"~/a.pem"', '""', '"a\\nb"', "1"])
def test_what_is_no_file_of_certificates(wrong: str) -> None:
    assert "ca_certificates[1]: " in said_of_worker2(f"ca_certificates = [{wrong}]")


def mount(**more: str) -> str:
    values = {"source": "LABEL=data", "path": "/srv/data", "type": "ext4"} | more
    listed = ", ".join(
        f"{key} = {value if value[:1] == '[' else repr(value)}" for key, value in values.items()
    )
    return f"mount = [{{ {listed} }}]".replace("'", '"')


def test_mounts_are_joined() -> None:
    text = f'{TEXT}\n[[cluster.mount]]\nsource = "tmpfs"\npath = "/tmp"\ntype = "tmpfs"\n'
    text = with_worker2(mount(options='["noatime"]'), text)
    assert parse(text).node("worker1").mounts == (Mount("tmpfs", "/tmp", "tmpfs"),)
    assert parse(text).node("worker2").mounts[1:] == (Mount("LABEL=data", "/srv/data", "ext4", ("noatime",)),)


@pytest.mark.parametrize(
    ("mounted", "line"),
    [
        (Mount("LABEL=d", "/d", "ext4"), "LABEL=d /d ext4 nofail 0 2"),
        (Mount("LABEL=d", "/d", "ext4", ("ro", "noauto")), "LABEL=d /d ext4 ro,noauto 0 2"),
        (Mount("a:/b", "/d", "nfs4", ("ro",)), "a:/b /d nfs4 ro,nofail,_netdev,x-systemd.automount 0 0"),
        (Mount("a:/b", "/d", "nfs", ("nofail", "_netdev")), "a:/b /d nfs nofail,_netdev,x-systemd.automount 0 0"),
        (Mount("//a/b", "/d", "cifs", ("noauto",)), "//a/b /d cifs noauto 0 0"),
        (Mount("tmpfs", "/tmp", "tmpfs", ("size=1G",)), "tmpfs /tmp tmpfs size=1G,nofail 0 0"),
    ],
)  # fmt: skip
def test_a_node_starts_without_what_is_mounted(mounted: Mount, line: str) -> None:
    assert mounted.line == line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (mount(source="a b"), "mount[1].source: 'a b' is not what can be mounted"),
        (mount(source="#x"), "source: '#x' is not what can be mounted"),
        (mount(source="a\\\\040b"), "is not what can be mounted"),
        (mount(source="x\\nLABEL=y / ext4 defaults 0 0"), "is not what can be mounted"),
        (mount(path="srv"), "path: 'srv' is not an absolute path"),
        (mount(path="/srv/../etc"), "path: '/srv/../etc' is not an absolute path"),
        (mount(path="/srv/"), "path: '/srv/' is not an absolute path"),
        (mount(path="/srv/a b"), "path: '/srv/a b' is not an absolute path"),
        (mount(path="/"), "path: '/' is not an absolute path"),
        (mount(path="/etc/ssh"), "path: /etc/ssh is a folder of the system"),
        (mount(path="/boot/firmware"), "path: /boot/firmware is a folder of the system"),
        (mount(path="/home"), "path: /home is a folder of the system"),
        (mount(path="/home/pi"), "mount: a mount at /home/pi would hide the account's keys"),
        (mount(type="ext4 defaults"), "type: 'ext4 defaults' is not the type of a file system"),
        (mount(options='["ro,rw"]'), "options[1]: 'ro,rw' is not one option"),
        (mount(options='["a b"]'), "options[1]: 'a b' is not one option"),
        (mount(options='[""]'), "options[1]: '' is not one option"),
        (mount(options='["password=x"]'), "options[1]: everybody can read fstab"),
        (mount()[:-1] + ", " + mount()[9:], "mount: worker2 has two mounts at /srv/data"),
        ('mount = { source = "tmpfs" }', "mount: write [[mount]], with two brackets"),
    ],
)  # fmt: skip
def test_what_is_no_mount(more: str, said: str) -> None:
    assert said in said_of_worker2(more)


def test_the_data_partition_is_a_mount() -> None:
    text = with_worker2('data = "/srv/data"', with_cluster('root_size = "8G"'))
    worker1, worker2 = (parse(text).node(name) for name in ("worker1", "worker2"))
    assert (worker1.root_size, worker1.data, worker1.mounts) == (8192, None, ())
    assert (worker2.root_size, worker2.data) == (8192, "/srv/data")
    (data,) = worker2.mounts
    assert (data.path, data.type, data.options) == ("/srv/data", "ext4", ("noatime",))
    assert data.source == f"UUID={data_uuid('picluster', 'worker2')}" != f"UUID={data_uuid('picluster', 'w')}"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('root_size = "1G"', 'root_size: takes a size from "2G" to "2048G"'),
        ('root_size = "2047M"', "root_size: takes a size from"),
        ('root_size = "3T"', "root_size: takes a size from"),
        ("root_size = 8", "root_size: takes a size from"),
        ('data = "/srv/data"', "data: worker2 needs root_size: without it, root takes the whole card"),
        ('root_size = "8G"\ndata = "srv"', "data: 'srv' is not an absolute path"),
        ('root_size = "8G"\ndata = "/var"', "data: /var is a folder of the system"),
        ('root_size = "8G"\ndata = "/home/pi"', "mount: a mount at /home/pi would hide the account's keys"),
        (f'root_size = "8G"\ndata = "/srv/data"\n{mount()}', "mount: worker2 has two mounts at /srv/data"),
    ],
)
def test_what_is_no_data_partition(more: str, said: str) -> None:
    assert said in said_of_worker2(more)


DOCUMENT = (TOP / "docs" / "manifest.md").read_text("utf-8")
NETWORKS = DOCUMENT[DOCUMENT.index("### Networks") : DOCUMENT.index("## Settings")]
"""Its examples are of clusters of other kinds: they cannot be put into one manifest."""


def blocks(text: str) -> list[str]:
    """The examples in a text."""
    return re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks(DOCUMENT.replace(NETWORKS, ""))[1:]


def put(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Join the tables of an example with those of a whole manifest; nodes by their names."""
    for key, value in more.items():
        if key == "node":
            for node in value:
                put(next(one for one in into["node"] if one["name"] == node["name"]), node)
        elif isinstance(value, dict):
            put(into.setdefault(key, {}), value)
        else:
            into[key] = value


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_the_examples_of_the_document_are_taken(block: str) -> None:
    document, example = tomllib.loads(TEXT), tomllib.loads(block.replace("ssh-ed25519 AAAA… carol", KEY))
    put(document, example)
    shape = ManifestShape.model_validate(document)
    assert not list(checks.problems(shape, None, lambda base: None))


@pytest.mark.parametrize("block", blocks(NETWORKS), ids=lambda block: block.splitlines()[0])
def test_the_tables_in_examples_of_networks_are_valid(block: str) -> None:
    example = tomllib.loads(block)
    found: list[object] = [LanShape.model_validate(example["lan"])] if "lan" in example else []
    if isinstance(node := example.get("node", []), list):
        found += [NodeShape.model_validate(one) for one in node]
    else:
        found += [WifiShape.model_validate(node["wifi"])]
    assert found


def test_all_errors_are_reported_together() -> None:
    text = changed(
        'address = "10.0.0.13"', 'address = "10.0.0.12"', with_worker2(mount(sourc="x", source="a b"))
    )
    text += '\n[[account]]\nname = "root"\nauthorized_keys = ["x"]\n[role.nobody]\n'
    said = "\n".join(errors(text))
    for part in (
        "node[3].mount[1].source: 'a b' is not what can be mounted",
        "node[3].mount[1].sourc: unknown key; is source meant?",
        "account[1].name: 'root' is not the name",
        "account[1].authorized_keys[1]: 'x' is not an SSH public key line",
        "node[4].address: 10.0.0.12 is already the address of worker2",
        "role.nobody: no node has the role nobody",
    ):
        assert part in said, said
