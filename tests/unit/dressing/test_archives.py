"""Package files without compression have the same content, by dpkg-deb's own reading."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.dressing.archives import make_plain
from imagebuilder.errors import PiimgError

CONTROL = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: x\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("package") / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "usr").mkdir()
    (tree / "usr/x").write_bytes(bytes(range(256)) * 999)
    return tree


def build(tree: Path, kind: str, target: Path) -> Path:
    words = ["dpkg-deb", "--root-owner-group", f"-Z{kind}", "--build", str(tree), str(target)]
    subprocess.run(words, check=True, capture_output=True)
    return target


def said(*words: str | Path) -> bytes:
    return subprocess.run(["dpkg-deb", *words], check=True, capture_output=True).stdout


@pytest.mark.parametrize("kind", ["xz", "gzip", "none"])
def test_the_content_is_the_same(tree: Path, kind: str, tmp_path: Path) -> None:
    packed, plain = build(tree, kind, tmp_path / "packed.deb"), tmp_path / "plain.deb"
    make_plain(packed, plain)
    for option in ("--fsys-tarfile", "--ctrl-tarfile", "--field"):
        assert said(option, plain) == said(option, packed)
    listed = subprocess.run(["ar", "t", plain], check=True, capture_output=True, text=True).stdout.split()
    assert listed == ["debian-binary", "control.tar", "data.tar"]


def test_a_damaged_package_is_refused(tree: Path, tmp_path: Path) -> None:
    raw = build(tree, "xz", tmp_path / "packed.deb").read_bytes()
    for number, content in enumerate((raw[:-200], raw[:70], b"", b"x" * 200, raw[:300] + b"\0" * 99)):
        damaged = tmp_path / f"damaged{number}"
        damaged.write_bytes(content)
        with pytest.raises(PiimgError):
            make_plain(damaged, tmp_path / f"plain{number}")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_read_or_refused(tree: Path, tmp_path: Path, data: st.DataObject) -> None:
    packed = tmp_path / "packed.deb"
    raw = bytearray((packed if packed.exists() else build(tree, "xz", packed)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "changed").write_bytes(raw)
    (tmp_path / "plain").unlink(missing_ok=True)
    try:
        make_plain(tmp_path / "changed", tmp_path / "plain")
    except PiimgError:
        pass
