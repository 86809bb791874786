"""Fetching by name, URL and file: which checksums count, what is cached, what is pruned."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.base.cache import Cache
from imagebuilder.base.cached import Fetched
from imagebuilder.base.fetch import in_use
from imagebuilder.boot.kernel import current
from imagebuilder.cli.main import piimg
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Message
from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, IMAGE, IMAGE_SHA256, Bench

BASE = "/base.img.xz"


def test_a_url_without_pin_or_checksum_is_refused(bench: Bench) -> None:
    bench.site.files[BASE] = FETCHED
    with pytest.raises(PiimgError, match=r"no checksum is known for base\.img\.xz: refused") as caught:
        bench.fetch(bench.site.url + BASE)
    assert "--sha256" in caught.value.hint and "--insecure-no-checksum" in caught.value.hint
    assert bench.site.of(BASE) == []


def test_insecure_is_a_warning_and_a_record(bench: Bench) -> None:
    bench.site.files[BASE] = FETCHED
    assert bench.fetch(bench.site.url + BASE, insecure=True).digest == IMAGE_SHA256
    assert bench.reporter.warnings == ["no checksum is known for it: used unchecked"]
    assert bench.cache.records()[0].trust == "none"


def test_a_checksum_beside_the_file_is_used_with_a_warning(bench: Bench) -> None:
    bench.site.files[BASE] = FETCHED
    bench.site.files[f"{BASE}.sha256"] = f"{FETCHED_SHA256}  base.img.xz\n".encode()
    assert bench.fetch(bench.site.url + BASE).digest == IMAGE_SHA256
    (warning,) = bench.reporter.warnings
    assert "detects damage, not tampering" in warning
    assert bench.cache.records()[0].trust == "unproven"
    bench.fetch(bench.site.url + BASE)
    assert len(bench.site.of(BASE)) == 1


def test_a_wrong_checksum_beside_the_file(bench: Bench) -> None:
    bench.site.files[BASE] = FETCHED
    bench.site.files[f"{BASE}.sha256"] = f"{'0' * 64}  base.img.xz\n".encode()
    with pytest.raises(PiimgError, match="wrong checksum"):
        bench.fetch(bench.site.url + BASE, insecure=True)
    bench.assert_nothing_final()


def test_the_user_s_checksum_pins_a_url(bench: Bench) -> None:
    bench.site.files[BASE] = FETCHED
    with pytest.raises(PiimgError, match="wrong checksum"):
        bench.fetch(bench.site.url + BASE, sha256="0" * 64)
    bench.assert_nothing_final()
    bench.assert_fetches(bench.site.url + BASE, sha256=FETCHED_SHA256.upper())
    assert bench.cache.records()[0].trust == "pinned"


def test_a_checksum_that_contradicts_the_pin(bench: Bench) -> None:
    bench.pin()
    with pytest.raises(UsageError, match="differs from the pin of base"):
        bench.fetch(sha256="0" * 64)


def test_a_local_file_wants_a_checksum_too(bench: Bench) -> None:
    path = bench.folder / "own image.img.xz"
    path.write_bytes(FETCHED)
    with pytest.raises(PiimgError, match="no checksum is known") as caught:
        bench.fetch("own image.img.xz")
    assert "sha256sum 'own image.img.xz' >'own image.img.xz'.sha256" in caught.value.hint
    (bench.folder / "own image.img.xz.sha256").write_text(f"{FETCHED_SHA256}  own image.img.xz\n")
    bench.assert_fetches("own image.img.xz")
    bench.assert_fetches(str(path))
    path.write_bytes(FETCHED + b"\0" * 4)
    with pytest.raises(PiimgError, match="wrong checksum"):
        bench.fetch("own image.img.xz")
    assert path.read_bytes() == FETCHED + b"\0" * 4


def test_a_local_file_with_the_content_of_a_pinned_image_is_that_image(bench: Bench, tmp_path: Path) -> None:
    bench.pin()
    path = tmp_path / "download.xz"
    path.write_bytes(FETCHED)
    assert bench.fetch(str(path)).base.name == "base"
    assert bench.fetch().digest == IMAGE_SHA256
    assert bench.site.seen == []


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("./none.img", "there is no file"),
        ("./none", "there is no file"),
        ("/dev/null", "it is a character device"),
        ("/", "it is a folder"),
    ],
)
def test_a_file_that_is_none(bench: Bench, what: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        bench.fetch(what)


def test_a_file_that_is_spelled_like_a_name_is_pointed_at(bench: Bench) -> None:
    """Its ending is not one of a base image's, so it was taken for a name."""
    (bench.folder / "os.img.bz2").write_bytes(b"BZh9")
    with pytest.raises(UsageError, match=r"no base image is called 'os\.img\.bz2'") as caught:
        bench.fetch("os.img.bz2")
    assert r"write ./os.img.bz2" in caught.value.hint
    with pytest.raises(PiimgError, match="is a bzip2 file, not a disk image"):
        bench.fetch("./os.img.bz2", insecure=True)


def test_an_uncompressed_local_file_is_copied_sparse(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "own.img"
    path.write_bytes(IMAGE)
    got = bench.fetch(str(path), insecure=True)
    assert got.path.read_bytes() == IMAGE and got.path.stat().st_blocks * 512 < 400_000


def test_a_base_changed_in_the_cache_is_noticed_and_fetched_again(bench: Bench) -> None:
    bench.pin()
    image = bench.fetch().path
    image.chmod(0o644)
    with image.open("r+b") as stream:
        stream.write(b"changed")
    bench.assert_fetches()
    image.chmod(0o644)
    image.touch()
    bench.assert_fetches()
    assert len(bench.site.of(BASE)) == 2, "only a new time: hashed again, not fetched again"


def test_records_that_are_none_are_passed_over(bench: Bench) -> None:
    bench.pin()
    bench.fetch()
    (bench.cache.bases / "x.json").write_text("{")
    (bench.cache.bases / "y.json").write_text('{"digest": "../../etc/passwd"}')
    (bench.cache.bases / "z.json").mkdir()
    assert [record.name for record in bench.cache.records()] == ["base"]


def test_two_at_once_fetch_once(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.drip(len(FETCHED) // 5, 0.1)]
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(bench.fetch().digest)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [IMAGE_SHA256] * 2
    assert len(bench.site.of(BASE)) == 1
    assert [event.text for event in bench.reporter.events if isinstance(event, Message)] == [
        "waiting: another piimg is fetching into this cache"
    ]


def test_prune_frees_what_no_name_refers_to(bench: Bench) -> None:
    bench.site.files["/old.img"] = bytes(512)
    bench.fetch(f"{bench.site.url}/old.img", insecure=True)
    bench.pin()
    bench.fetch()
    (bench.cache.bases / ".unpacking.partial").write_bytes(b"x")
    known = bench.cache.bases / f"{IMAGE_SHA256}.known"
    known.write_bytes(b"{}")
    (bench.cache.downloads / "k.partial").write_bytes(b"x" * 8192)
    with bench.cache.held(bench.reporter):
        pruned = bench.cache.prune({FETCHED_SHA256})
    assert pruned.files == 4 and pruned.freed >= 8192
    assert [record.name for record in bench.cache.records()] == ["base"] and known.exists()
    with bench.cache.held(bench.reporter):
        bench.cache.prune(set())
    bench.assert_nothing_final()


USING = """
import sys
from pathlib import Path
from imagebuilder.base.cache import Cache
with Cache(Path(sys.argv[1])).using(sys.argv[2]) as there:
    print(there, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("words", [["--prune", "--all"], ["--prune"]])
def test_what_another_run_uses_is_not_pruned(bench: Bench, command: CliRunner, words: list[str]) -> None:
    """By two processes: one uses a base that no name refers to, the other prunes."""
    bench.pin()
    image = bench.fetch().path
    (bench.folder / "images.toml").unlink()
    known, unfinished = image.with_suffix(".known"), bench.cache.bases / f".{image.stem}.known.x.partial"
    known.write_bytes(b"{}"), unfinished.write_bytes(b"")
    (bench.cache.downloads / "k.partial").write_bytes(b"x")
    held = [sys.executable, "-c", USING, str(bench.cache.folder), IMAGE_SHA256]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"True\n"
        said = command.invoke(piimg, ["fetch", *words], catch_exceptions=False).stdout
        assert said.startswith("kept base: another piimg is using it\nfreed ") and "(1 files)" in said
        document = json.loads(command.invoke(piimg, ["fetch", *words, "--json"]).stdout)
        assert document == {"files": 0, "bytes": 0, "kept": ["base"], "needed": []}
        assert image.read_bytes() == IMAGE and known.exists() and unfinished.exists()
        assert [record.name for record in bench.cache.records()] == ["base"]
        other.kill()  # a lock ends with its process, however that ends
    said = command.invoke(piimg, ["fetch", *words], catch_exceptions=False).stdout
    assert said.startswith("freed ")
    bench.assert_nothing_final()
    assert list((bench.cache.folder / "in-use").iterdir()) == []


def lay_out_kernels(cache: Cache) -> dict[str, Path]:
    """One of everything that piimg boot and the tests keep in the cache, by what it is."""
    [packages] = current(cache)
    (packages / "boot").mkdir(parents=True)
    (packages / "boot" / "vmlinuz-6.1.0").write_bytes(b"kernel")
    _, initramfs = current(cache)
    there = {
        "packages": packages / "boot" / "vmlinuz-6.1.0",
        "initramfs": initramfs,
        "old packages": cache.kernel_packages("old") / "boot" / "vmlinuz-5.10",
        "old initramfs": cache.initramfs("old"),
        "unfinished packages": cache.boot / ".packages-x.partial" / "a.deb",
        "unfinished initramfs": cache.boot / ".initramfs-x.partial",
        "running": cache.boot / "run-x" / "worker1.qcow2",
        "specimen": cache.of_tests("specimens") / "bookworm.img",
    }
    for file in there.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 4096)
    return there


def test_prune_frees_old_kernels_and_with_all_everything(bench: Bench, command: CliRunner) -> None:
    there = lay_out_kernels(bench.cache)
    listed = json.loads(command.invoke(piimg, ["fetch", "--list", "--json"]).stdout)
    assert listed["cache"]["bytes"] >= 4096 * len(there)
    said = command.invoke(piimg, ["fetch", "--prune"], catch_exceptions=False).stdout
    assert "(4 files)" in said
    assert {name for name, file in there.items() if file.exists()} == {
        *("packages", "initramfs", "running", "specimen")
    }
    said = command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False).stdout
    assert "(3 files)" in said
    assert [name for name, file in there.items() if file.exists()] == ["running"]
    assert sorted(bench.cache.boot.iterdir()) == [bench.cache.boot / "run-x"]


def test_the_kernel_of_a_running_boot_is_not_pruned(bench: Bench, command: CliRunner) -> None:
    there = lay_out_kernels(bench.cache)
    code = USING.replace("using(sys.argv[2])", "using_kernel()")
    held = [sys.executable, "-c", code, str(bench.cache.folder)]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"None\n"
        said = command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False).stdout
        assert said.startswith("kept companion kernel: another piimg is using it\nfreed ")
        assert [name for name, file in there.items() if not file.exists()] == ["specimen"]
        other.kill()
    command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False)
    assert [name for name, file in there.items() if file.exists()] == ["running"]


def test_tests_have_no_other_folders_than_the_cache_knows(bench: Bench) -> None:
    with pytest.raises(ValueError, match="elsewhere"):
        bench.cache.of_tests("elsewhere")


def test_what_is_pruned_before_it_is_held_is_fetched_again(bench: Bench) -> None:
    bench.pin()
    times = 0

    def get() -> Fetched:
        nonlocal times
        times += 1
        fetched = bench.fetch()
        if times == 1:
            with bench.cache.held(bench.reporter):
                bench.cache.prune(set())
        return fetched

    with in_use(get, bench.cache) as fetched:
        assert fetched.path.read_bytes() == IMAGE
        with bench.cache.held(bench.reporter):
            assert bench.cache.prune(set()).kept == ("base",)
    assert times == 2


def test_a_cache_that_cannot_be_made(bench: Bench, tmp_path: Path) -> None:
    bench.pin()
    (tmp_path / "file").touch()
    bench.cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(PiimgError, match="cannot use the cache") as caught:
        bench.fetch()
    assert "PIIMG_CACHE" in caught.value.hint


def test_the_command_prints_the_path(bench: Bench, command: CliRunner) -> None:
    bench.pin()
    done = command.invoke(piimg, ["fetch", "base"], catch_exceptions=False)
    assert done.stdout == f"{bench.cache.bases / IMAGE_SHA256}.img\n"
    done = command.invoke(piimg, ["fetch", "base", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["sha256"] == IMAGE_SHA256


def test_the_command_takes_files_from_here(bench: Bench, command: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own.img.xz").write_bytes(FETCHED)
    manifest = ["--manifest", str(bench.folder / "cluster.toml")]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path / "here")
        arguments = [*manifest, "fetch", "own.img.xz", "--sha256", FETCHED_SHA256]
        done = command.invoke(piimg, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and IMAGE_SHA256 in done.stdout


def test_list_and_prune(bench: Bench, command: CliRunner) -> None:
    bench.pin(name="mine-2026-01-02")
    bench.fetch("mine")
    listed = command.invoke(piimg, ["fetch", "--list"], catch_exceptions=False).stdout
    (line,) = [line for line in listed.splitlines() if line.startswith("mine-2026-01-02 ")]
    assert line.split() == ["mine-2026-01-02", "302.4", "kB", "3.1", "MB", "yes"]
    assert max(len(line) for line in listed.splitlines()[:-1]) <= 80  # the last names the folder
    assert "raspios-trixie-arm64-lite-2026-10-06" in listed
    document = json.loads(command.invoke(piimg, ["fetch", "--list", "--json"], catch_exceptions=False).stdout)
    assert document["aliases"]["mine"] == "mine-2026-01-02"
    assert document["cache"]["bases"][0]["digest"] == IMAGE_SHA256
    assert [row["name"] for row in document["names"] if row["cached"]] == ["mine-2026-01-02"]
    command.invoke(piimg, ["fetch", "--prune"], catch_exceptions=False)
    assert len(bench.cache.records()) == 1
    freed = command.invoke(piimg, ["fetch", "--prune", "--all"], catch_exceptions=False).stdout
    assert freed.startswith("freed ") and bench.cache.records() == ()


@pytest.mark.parametrize("arguments", [["--all"], ["--list", "x"], ["--prune", "x"]])
def test_options_that_do_not_go_together(command: CliRunner, arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        command.invoke(piimg, ["fetch", *arguments], standalone_mode=False, catch_exceptions=False)
