"""Merging layers: modes and owners, links, lines, words; what overrides what, and that it says so."""

# the tables of cases are read a line each

import dataclasses
from pathlib import Path

import pytest

from imagebuilder import resources
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image.inject import without_words
from imagebuilder.model import Kind, Release
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import idle_layers, layer_order, plan_node
from tests.integration.overlays.rendered import cluster
from tests.unit.overlay.making import CREDENTIALS, by_path, entries, merged, refused, write

MODES = {
    "root/etc/motd": (0o644, 0),
    "root/usr/local/bin/tool": (0o755, 0),
    "root/opt/plain.sh": (0o644, 0),
    "root/etc/NetworkManager/system-connections/a.nmconnection": (0o600, 0),
    "root/etc/netplan/10-a.yaml": (0o600, 0),
    "root/etc/sudoers.d/010_a": (0o440, 0),
    "root/etc/ssh/ssh_host_rsa_key": (0o600, 0),
    "root/etc/ssh/ssh_host_rsa_key.pub": (0o644, 0),
    "root/home/pi/.ssh": (0o700, 1000),
    "root/home/pi/.ssh/config": (0o600, 1000),
    "root/home/pi/.config": (0o755, 1000),
    "root/home/pi/.config/a": (0o644, 1000),
    "root/root/.ssh": (0o700, 0),
    "root/root/.ssh/authorized_keys": (0o600, 0),
    "root/srv/empty": (0o755, 0),
    "boot/config.txt": (0o644, 0),
}


def test_modes_and_owners_by_default(tmp_path: Path) -> None:
    contents = {"root/usr/local/bin/tool": "#!/bin/sh\n", "root/opt/plain.sh": "true\n"}
    folders = ("root/home/pi/.ssh", "root/home/pi/.config", "root/root/.ssh", "root/srv/empty")
    files = {f"{path}/" if path in folders else path: contents.get(path, "x") for path in MODES}
    found = entries(tmp_path / "mine", files)
    assert {path: (entry.mode, entry.uid) for path, entry in found.items()} == MODES
    assert all(entry.gid == entry.uid for entry in found.values())


def test_modes_and_owners_declared(tmp_path: Path) -> None:
    toml = """
        [files."root/a"]
        mode = "640"
        owner = "33:44"
        [files."root/b"]
        owner = "user"
        [files."root/d"]
        mode = "0711"
    """
    found = entries(tmp_path / "mine", {"layer.toml": toml, "root/a": "x", "root/b.j2": "x", "root/d/e": "x"})
    shown = {path: (e.kind, e.mode, e.uid, e.gid) for path, e in found.items()}
    assert shown == {
        "root/a": (Kind.FILE, 0o640, 33, 44),
        "root/b": (Kind.FILE, 0o644, 1000, 1000),
        "root/d": (Kind.DIRECTORY, 0o711, 0, 0),
        "root/d/e": (Kind.FILE, 0o644, 0, 0),
    }


def test_the_bit_git_keeps_makes_a_program(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/usr/bin/elf": "\x7fELF"})
    (folder / "root/usr/bin/elf").chmod(0o700)
    assert merged(folder)[0].mode == 0o755


def test_packages_of_one_release(tmp_path: Path) -> None:
    rule = """{ name = "b1", when = "cluster.release == 'trixie'" }"""
    write(tmp_path / "mine", {"layer.toml": f"packages = ['a1', {rule}]"})
    found = dataclasses.replace(cluster(), layers=("mine",))
    overlays = Overlays(resources.shipped("overlays"), tmp_path)
    for release, names in ((Release.BOOKWORM, ["a1"]), (Release.TRIXIE, ["a1", "b1"])):
        plan = plan_node(found, found.node("worker1"), release, CREDENTIALS, overlays)
        assert list(plan.software.packages) == names


def test_templates_know_the_layers_that_the_manifest_names(tmp_path: Path) -> None:
    write(
        tmp_path / "mine",
        {"root/etc/x.j2": "{% for one in nodes %}{{ one.layers | join(' ') }};{% endfor %}"},
    )
    found = dataclasses.replace(cluster(), layers=("mine",))
    overlays = Overlays(resources.shipped("overlays"), tmp_path)
    plan = plan_node(found, found.node("worker1"), Release.TRIXIE, CREDENTIALS, overlays)
    assert next(entry for entry in plan.entries if entry.path == "/etc/x").content == b"mine;" * 6


def test_conditions(tmp_path: Path) -> None:
    toml = """
        [files."root/radio"]
        when = "node.wifi"
        [[lines]]
        path = "root/etc/l"
        lines = ["one"]
        when = "not node.is_gateway"
        [[words]]
        path = "boot/cmdline.txt"
        words = ["quiet"]
        when = "node.name == 'worker2' and cluster.release == 'trixie'"
    """
    files = {"layer.toml": toml, "root/radio": "x"}
    assert list(entries(tmp_path / "mine", files)) == ["root/radio"]
    assert list(entries(tmp_path / "mine", files, "worker1")) == ["root/etc/l"]
    assert list(entries(tmp_path / "mine", files, "worker2")) == ["boot/cmdline.txt", "root/etc/l"]


def test_links_lines_words_removals(tmp_path: Path) -> None:
    toml = """
        remove = ["root/etc/gone", "root/etc/maybe"]
        may_be_missing = ["root/etc/maybe", "root/etc/l"]
        [links]
        "root/etc/here" = "{{ cluster.release }}/there"
        [[lines]]
        path = "root/etc/l"
        lines = ["node {{ node.name }}", ""]
        [[words]]
        path = "boot/cmdline.txt"
        words = ["a=1", "b"]
    """
    found = entries(tmp_path / "mine", {"layer.toml": toml})
    assert found["root/etc/here"].target == "trixie/there"
    assert found["root/etc/l"].content == b"node master\n\n"
    assert found["boot/cmdline.txt"].content == b"a=1 b"
    assert {path: (entry.kind, entry.optional) for path, entry in found.items()} == {
        "boot/cmdline.txt": (Kind.WORDS, False),
        "root/etc/gone": (Kind.REMOVE, False),
        "root/etc/here": (Kind.LINK, False),
        "root/etc/l": (Kind.LINES, True),
        "root/etc/maybe": (Kind.REMOVE, True),
    }


def test_words_are_added_and_removed(tmp_path: Path) -> None:
    toml = '[[words]]\npath = "boot/cmdline.txt"\nwords = ["a=1"]\nremove = ["console={{ node.name }}", "b"]'
    found = merged(write(tmp_path / "mine", {"layer.toml": toml}))
    assert [(e.kind, e.content) for e in found] == [
        (Kind.NO_WORDS, b"console=master b"),
        (Kind.WORDS, b"a=1"),
    ]
    assert without_words(b"x console=master b=1 b a\n", found[0].content) == b"x b=1 a\n"
    assert without_words(b"x b=1\n", found[0].content) == b"x b=1\n"
    with pytest.raises(PiimgError, match="more than one line"):
        without_words(b"x\nb\n", found[0].content)


def test_later_layers_win_and_say_so(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"root/a": "1", "root/b": "1", "root/c": "1", "root/d": "1"})
    two = write(
        tmp_path / "two", {"root/a.j2": "2", "layer.toml": 'remove = ["root/b"]\n[links]\n"root/c" = "x"'}
    )
    three = write(tmp_path / "three", {"root/a": "3"})
    found = by_path(merged(one, two, three))
    assert {path: (e.kind, e.layer, e.overrides) for path, e in found.items()} == {
        "root/a": (Kind.FILE, "three", ("one", "two")),
        "root/b": (Kind.REMOVE, "two", ("one",)),
        "root/c": (Kind.LINK, "two", ("one",)),
        "root/d": (Kind.FILE, "one", ()),
    }
    assert found["root/a"].content == b"3"


def lines_in(path: str, section: str = "", line: str = "x") -> dict[str, str | bytes]:
    under = f"section = {section!r}\n" if section else ""
    return {"layer.toml": f'[[lines]]\npath = "{path}"\n{under}lines = ["{line}"]\n'}


def test_lines_may_be_of_a_section(tmp_path: Path) -> None:
    """That of config.txt is for all boards unless another is named; the name is a template, as lines are."""
    found = entries(tmp_path / "a", lines_in("root/etc/dhcpcd.conf", "interface  {{ node.interface }}"))
    assert found["root/etc/dhcpcd.conf"].section == "interface eth0"
    assert entries(tmp_path / "b", lines_in("boot/config.txt"))["boot/config.txt"].section == "[all]"
    assert entries(tmp_path / "c", lines_in("boot/config.txt", "[PI4]"))["boot/config.txt"].section == "[pi4]"
    assert entries(tmp_path / "d", lines_in("root/etc/x.ini", "[Main]"))["root/etc/x.ini"].section == "[main]"
    assert entries(tmp_path / "e", lines_in("root/etc/hosts"))["root/etc/hosts"].section == ""


@pytest.mark.parametrize(
    ("path", "section", "line", "said"),
    [
        ("boot/config.txt", "", "[pi4]", "is the heading of a section"),
        ("boot/CONFIG.TXT", "[all]", "[pi4]", "is the heading of a section"),
        ("root/etc/dhcpcd.conf", "", "interface eth0", "is the heading of a section"),
        ("root/etc/dhcpcd.conf", "[all]", "x", "is not the heading of a section"),
        ("boot/config.txt", "pi4", "x", "is not the heading of a section"),
        ("root/etc/x", "[a]", "[b]", "is the heading of a section"),
        ("root/etc/x", " ", "x", "is not the heading of a section"),
        ("root/etc/x", "[{{ secrets.wifi_psk }}]", "x", "is not the heading of a section"),
    ],
)
def test_headings_that_are_none(path: str, section: str, line: str, said: str, tmp_path: Path) -> None:
    reported = refused(tmp_path / "layer", lines_in(path, section, line))
    assert said in reported and reported.startswith("layer.toml: ")


def test_lines_add_up_and_a_file_replaces_them(tmp_path: Path) -> None:
    lines = '[[lines]]\npath = "root/a"\nlines = ["{}"]'
    one = write(tmp_path / "one", {"layer.toml": lines.format("1")})
    two = write(tmp_path / "two", {"layer.toml": lines.format("2")})
    three = write(tmp_path / "three", {"root/a": "3"})
    assert [(e.layer, e.content) for e in merged(one, two)] == [("one", b"1\n"), ("two", b"2\n")]
    assert [(e.layer, e.overrides) for e in merged(one, two, three)] == [("three", ("one", "two"))]
    assert [(e.layer, e.kind) for e in merged(three, one)] == [("three", Kind.FILE), ("one", Kind.LINES)]


def test_a_folder_removed_takes_what_earlier_layers_put_there(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"root/opt/x/a": "1", "root/opt/x/b/c": "1", "root/opt/xy": "1"})
    two = write(tmp_path / "two", {"layer.toml": 'remove = ["root/opt/x"]', "root/opt/x/new": "2"})
    found = by_path(merged(one, two))
    assert list(found) == ["root/opt/x", "root/opt/x/new", "root/opt/xy"]
    assert found["root/opt/x"].overrides == ("one",)


@pytest.mark.parametrize(
    "files",
    [
        {"layer.toml": '[links]\n"root/a" = "b"', "root/a/c": "x"},
        {"layer.toml": '[links]\n"root/a" = "/etc"\n[[lines]]\npath = "root/a/c"\nlines = ["x"]'},
        {"layer.toml": '[links]\n"root/a" = "/etc"\n"root/a/b/c" = "x"'},
    ],
)
def test_nothing_is_put_below_a_link(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"root/a/.* is below /a, which the layer mine makes a link"):
        entries(tmp_path / "mine", files)


def test_nothing_is_put_below_another_layer_s_link_or_file(tmp_path: Path) -> None:
    below = write(tmp_path / "below", {"root/a/c": "x"})
    for files in ({"layer.toml": '[links]\n"root/a" = "/etc"'}, {"root/a": "x"}):
        one = write(tmp_path / f"one{len(files)}{'root/a' in files}", files)
        for order in ((one, below), (below, one)):
            with pytest.raises(UsageError, match="is below /a, which the layer one"):
                merged(*order)


def test_a_layer_that_says_two_things(tmp_path: Path) -> None:
    message = refused(tmp_path / "mine", {"layer.toml": '[links]\n"root/a" = "b"', "root/a": "x"})
    assert message == "layer.toml: the layer mine defines root/a twice"


@pytest.mark.parametrize("pair", [("boot/Config.txt", "boot/config.txt"), ("boot/O/a", "boot/o/b")])
def test_one_name_on_the_boot_partition(pair: tuple[str, str], tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", {pair[0]: "1"}), write(tmp_path / "two", {pair[1]: "2"})
    with pytest.raises(UsageError, match=r"are the same file on the boot partition \(FAT\)"):
        merged(one, two)
    on_root = [name.replace("boot/", "root/") for name in pair]
    assert len(entries(tmp_path / "three", {on_root[0]: "1", on_root[1]: "2"})) == 2


def test_a_folder_comes_before_what_is_in_it(tmp_path: Path) -> None:
    found = list(
        entries(
            tmp_path / "mine", {"root/home/pi/.ssh/a": "", "root/home/pi/.a/b": "", "root/home/pi/.b": ""}
        )
    )
    assert found.index("root/home/pi/.ssh") < found.index("root/home/pi/.ssh/a")
    assert found.index("root/home/pi/.a") < found.index("root/home/pi/.a/b")


def test_own_layers_add_to_shipped_ones_and_win(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for name in ("base", "network-manager", "os-trixie", "master"):
        write(shipped / name, {"root/a": f"shipped {name}", f"root/{name}": ""})
    write(own / "base", {"root/a": "own base", "root/base": "own"})
    write(own / "node-master", {"root/a": "own node"})
    found = cluster()
    planned = plan_node(found, found.node("master"), Release.TRIXIE, CREDENTIALS, Overlays(shipped, own))
    order = ("base", "base (own)", "network-manager", "os-trixie", "master", "node-master (own)")
    assert planned.layers == order
    shown = {e.path: (e.content, e.layer, e.overrides) for e in planned.entries}
    assert shown["/a"] == (b"own node", "node-master (own)", order[:-1])
    assert shown["/base"] == (b"own", "base (own)", ("base",))


def test_the_account_s_home_by_its_name_is_the_account_s_home(tmp_path: Path) -> None:
    """home/alice in a layer would keep the first boot from moving the home there, and lock alice out."""
    base = write(tmp_path / "base", {"root/home/pi/.ssh/authorized_keys": "theirs", "root/home/pi/.a": "a"})
    mine = write(
        tmp_path / "mine",
        {
            "root/home/alice/.ssh/authorized_keys": "mine",
            "root/home/alice/bin/x": "#!/bin/sh\n",
            "root/home/alicex/y": "",
            "root/home/bob/z": "",
            "layer.toml": 'remove = ["root/home/alice/.a"]\n[files."root/home/alice/bin/x"]\nmode = "0700"',
        },
    )
    found = by_path(merged(base, mine, account="alice"))
    keys = found["root/home/pi/.ssh/authorized_keys"]
    assert (keys.content, keys.mode, keys.uid, keys.overrides) == (b"mine", 0o600, 1000, ("base",))
    assert found["root/home/pi/bin/x"].mode == 0o700 and found["root/home/pi/.a"].kind is Kind.REMOVE
    assert not [path for path in found if path.startswith("root/home/alice/")]
    assert {"root/home/alicex/y", "root/home/bob/z"} <= found.keys()
    assert "root/home/alice/bin/x" in by_path(merged(base, mine, account="bob"))


@pytest.mark.parametrize("name", ["notes", ".ssh/config"])
def test_a_home_by_both_names_is_refused(name: str, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {f"root/home/pi/{name}": "1", f"root/home/alice/{name}": "2"})
    assert len(merged(mine)) >= 2
    with pytest.raises(UsageError, match=r"the layer mine defines root/home/pi/.* twice") as error:
        merged(mine, account="alice")
    assert "home/" in error.value.hint


def test_a_role_of_one_s_own_begins_as_a_worker(tmp_path: Path) -> None:
    """The shipped worker's key to the gateway, and its time; but nothing of one's own layer for workers."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for name in ("base", "network-manager", "os-trixie", "master", "worker"):
        write(shipped / name, {f"root/{name}": ""})
    write(own / "worker", {"root/mine": ""})
    write(own / "storage", {"root/disks": ""})

    def layers(role: str, node: str = "worker1", more: tuple[str, ...] = ()) -> tuple[str, ...]:
        nodes = tuple(
            dataclasses.replace(one, role=role, layers=more) if one.name == node else one
            for one in cluster().nodes
        )
        found = dataclasses.replace(cluster(), nodes=nodes)
        return plan_node(found, found.node(node), Release.TRIXIE, CREDENTIALS, Overlays(shipped, own)).layers

    first = ("base", "network-manager", "os-trixie")
    assert layers("storage") == (*first, "worker", "storage (own)")
    assert layers("worker") == (*first, "worker", "worker (own)")
    named = layers("storage", more=("worker",))
    assert named == (*first, "storage (own)", "worker", "worker (own)")
    assert layers("master") == (*first, "master")
    assert layers("storage", "master", ("master",)) == (*first, "storage (own)", "master")


def test_layers_that_no_node_has(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    write(shipped / "base", {"root/a": ""})
    for name in (
        "base",
        "workers",
        "node-worke1",
        "node-worker1",
        "os-bookworm",
        "os-trixi",
        "lab/gpu",
        "zzz",
    ):
        write(own / name, {"root/a": ""})
    write(own / "worker2", {"etc/hosts": ""})
    write(own / ".git", {"x": ""})
    (own / "empty").mkdir()
    (own / "README.md").write_text("x")
    reported = {
        idle_layer.name: (idle_layer.nearest, idle_layer.is_layer)
        for idle_layer in idle_layers(cluster(), Overlays(shipped, own))
    }
    assert reported == {
        "workers": ("worker", True),
        "node-worke1": ("node-worker1", True),
        "os-trixi": ("os-trixie", True),
        "lab/gpu": ("", True),
        "zzz": ("", True),
        "worker2": ("", False),
    }
    texts = [idle_layer.text for idle_layer in idle_layers(cluster(), Overlays(shipped, own))]
    assert "no node uses the layer overlays/workers/; is worker meant?" in texts
    assert not list(idle_layers(cluster(), Overlays(own, own)))
    assert not list(idle_layers(cluster(), Overlays(own)))


def test_the_order_of_layers() -> None:
    found = cluster()
    for release, own in (
        (Release.BULLSEYE, ("grow-once", "os-bullseye")),
        (Release.BOOKWORM, ("grow-once", "network-manager", "os-bookworm")),
        (Release.TRIXIE, ("network-manager", "os-trixie")),
    ):
        order = layer_order(found, found.node("worker3"), release)
        assert order == ("base", *own, "worker", "node-worker3")


def test_the_interfaces_that_no_netplan_file_may_set_up(tmp_path: Path) -> None:
    """Empty names are left out: a node without Wi-Fi has one interface less. A hostile name is refused."""
    toml = '[netplan]\nclear = ["{{ node.interface }}", "", "wlan0"]\n'
    (one,) = entries(tmp_path / "mine", {"layer.toml": toml}).values()
    assert (one.kind, one.path, one.content) == (Kind.NETPLAN, "/etc/netplan/*.yaml", b"eth0 wlan0")
    toml = '[netplan]\nclear = ["eth0 wlan0"]\n'
    assert "'eth0 wlan0' is not the name of an interface" in refused(tmp_path / "other", {"layer.toml": toml})


@pytest.mark.parametrize("path", ["root/etc/machine-id", "root/boot/firmware/config.txt"])
def test_what_no_layer_may_write(tmp_path: Path, path: str) -> None:
    assert f"no layer may write /{path.removeprefix('root/')}" in refused(tmp_path / "mine", {path: "x"})
