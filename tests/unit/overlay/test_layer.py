"""Reading a layer's folder: what it declares, and everything in it that must not reach a card."""

# ruff: noqa: E501  # the tables of cases are read a line each

import os
import socket
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.model import Kind
from imagebuilder.overlay import layer
from imagebuilder.overlay.merge import merge
from tests.unit.overlay.making import entries, refused, renderer, reported, write

DECLARED = {
    "unknown key": ("colour = 1", ":1: colour: unknown key"),
    "unknown key of a file": ('[files."root/a"]\nmod = "0644"', ":2: files.'root/a'.mod: unknown key"),
    "two lines of a description": ('description = "a\\nb"', ":1: description: must be one line"),
    "role of its own": ('for_roles = ["storage"]', ":1: for_roles[1]: takes"),
    "variable without a purpose": ('[vars.speed]\nexample = 3', ":1: vars.speed.about: missing"),
    "name of a variable": ('[vars.Speed]\nabout = "x"', "'Speed' is not a name of a-z, 0-9 and _"),
    "need of two kinds": ('[[needs]]\nthat = "gateway"\nfile = "root/x"\nmessage = "x"\nhint = "y"', ":1: needs[1]: takes one of that and file"),
    "need without a hint": ('[[needs]]\nthat = "gateway"\nmessage = "x"', ":1: needs[1].hint: missing"),
    "need that is none": ('[[needs]]\nthat = "nod.wifi"\nmessage = "x"\nhint = "y"', "layer.toml: needs[1]: 'nod' is undefined"),
    "wrong type": ("\nremove = 3", ":2: remove: takes a list in brackets, such as"),
    "not TOML": ("a = \n", ":1: not TOML"),
    "not TOML, line 3": ("\n\n[units\n", ":3: not TOML"),
    "setuid": ('[files."root/a"]\nmode = "4755"', ":2: files.'root/a'.mode: '4755' is not a mode of three"),
    "mode as a number": ('[files."root/a"]\nmode = 644', ":2: files.'root/a'.mode: takes text in quotes"),
    "owner": ('[files."root/a"]\nowner = "daemon"', ":2: files.'root/a'.owner: 'daemon' is not an owner"),
    "..": ('remove = ["root/../etc/passwd"]', "'root/../etc/passwd' is not a plain path"),
    "..at the end": ('remove = ["root/.."]', "'root/..' is not a plain path"),
    "absolute": ('remove = ["/etc/passwd"]', "'/etc/passwd' must start with boot/ or root/"),
    "nowhere": ('[links]\n"etc/x" = "y"', "'etc/x' must start with boot/ or root/"),
    "double slash": ('remove = ["root//etc"]', "is not a plain path"),
    "control character": ('remove = ["root/a\\u001bb"]', "is not a plain path"),
    "FAT": ('remove = ["boot/a:b"]', "contains (or ends in) a character that FAT cannot store"),
    "FAT dot": ('remove = ["boot/a."]', "contains (or ends in) a character that FAT cannot store"),
    "unit": ('[units]\nmask = ["../a.service"]', ":2: units.mask[1]: '../a.service' is not the name of a unit"),
    "target": ('[units.enable_in]\n"a.service" = "/etc"', "'/etc' is not the name of a unit"),
    "no lines": ('[[lines]]\npath = "root/a"\nlines = []', "lines[1].lines: takes a list with at least one item"),
    "files of nothing": ('[files."root/none"]\nmode = "0600"', "[files] names root/none, which is not in the layer"),
    "condition": ('[[words]]\npath = "boot/cmdline.txt"\nwords = ["a"]\nwhen = "nod.wifi"', "'nod' is undefined"),
    "condition that is none": ('[[words]]\npath = "boot/x"\nwords = ["a"]\nwhen = "node."', "expected name or number"),
    "template in a link": ('[links]\n"root/x" = "{{ foo }}"', "'foo' is undefined"),
    "link out": ('[links]\n"root/etc/x" = "../../x"', "../../x leaves the root partition"),
    "link on FAT": ('[links]\n"boot/x" = "y"', "boot/x: FAT has no symbolic links"),
    "link to nothing": ('[links]\n"root/x" = ""', "is not a valid target of a link"),
    "no words": ('[[words]]\npath = "boot/cmdline.txt"', "boot/cmdline.txt: [[words]] needs words, or remove"),
    "two words to remove": ('[[words]]\npath = "boot/cmdline.txt"\nremove = ["a b"]', "'a b' is not one word"),
    "two words": ('[[words]]\npath = "boot/cmdline.txt"\nwords = ["a b"]', "'a b' is not one word"),
    "two lines": ('[[lines]]\npath = "root/a"\nlines = ["a\\nb"]', "is not one line"),
    "unit of nobody": ('[units]\nenable = ["x.service"]', "units.enable names x.service, which is in no layer of the node"),
    "package": ('packages = ["htop", "Docker.io"]', ":1: packages[2]: 'Docker.io' is not the name of a Debian package; is docker.io meant?"),
    "package in a table": ('packages = [{ name = "Htop", when = "gateway" }]', ":1: packages[1].name: 'Htop' is not the name of a Debian package; is htop meant?"),
    "package without a name": ('packages = [{ when = "gateway" }]', ":1: packages[1].name: missing"),
    "package that is a number": ("packages = [3]", ":1: packages[1]: takes text in quotes"),
    "package of apt's own": ('packages = ["htop-"]', "'htop-' is not the name of a Debian package: it ends in a hyphen"),
    "download without a checksum": ('[[downloads]]\nurl = "https://e.org/f"\npath = "root/f"', ":1: downloads[1].sha256: missing"),
    "download without a digest": ('[[downloads]]\nurl = "https://e.org/f"\npath = "root/f"\nsha256 = "12"', ":4: downloads[1].sha256: '12' is not a sha256"),
    "download of a file here": (f'[[downloads]]\nurl = "file:///etc/passwd"\npath = "root/f"\nsha256 = "{"0" * 64}"', ":2: downloads[1].url: 'file:///etc/passwd' is not a URL"),
    "template of a URL": ('[[downloads]]\nurl = "ftp://{{ node.name }}/f"\npath = "root/f"\nsha256 = "{{ cluster.name }}"', "layer.toml: url of root/f: 'ftp://master/f' is not a URL"),
    "template of a digest": ('[[downloads]]\nurl = "https://e.org/f"\npath = "root/f"\nsha256 = "{{ cluster.name }}"', "layer.toml: sha256 of root/f: 'picluster' is not a sha256"),
    "statement for a URL": ('[[downloads]]\nurl = "{% if node.is_gateway %}ftp{% endif %}"\npath = "root/f"\nsha256 = "{{ cluster.name }}"', "layer.toml: url of root/f: 'ftp' is not a URL"),
    "architecture": ('architectures = ["amd64"]', ":1: architectures[1]: takes"),
    "secret in a URL": ('[[downloads]]\nurl = "https://e.org/{{ secrets.wifi_psk }}"\npath = "root/f"\nsha256 = "' + "0" * 64 + '"', "layer.toml: url of root/f: contains a secret"),
    "archive on FAT": (f'[[downloads]]\nurl = "https://e.org/f"\npath = "boot/f"\nsha256 = "{"0" * 64}"\nunpack = true', "boot/f: an archive cannot be unpacked into boot/"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARED)
def test_layer_toml_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    text, said = DECLARED[case]
    message = refused(tmp_path / "mine", {"layer.toml": text})
    assert message.startswith("layer.toml:")
    assert said in message


def test_all_errors_of_a_layer_toml_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"layer.toml": 'colour = 1\nremove = ["/x"]\n[units]\nmask = ["y"]'})
    with pytest.raises(UsageError) as error:
        layer.read("mine", folder)
    assert error.value.message == f"{folder}/layer.toml has 3 errors"
    assert [line.split(":")[1] for line in error.value.hint.split("\n")] == ["1", "2", "4"]


def test_what_python_compiled_for_this_machine_is_left_out(tmp_path: Path) -> None:
    """pip compiles the modules of the layers that come with piimg; the node images must not depend on that."""
    folder = tmp_path / "base" / "root" / "usr" / "lib" / "own"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "own.py").write_text("pass\n")
    (folder / "__pycache__" / "own.cpython-311.pyc").write_bytes(b"compiled")
    read = layer.read("base", tmp_path / "base")
    assert [source.path for source in read.sources] == [
        "root/usr", "root/usr/lib", "root/usr/lib/own", "root/usr/lib/own/own.py"
    ]  # fmt: skip


def test_a_layer_without_layer_toml(tmp_path: Path) -> None:
    found = entries(tmp_path / "mine", {"root/etc/motd": "hi\n", "README.md": "not for the card"})
    assert list(found) == ["root/etc/motd"]
    assert found["root/etc/motd"].content == b"hi\n"


@pytest.mark.parametrize("name", ["roots/etc/motd", "firstboot/10-x", "Root/x"])
def test_a_folder_misspelled_is_not_passed_over(name: str, tmp_path: Path) -> None:
    assert "is not part of a layer" in refused(tmp_path / "mine", {name: "x"})


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/etc/": ""})
    (Path(os.fsdecode(bytes(folder / "root/etc") + b"/caf\xe9"))).write_text("x")
    with pytest.raises(UsageError, match=r"the name is not UTF-8"):
        layer.read("mine", folder)


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b[2J", "back\\slash", "\u202egnp.exe"])
def test_names_that_would_fool_a_reader(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {f"root/{name}": "x"})
    with pytest.raises(UsageError, match=r"unprintable character or a backslash") as error:
        layer.read("mine", folder)
    assert error.value.message.isprintable()


@pytest.mark.parametrize("name", ["con.txt", "NUL", "Aux", "com1/x", "lpt9.cfg", "clock$", "grüße.txt"])
def test_names_that_fat_tools_change_or_refuse(name: str, tmp_path: Path) -> None:
    what = "non-ASCII letters" if not name.isascii() else "is a device name in DOS"
    assert what in refused(tmp_path / "mine", {f"boot/{name}": "x"})
    assert entries(tmp_path / "other", {f"root/{name}": "x", "boot/console.txt": "x", "boot/com10": "x"})


@pytest.mark.parametrize(
    "name", ["a:b", "what?", 'say"', "a*", "a|b", "<a>", "dot.", "space ", "folder./file"]
)
def test_names_that_fat_cannot_store(name: str, tmp_path: Path) -> None:
    assert "FAT cannot store" in refused(tmp_path / "mine", {f"boot/{name}": "x"})
    assert entries(tmp_path / "other", {f"root/{name}": "x"})


@pytest.mark.parametrize(
    "kind", ["link", "folder link", "dangling", "fifo", "socket", "device", "setuid", "setgid"]
)
def test_odd_files(kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/etc/": ""})
    odd = folder / "root/etc/odd"
    match kind:
        case "link":
            odd.symlink_to("/etc/passwd")
        case "folder link":
            odd.symlink_to("/etc")
        case "dangling":
            odd.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(odd)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(odd))
        case "device":
            if os.geteuid() != 0:
                pytest.skip("making a device node needs root")
            os.mknod(odd, 0o20666, os.makedev(1, 3))
        case _:
            odd.write_text("#!/bin/sh\n")
            odd.chmod(0o4755 if kind == "setuid" else 0o2755)
    with pytest.raises(UsageError) as error:
        layer.read("mine", folder)
    said = reported(error.value, folder)
    expected = {
        "link": "is a symbolic link",
        "dangling": "is a symbolic link",
        "folder link": "is a symbolic link",
    }
    bits = "has a setuid, setgid or sticky bit"
    assert (
        said
        == f"root/etc/odd {expected.get(kind, bits if 'set' in kind[:3] else 'is neither a file nor a folder')}"
    )


@pytest.mark.parametrize("name", ["root", "boot", "firstboot.d", "layer.toml"])
def test_parts_of_a_layer_that_are_links(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/etc/motd": "x"} if name != "root" else {})
    (folder / name).symlink_to("/etc/passwd" if name == "layer.toml" else "/etc")
    with pytest.raises(UsageError, match=r"is a symbolic link|is not a plain file"):
        layer.read("mine", folder)


def test_a_layer_toml_that_never_ends(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/x": ""})
    os.mkfifo(folder / "layer.toml")
    with pytest.raises(UsageError, match=r"is not a plain file"):
        layer.read("mine", folder)


def test_a_tree_too_deep(tmp_path: Path) -> None:
    assert "is nested deeper than 60 folders" in refused(tmp_path / "mine", {f"root/{'a/' * 70}": ""})


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"root/a": "x"})
    found = layer.read("mine", folder)
    (folder / "root/a").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*/root/a: No such file"):
        merge([found], renderer())


def test_a_file_and_its_template(tmp_path: Path) -> None:
    message = refused(tmp_path / "mine", {"root/a": "x", "root/a.j2": "y"})
    assert "are the same file" in message


def test_firstboot_scripts(tmp_path: Path) -> None:
    script = "#!/bin/sh\n# needs: {}\ntrue\n"
    files = {
        f"firstboot.d/1{n}-x": script.format(need)
        for n, need in enumerate(("none", "lan", "internet", "time"))
    }
    found = entries(tmp_path / "mine", files)
    assert list(found) == [f"root/usr/local/lib/piimg/firstboot.d/1{n}-x" for n in range(4)]
    assert all((entry.mode, entry.uid, entry.kind) == (0o755, 0, Kind.FILE) for entry in found.values())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hello", "#!/bin/sh\n", "firstboot.d/hello: the name of a first-boot script is NN-name"),
        ("1-hello", "#!/bin/sh\n", "a first-boot script is NN-name"),
        ("10-Hello", "#!/bin/sh\n", "a first-boot script is NN-name"),
        ("10-a b", "#!/bin/sh\n", "a first-boot script is NN-name"),
        ("10-x/y", "#!/bin/sh\n", "firstboot.d/10-x is a folder"),
        ("10-x", "echo hi\n", "firstboot.d/10-x:1: a first-boot script starts with #!"),
        (
            "10-x",
            "#!/bin/sh\n\n# needs: wifi\n",
            "firstboot.d/10-x:3: needs: takes one of none, lan, internet, time",
        ),
        ("10-x", "#!/bin/sh\n# needs:\n", "firstboot.d/10-x:2: needs: takes one of"),
        ("10-x", "#!/bin/sh\r\ntrue\r\n", "firstboot.d/10-x:1: a script with CRLF line ends"),
    ],
)
def test_firstboot_scripts_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path / "mine", {f"firstboot.d/{name}": text})


@pytest.mark.parametrize("name", ["root/usr/local/bin/run", "root/opt/x.sh"])
def test_scripts_with_the_line_ends_of_windows(name: str, tmp_path: Path) -> None:
    text = "#!/bin/sh\ntrue\r\n" if "bin" in name else "true\n\n\nfalse\r\n"
    at = 2 if "bin" in name else 4
    assert refused(tmp_path / "mine", {name: text}) == f"{name}:{at}: a script with CRLF line ends"


UNITS = {
    "Description=x\n": ":1: a unit's line outside any section",
    "[Unit]\nDescription\n": ":2: not a unit's KEY=VALUE line: 'Description'",
    "[Unit\nA=b\n": ":1: a unit's line outside any section",
    "[Unit]\nbroken \\": "not a unit's KEY=VALUE line",
    "[Unit]\n\n# fine\n; fine\n{{ oops }}=\n": ":5: not a unit's KEY=VALUE line",
    "[Service]\nExecStart=/bin/true \\\n  more\nbroken\n": ":4: not a unit's KEY=VALUE line: 'broken'",
}


@pytest.mark.parametrize("text", UNITS)
@pytest.mark.parametrize("name", ["x.service", "ssh.service.d/10-x.conf"])
def test_units_that_do_not_parse(text: str, name: str, tmp_path: Path) -> None:
    message = refused(tmp_path / "mine", {f"root/etc/systemd/system/{name}": text})
    assert message.startswith(f"root/etc/systemd/system/{name}:")
    assert UNITS[text] in message


def test_a_unit_that_is_not_text(tmp_path: Path) -> None:
    assert "must be UTF-8 text (byte 7)" in refused(
        tmp_path / "mine", {"root/etc/systemd/system/x.timer": b"[Unit]\n\xff"}
    )
