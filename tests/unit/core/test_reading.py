"""A pipe, a device or a huge file where piimg reads one: refused in one sentence, and never waited for."""

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from imagebuilder.keys import ssh
from imagebuilder.reading import SMALL, check_regular, open_regular, read_regular
from tests.integration.card.running import PIIMG, environment
from tests.support.cluster import EXAMPLE, EXAMPLE_PASSPHRASE

TIME = 20  # seconds; what waits for a pipe waits for ever


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster folder as `piimg init` makes it, with a layer of its own."""
    folder = tmp_path_factory.mktemp("init") / "mycluster"
    subprocess.run(
        [*PIIMG, "init", folder, *EXAMPLE],
        check=True,
        env=environment(),
        input=EXAMPLE_PASSPHRASE.encode(),
        capture_output=True,
    )
    (folder / "overlays" / "worker" / "root" / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "overlays" / "worker" / "root" / "etc" / "motd").write_text("hello\n")
    return folder


@pytest.fixture
def cluster(laid_out: Path, tmp_path: Path) -> Path:
    """A cluster folder to spoil."""
    return Path(shutil.copytree(laid_out, tmp_path / "mycluster"))


def piimg(cluster: Path, *words: object) -> subprocess.CompletedProcess[str]:
    home = cluster.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [*PIIMG, *map(str, words)],
        cwd=cluster,
        env={**environment(), "HOME": str(home), "PIIMG_CACHE": str(home / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIME,
        check=False,
    )


def spoil(path: Path, kind: str) -> None:
    """Put a pipe or a device in place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif os.geteuid() != 0:
        pytest.skip("making device nodes needs root")
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # endless zeros


WHERE = {
    "cluster.toml": ["plan"],
    "secrets.toml": ["plan"],
    "images.toml": ["fetch", "--list"],
    "overlays/worker/layer.toml": ["plan"],
    "overlays/worker/root/etc/motd": ["plan"],
    "state/mycluster/gateway-key": ["plan"],
    "state/mycluster/host-keys/master": ["export", "known-hosts"],
    "some.img": ["inspect", "some.img"],
    "own.img": ["build", "--all", "--base", "./own.img"],
    "base.img.xz": ["fetch", "./base.img.xz"],
    "node.img": ["flash", "some-card", "--image", "node.img"],
    "other.img": ["verify", "some-card", "--image", "other.img"],
    "os_list.json": ["fetch", "--catalogue", "os_list.json", "Raspberry Pi OS"],
}


@pytest.mark.parametrize("kind", ["pipe", "character device"])
@pytest.mark.parametrize("where", WHERE)
def test_it_is_refused(cluster: Path, where: str, kind: str) -> None:
    (cluster / "secrets.toml").write_text('wifi_psk = "a passphrase"\npassword = "a password"\n')
    (cluster / "secrets.toml").chmod(0o600)
    spoil(cluster / where, kind)
    done = piimg(cluster, *WHERE[where])
    assert done.returncode in (1, 2), done.stderr
    said = (
        kind,
        "is not a plain file",
        "is neither a file nor a block device",
        "is neither a file nor a folder",
    )
    assert any(one in done.stderr for one in said), done.stderr
    assert Path(where).name in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("piimg: ")]) == 1, done.stderr


def test_a_manifest_from_a_pipe_of_the_shell(cluster: Path) -> None:
    script = " ".join([*map(repr, PIIMG), "--manifest", "<(cat cluster.toml)", "plan"])
    done = subprocess.run(
        ["bash", "-c", script], cwd=cluster, env=environment(), capture_output=True, text=True,
        timeout=TIME, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "it is a pipe" in done.stderr
    assert "save it as a regular file" in done.stderr


def test_keys_and_checksums_beside_a_base_are_not_waited_for(cluster: Path) -> None:
    (cluster / "own.img").write_bytes(bytes(4096))
    spoil(cluster / "own.img.sha256", "pipe")
    done = piimg(cluster, "fetch", "./own.img")
    assert (done.returncode, "it is a pipe" in done.stderr) == (1, True)
    (cluster / "own.img.sha256").unlink()
    spoil(cluster / "own.img.sig", "pipe")
    done = piimg(cluster, "fetch", "--insecure-no-checksum", "./own.img")
    assert (done.returncode, "own.img.sig: it is a pipe" in done.stderr) == (1, True), done.stderr
    (cluster / "own.img.sig").unlink()
    (cluster / "own.img.sig").write_bytes(b"\x88")
    spoil(cluster / "keys" / "own.asc", "pipe")
    done = piimg(cluster, "fetch", "--insecure-no-checksum", "./own.img")
    assert (done.returncode, "own.asc: it is a pipe" in done.stderr) == (1, True), done.stderr


def test_a_public_key_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    good = ssh.make("me@home").public
    (tmp_path / "good.pub").write_text(f"{good}\n")
    os.mkfifo(tmp_path / "a.pub")
    (tmp_path / "huge.pub").touch()
    os.truncate(tmp_path / "huge.pub", 1 << 40)
    assert ssh.public_keys(tmp_path) == (good,)


def test_an_identity_that_is_a_pipe(cluster: Path) -> None:
    os.mkfifo(cluster / "id")
    done = piimg(cluster, "boot", "--all", "--identity", "id")
    assert (done.returncode, "it is a pipe" in done.stderr) == (2, True), done.stderr


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    regular = tmp_path / "regular"
    regular.write_bytes(b"content")
    (tmp_path / "link").symlink_to("regular")
    assert read_regular(tmp_path / "link", 7) == b"content"
    with pytest.raises(OSError, match="larger than 0 KiB") as raised:
        read_regular(regular, 6)
    assert raised.value.filename == str(regular)
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    for name, what in (("pipe", "a pipe"), (".", "a folder"), ("socket", "a socket")):
        with pytest.raises(OSError, match=f"it is {what}, not a regular file"):
            check_regular(tmp_path / name)
    listening.close()
    with pytest.raises(FileNotFoundError) as missing:
        open_regular(tmp_path / "none")
    assert missing.value.filename == str(tmp_path / "none")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 1 << 40)
    with pytest.raises(OSError, match="larger than 4 MiB"):
        read_regular(huge, SMALL)
