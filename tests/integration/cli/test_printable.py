"""Nothing from outside reaches a terminal as more than text: the real command, fed a hostile string."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

import imagebuilder
from imagebuilder.cli.main import main
from imagebuilder.image.inspect import FIRSTBOOT, IDENTITY
from tests.integration.base.site import Site, raw, serving
from tests.integration.image.making import Made, debugfs, make_image
from tests.support.cluster import PASSPHRASE, Place, command, make_place
from tests.support.hostile import HOSTILE, harmless


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path, tmp_path / "cache")


def said_by(place: Place, *words: str | Path, env: Mapping[str, str] | None = None) -> str:
    """All that piimg says, on both streams; it must not be anything but text, nor a traceback."""
    done = subprocess.run(
        command(*words),
        cwd=place.folder,
        env={**place.env, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    said = done.stdout.decode() + done.stderr.decode()
    assert harmless(said), repr(said)
    assert "Traceback" not in said, said
    return said


Here = Callable[..., str]


@pytest.fixture
def said_here(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Here:
    """As said_by, but in this process, for tables of many."""
    for name in set(os.environ) - set(place.env):
        monkeypatch.delenv(name)
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*words: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["piimg", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        said = b"".join(capsysbinary.readouterr()).decode()
        assert harmless(said), repr(said)
        return said

    return run


OS_RELEASE = {
    "known": f'PRETTY_NAME="{HOSTILE}"\nVERSION_CODENAME=bookworm\n',
    "unknown": f'PRETTY_NAME="{HOSTILE}"\nVERSION_CODENAME="{HOSTILE}"\n',
}


@pytest.fixture(params=OS_RELEASE)
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Made:
    """A card's image whose every word is hostile."""
    made = make_image(tmp_path / "card.img")
    files = {
        "/etc/os-release": OS_RELEASE[request.param].encode(),
        "/var/lib/dpkg/arch": HOSTILE.encode(),
        "/etc/hostname": HOSTILE.encode(),
    }
    folders = [f"mkdir {path}" for path in ("/etc", "/var", "/var/lib", "/var/lib/dpkg")]
    for name, content in files.items():
        (tmp_path / "one").write_bytes(content)
        debugfs(made, *folders, f"write {tmp_path}/one {name}")
    scripts = [{"name": HOSTILE, "status": HOSTILE, "attempts": HOSTILE, "seconds": HOSTILE}]
    boot = {
        "/cmdline.txt": HOSTILE,
        "/issue.txt": f"Raspberry Pi reference {HOSTILE}",
        IDENTITY: json.dumps({"node": HOSTILE, "cluster": HOSTILE, "manifest": HOSTILE * 9}),
        FIRSTBOOT: json.dumps({"scripts": scripts}),
    }
    for name, text in boot.items():
        subprocess.run(["mcopy", "-i", made.boot, "-", f"::{name}"], input=text.encode(), check=True)
    return dataclasses.replace(made, path=made.path.rename(tmp_path / f"card{HOSTILE}.img"))


def test_an_image(image: Made, place: Place) -> None:
    said = said_by(place, "inspect", image.path)
    assert said.count("owned") >= 3
    assert json.loads(place.good("inspect", image.path, "--json"))["node"] == HOSTILE
    assert said_by(place, "inspect", image.path, "--json").count("owned") >= 3
    said_by(place, "build", "--all", "--base", image.path)
    said_by(place, "flash", "/dev/null", "--image", image.path)


def test_a_damaged_image_with_a_hostile_label(image: Made, place: Place) -> None:
    """e2fsck and debugfs say the label of what they find damaged."""
    subprocess.run(["tune2fs", "-L", HOSTILE[:8], image.root], check=True, capture_output=True)
    with image.path.open("r+b") as stream:
        stream.seek(image.root_at + 2048)
        stream.write(b"\xff" * 64)
    said_by(place, "build", "--all", "--base", image.path)
    said_by(place, "inspect", image.path)


def test_a_block_map_and_results(place: Place, tmp_path: Path) -> None:
    place.build.mkdir()
    for name in ("worker1", f"no{HOSTILE}de"):
        (place.build / f"{name}.img").write_bytes(bytes(1 << 20))
        (place.build / f"{name}.json").write_text(json.dumps({"tree_digest": HOSTILE, "cluster": HOSTILE}))
        (place.build / f"{name}.bmap").write_text(f"<bmap version='2.0'><{HOSTILE}/></bmap>")
        said_by(place, "flash", "/dev/null", "--image", place.build / f"{name}.img")
        said_by(place, "flash", "/dev/null", "--node", name)
        said_by(place, "boot", "--node", name)
        said_by(place, "inspect", place.build / f"{name}.img")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


@pytest.mark.parametrize("status", [200, 302, 403, 404])
def test_a_server(site: Site, place: Place, status: int) -> None:
    said = HOSTILE.replace("\r", "").encode("latin-1", "replace")
    lines = (
        b"HTTP/1.1 %d %s" % (status, said),
        b"Location: http://127.0.0.1:9/%s" % said,
        b"ETag: %s" % said,
        b"Content-Length: %s" % said,
        b"Content-Range: %s" % said,
        said,
    )
    site.faults["/x.img"] += [raw(b"\r\n".join(lines) + b"\r\n\r\n" + said)] * 9
    site.files["/x.img.sha256"] = said
    hexadecimal = "0" * 64
    said_by(place, "fetch", f"{site.url}/x.img")
    said_by(place, "fetch", f"{site.url}/x.img", "--insecure-no-checksum")
    shown = said_by(place, "fetch", f"{site.url}/x.img", "--sha256", hexadecimal)
    assert "owned" in shown or status in (200, 302)
    site.faults["/list"] += [raw(b"\r\n".join(lines) + b"\r\n\r\n" + said)] * 9
    said_by(place, "fetch", "x", "--catalogue", f"{site.url}/list")


def test_catalogues(site: Site, place: Place, tmp_path: Path) -> None:
    entry = {"name": f"A {HOSTILE}", "url": f"{site.url}/a.img", "release_date": HOSTILE}
    other = {**entry, "url": f"{site.url}/{HOSTILE}.img"}
    for entries in ([entry], [entry, other], [other], [{**entry, "release_date": "2026-01-02"}]):
        listed = tmp_path / f"list{HOSTILE}.json"
        listed.write_text(json.dumps({"os_list": entries}))
        for name in ("x", f"A {HOSTILE}"):
            said = said_by(place, "fetch", name, "--catalogue", listed)
            assert "owned" in said or "entry is not usable" in said
    listed.write_text(HOSTILE)
    said_by(place, "fetch", "x", "--catalogue", listed)
    pin = 'url = "https://x.example/{0}.img"\nsha256 = "{0}"\n'
    for toml in (
        f'["{{0}}"]\n{pin}',
        f"[x]\n{pin}",
        '[x]\n"{0}" = 1\n',
        '[x]\nurl = "{0}"\nsignature = "{0}"\n',
    ):
        text = toml.replace("{0}", HOSTILE.encode("unicode_escape").decode().replace("\\x", "\\u00"))
        (place.folder / "images.toml").write_text(text)
        assert "images.toml: " in said_by(place, "fetch", "--list")
    (place.folder / "images.toml").write_bytes(HOSTILE.encode())
    said_by(place, "fetch", "--list")


def test_what_the_cache_remembers(site: Site, place: Place, tmp_path: Path) -> None:
    """A file's own name, and a record that somebody else wrote."""
    own = tmp_path / f"own{HOSTILE}.img"
    own.write_bytes(bytes(512))
    said_by(place, "fetch", own)
    assert "owned" in said_by(place, "fetch", own, "--insecure-no-checksum")
    (record,) = (place.cache / "bases").glob("*.json")
    known = json.loads(record.read_text()) | {"name": f"x\n{HOSTILE}", "date": HOSTILE, "signer": HOSTILE}
    record.write_text(json.dumps(known))
    assert "owned" in said_by(place, "fetch", "--list")
    said_by(place, "fetch", "--list", "--json")
    said_by(place, "fetch", "--prune")


def manifests() -> Iterator[str]:
    """The example manifest with each of its texts, and each of its keys, made hostile in turn."""
    text = (Path(imagebuilder.__file__).parents[1] / "manifests/picluster.toml").read_text()
    bad = HOSTILE.encode("unicode_escape").decode().replace("\\x", "\\u00")
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if match := re.match(r'(\w+) = (?=["\[{\d])', line):
            for spoilt in (f'{match[1]} = "{bad}"', f'{match[1]} = ["{bad}"]', f'"{bad}" = 1'):
                yield "\n".join([*lines[:number], spoilt, *lines[number + 1 :]])
    yield HOSTILE
    yield f"{text}\n# {HOSTILE}"


def test_manifests(place: Place, said_here: Here) -> None:
    count = 0
    for text in manifests():
        place.manifest.write_text(text)
        count += "owned" in said_here("plan", "--node", "worker1")
        drawn(said_here("plan", "--graph", "svg"))
    assert count > 20


MARKUP = "</text><script>' & ]]> <!--"


def drawn(said: str) -> str:
    """The text of a drawing, if one was made: nothing in it is markup but the drawing's own."""
    if not said.startswith("<svg"):
        return ""
    root = ElementTree.fromstring(said[: said.index("</svg>") + 6])
    known = {"svg", "title", "desc", "style", "rect", "text", "path", "g"}
    assert {one.tag.rpartition("}")[2] for one in root.iter()} <= known
    return "".join(root.itertext())


def test_views_of_a_plan(place: Place, said_here: Here) -> None:
    """What the manifest and the layers may contain, in each view of the plan."""
    was = place.folder.with_name("was")
    shutil.copytree(place.folder, was)
    place.edit('^ssid = ".*"', f'ssid = "{MARKUP}"')
    place.edit(r"^\[gateway\]", f'[vars]\nx = "{MARKUP}"\n[gateway]')
    layer = place.folder / "overlays" / "base" / "root" / "etc"
    layer.mkdir(parents=True, exist_ok=True)
    (layer / "text").write_text(f"{HOSTILE}\n{MARKUP}\n")
    (layer / "template.j2").write_text("{{ cluster.vars.x }} {{ '\\x1b]0;owned\\x07' }}")
    name = MARKUP.replace("/", "")
    (layer / name).write_text("")
    assert name in said_here("plan", "--full")
    for path in ("/etc/text", "/etc/template"):
        assert "owned" in said_here("plan", "--show", path)
    said = said_here("plan", "--diff", was / "cluster.toml")
    assert said.count("owned") >= 2 and MARKUP in said
    assert MARKUP in said_here("plan", "--graph")
    assert MARKUP[:9] in drawn(said_here("plan", "--graph", "svg"))
    for path in (HOSTILE, f"root/{HOSTILE}", "/etc/texd\x1b[2J"):
        said_here("plan", "--show", path)
        said_here("plan", "--diff", path)


def documents(text: str) -> Iterator[str]:
    """NODE.json with each of its values, and each value of an entry, made hostile in turn."""
    document = json.loads(text)
    for name in document:
        yield json.dumps({**document, name: HOSTILE})
        if isinstance(document[name], dict):
            for inner in document[name]:
                yield json.dumps({**document, name: {**document[name], inner: HOSTILE}})
    first, *others = document["entries"]
    for name in first:
        for bad in (HOSTILE, f"/{HOSTILE}") if name == "path" else (HOSTILE,):
            yield json.dumps({**document, "entries": [{**first, name: bad}, *others]})
    yield json.dumps({**document, "layers": [HOSTILE, 3]})


def test_a_document_of_a_build(place: Place, said_here: Here, tmp_path: Path) -> None:
    """The results of somebody else's build, in a folder that `plan --diff` is given."""
    image = make_image(tmp_path / "one.img").path
    place.build.mkdir()
    image.rename(place.build / "worker1.img")
    (place.build / "worker1.bmap").write_text("")
    entry = {"partition": "root", "path": "/x", "kind": "file", "mode": "0644", "uid": 0, "gid": 0}
    more = {"layer": "base", "overrides": [], "secret": False, "size": 1, "sha256": "0" * 64, "target": "/y"}
    lines = {**entry, **more, "path": "/z", "kind": "lines", "added": [HOSTILE], "section": HOSTILE}
    base = {"name": "x", "home": "/home/pi"}
    document = {
        "tree_digest": "0",
        "release": "trixie",
        "layers": ["a"],
        "base": base,
        "manifest_digest": "0",
    }
    text = json.dumps({**document, "entries": [{**entry, **more}, lines]})
    count = 0
    for spoilt in (text, *documents(text)):
        (place.build / "worker1.json").write_text(spoilt)
        count += "owned" in said_here("plan", "--diff", place.build, "--node", "worker1")
    assert count >= 15


NAMES = (HOSTILE, "\udc9b31m", "a\x1b[31m", "a\nb", "a\u202eb")


@pytest.mark.parametrize("name", NAMES)
def test_layers(place: Place, said_here: Here, name: str) -> None:
    """Names of files, texts of layer.toml, what a template says."""
    layer = place.folder / "overlays" / "base"
    shown = name.encode("utf-8", "backslashreplace").decode()
    bad = shown.encode("unicode_escape").decode().replace("\\x", "\\u00").replace("\\\\", "/")
    spoilt: dict[str, str] = {
        f"root/{name}": "",
        f"root/{name}.j2": "{{ x }}",
        f"{name}/x": "",
        f"firstboot.d/{name}": "",
        f"boot/{name}": "",
        "root/a.j2": "{{ no" + "['" + bad + "'] }}",
        "root/b.j2": "{{ node.x }}" if name.isprintable() else "{{ {}['" + shown + "'] }}",
        "root/c.j2": shown + "{% " + shown,
        "root/etc/systemd/system/x.service": shown,
        "firstboot.d/10-x": f"#!/bin/sh\n# needs: {shown}\n",
    }
    tomls = (
        f'remove = ["root/{bad}"]',
        f'["{bad}"]',
        f'[links]\n"root/x" = "{bad}"',
        f'[links]\n"root/{bad}" = "x"',
        f'[[lines]]\npath = "root/x"\nlines = ["{bad}"]',
        f'[[words]]\npath = "boot/x"\nwords = ["{bad}"]',
        f'[units]\nenable = ["{bad}"]',
        f'[units]\nenable_in = {{ "{bad}" = "{bad}" }}',
        f'[files."root/{bad}"]\nmode = "{bad}"\nowner = "{bad}"\nwhen = "{bad}"',
        shown,
    )
    for path, content in [*spoilt.items(), *(("layer.toml", toml) for toml in tomls)]:
        shutil.rmtree(layer, ignore_errors=True)
        file = layer / path
        file.parent.mkdir(parents=True)
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
        said_here("plan", "--node", "worker1")


def test_secrets(place: Place) -> None:
    for text in (HOSTILE, f'"{HOSTILE}"', 'wifi_psk = "\\u001b]0;owned\\u0007"', '"\\u001b[2J" = 5', "\x00"):
        (place.folder / "secrets.toml").write_text(text)
        (place.folder / "secrets.toml").chmod(0o600)
        said_by(place, "plan", env={"PIIMG_SECRET_WIFI_PSK": ""})
    (place.folder / "secrets.toml").unlink()
    said_by(place, "plan", env={"PIIMG_SECRET_WIFI_PSK": f"{PASSPHRASE}\x1b[2J"})
    said_by(place, "plan", env={"PIIMG_SECRET_WIFI_PSK": "\udc9b" * 9})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_typed(said_here: Here, name: str) -> None:
    """Arguments, options and paths, of every command."""
    for words in (
        (name,),
        ("plan", name),
        ("plan", f"--{name}"),
        ("plan", "--node", name),
        ("plan", "--release", name),
        ("--progress", name, "plan"),
        ("--manifest", name, "plan"),
        ("init", f"{name}/made"),
        ("init", "/dev/null/" + name),
        ("fetch", name),
        ("fetch", f"./{name}.img"),
        ("fetch", f"http://{name}/"),
        ("fetch", "x", "--sha256", name),
        ("fetch", "x", "--catalogue", name),
        ("build", "--node", name),
        ("build", "--all", "--base", f"{name}.img"),
        ("build", "--all", "--output", f"/dev/null/{name}", "--base", f"/{name}.img"),
        ("boot", "--node", name),
        ("boot", "--machine", name),
        ("cards", "--test", name, "--yes"),
        ("flash", name),
        ("flash", "/dev/null", "--node", name),
        ("flash", "/dev/null", "--image", name),
        ("flash", "/dev/null", "--images", name),
        ("station", "--slot", f"{name}=worker1"),
        ("station", "--slot", f"x={name}"),
        ("verify", name),
        ("verify", "/dev/null", "--node", name),
        ("backup", name, "a.img.zst"),
        ("backup", "/dev/null", name),
        ("backup", "/dev/null", f"{name}.img.zst"),
        ("inspect", name),
        ("export", name),
        ("export", "ssh-config", "--via", name),
        ("export", "ssh-config", "--known-hosts", name),
        ("doctor", name),
    ):
        said_here(*words)


def test_an_environment_that_is_hostile(place: Place) -> None:
    said_by(place, "fetch", "--list", env={"PIIMG_CACHE": f"/dev/null/{HOSTILE}"})
    said_by(place, "fetch", "--prune", env={"PIIMG_CACHE": f"/dev/null/{HOSTILE}"})
    assert "owned" in said_by(place, "plan", env={"PIIMG_MANIFEST": HOSTILE})


def test_the_shell_s_completion(place: Place) -> None:
    names = [f'[[node]]\nname = "{name}"\nrole = "{name}"' for name in ("good", "\\u001b]0;owned\\u0007")]
    place.manifest.write_text("\n".join(names))
    env = {"_PIIMG_COMPLETE": "zsh_complete", "COMP_WORDS": "piimg plan --node ", "COMP_CWORD": "3"}
    piimg = Path(sys.executable).with_name("piimg")  # click asks what it was started as
    said = subprocess.check_output([piimg], cwd=place.folder, env={**place.env, **env}, text=True)
    assert "good" in said and "owned" not in said and harmless(said)
