"""Downloads from a real server that misbehaves: clear errors, nothing wrong kept, the next run recovers."""

import gzip
import hashlib
import random
import socket

import pytest

from imagebuilder import __version__
from imagebuilder.errors import PiimgError
from imagebuilder.events import Advanced, Finished, Message
from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, IMAGE, IMAGE_SHA256, Bench

BASE = "/base.img.xz"
HALF = len(FETCHED) // 2


def nearly_half(seen: faults.Seen) -> bool:
    """Whether a request goes on where the first half ended; the last piece before it may be lost."""
    assert seen.range is not None
    start = int(seen.range.removeprefix("bytes=").removesuffix("-"))
    return HALF - (16 << 10) < start <= HALF


def test_a_name_is_fetched_once_and_then_needs_no_server(bench: Bench) -> None:
    bench.pin()
    bench.assert_fetches()
    first = bench.site.of(BASE)
    assert [request.range for request in first] == [None]
    assert first[0].user_agent is not None
    assert first[0].user_agent.startswith(f"piimg/{__version__} (+http")
    bench.assert_fetches()
    assert len(bench.site.seen) == len(first)


def test_progress_is_reported_in_bytes(bench: Bench) -> None:
    bench.pin()
    bench.fetch()
    reported = [event for event in bench.reporter.events if isinstance(event, Advanced)]
    downloads = [event for event in reported if event.task == "download"]
    assert (downloads[-1].subject, downloads[-1].done) == ("base", len(FETCHED))
    assert downloads[-1].total == len(FETCHED)
    assert [event for event in reported if event.task == "unpack"][-1].done == len(IMAGE)
    assert Finished("unpack", "base", True) in bench.reporter.events


def test_cut_off_half_way_resumes_in_the_same_run(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(HALF)]
    bench.assert_fetches()
    second = bench.site.of(BASE)[1]
    assert nearly_half(second)
    assert second.if_range == faults.etag(FETCHED)


def test_connection_reset_resumes(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.reset(HALF)]
    bench.assert_fetches()


def test_cut_off_again_and_again_gives_up_and_the_next_run_resumes(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(HALF), faults.cut(0), faults.cut(0)]
    with pytest.raises(PiimgError, match=r"cut off .*\(3 tries\)") as caught:
        bench.fetch()
    assert "resumes" in caught.value.hint
    bench.assert_nothing_final()
    bench.assert_fetches()
    assert nearly_half(bench.site.of(BASE)[-1])


def test_a_server_that_always_declares_more_than_it_sends_is_given_up(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.overstated] * 20
    with pytest.raises(PiimgError, match=r"\(3 tries\)"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.site.faults[BASE].clear()
    bench.assert_fetches()


def test_a_server_that_ignores_ranges_starts_over(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(HALF), faults.whole]
    bench.assert_fetches()


def test_a_server_without_validators_starts_over(bench: Bench) -> None:
    bench.pin()
    bench.site.validators = False
    bench.site.faults[BASE] += [faults.cut(HALF)]
    bench.assert_fetches()
    assert [request.range for request in bench.site.of(BASE)] == [None, None]


def test_a_part_other_than_asked_for_is_not_used(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(HALF), faults.wrong_range]
    bench.assert_fetches()


def test_file_replaced_between_two_runs(bench: Bench) -> None:
    other = random.Random(2).randbytes(len(FETCHED))
    bench.pin()
    bench.site.files[BASE] = other
    bench.site.faults[BASE] += [faults.cut(HALF), faults.status(403)]
    with pytest.raises(PiimgError, match="403"):
        bench.fetch()
    bench.site.files[BASE] = FETCHED
    bench.assert_fetches()
    assert bench.site.of(BASE)[-1].range is not None


def test_file_replaced_and_a_server_that_does_not_compare(bench: Bench) -> None:
    """Old and new are never joined: the answer's own ETag tells."""
    bench.pin()
    bench.site.files[BASE] = random.Random(2).randbytes(len(FETCHED))
    bench.site.faults[BASE] += [faults.cut(HALF), faults.status(403)]
    with pytest.raises(PiimgError, match="403"):
        bench.fetch()
    bench.site.files[BASE] = FETCHED
    bench.site.faults[BASE] += [faults.careless]
    bench.assert_fetches()
    assert [request.range is None for request in bench.site.of(BASE)[-2:]] == [False, True]


def test_file_shorter_than_what_is_here_starts_over(bench: Bench) -> None:
    bench.pin()
    bench.site.files[BASE] = FETCHED + bytes(1000)
    bench.site.faults[BASE] += [faults.cut(len(FETCHED) + 500), faults.status(403)]
    with pytest.raises(PiimgError, match="403"):
        bench.fetch()
    bench.site.files[BASE] = FETCHED
    bench.site.faults[BASE] += [faults.status(416)]
    bench.assert_fetches()


def test_a_damaged_kept_part_is_found_and_fetched_anew(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(HALF), faults.status(403)]
    with pytest.raises(PiimgError):
        bench.fetch()
    (partial,) = bench.cache.downloads.glob("*.partial")
    with partial.open("r+b") as stream:
        stream.write(b"damage")
    with pytest.raises(PiimgError, match="wrong checksum"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.assert_fetches()


def test_wrong_length(bench: Bench) -> None:
    bench.pin(download_size=len(FETCHED) + 1)
    with pytest.raises(PiimgError, match=f"has {len(FETCHED)} bytes, not the expected {len(FETCHED) + 1}"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.pin(download_size=len(FETCHED))
    bench.assert_fetches()


def test_more_than_the_length_it_ought_to_have_is_not_read(bench: Bench) -> None:
    bench.pin(download_size=1000)
    bench.site.faults[BASE] += [faults.unmeasured]
    with pytest.raises(PiimgError, match="more than 1000 bytes"):
        bench.fetch()
    bench.assert_nothing_final()


def test_wrong_hash(bench: Bench) -> None:
    bench.pin(sha256="0" * 64)
    with pytest.raises(PiimgError, match=f"wrong checksum: it has {FETCHED_SHA256}, expected 0000"):
        bench.fetch()
    bench.assert_nothing_final()
    assert list(bench.cache.downloads.glob("*")) == []
    bench.pin()
    bench.assert_fetches()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_tried_again(bench: Bench, status: int) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.status(status)]
    with pytest.raises(PiimgError, match=f"the server answered {status}") as caught:
        bench.fetch()
    assert caught.value.hint
    assert len(bench.site.of(BASE)) == 1
    bench.assert_nothing_final()
    bench.assert_fetches()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(bench: Bench, status: int) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.status(status), faults.status(status)]
    bench.assert_fetches()
    assert len(bench.site.of(BASE)) == 3


def test_a_lasting_failure_gives_up(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.status(500)] * 3
    with pytest.raises(PiimgError, match=r"500 Internal Server Error \(3 tries\)"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.assert_fetches()


def test_redirects_are_followed(bench: Bench) -> None:
    bench.pin(path="/latest")
    bench.site.files[BASE] = bench.site.files.pop("/latest")
    bench.site.faults["/latest"] += [faults.redirect(BASE)] * 2
    bench.assert_fetches()


def test_redirect_loop(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.redirect(BASE)] * 50
    with pytest.raises(PiimgError, match="redirects more than 10 times"):
        bench.fetch()
    assert len(bench.site.of(BASE)) == 11
    bench.assert_nothing_final()
    bench.site.faults[BASE].clear()
    bench.assert_fetches()


def test_redirect_to_something_else_than_http(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.redirect("file:///etc/passwd")]
    with pytest.raises(PiimgError, match="does not work as a URL"):
        bench.fetch()
    bench.assert_nothing_final()


def test_a_slow_server_is_waited_for(bench: Bench) -> None:
    """The whole takes three times as long as the server may be silent."""
    bench.pin()
    bench.site.faults[BASE] += [faults.drip(len(FETCHED) // 12, 0.1)]
    bench.assert_fetches()
    assert len(bench.site.of(BASE)) == 1


def test_a_silent_server_is_left_and_asked_again(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.stall(HALF, 1.5)]
    bench.assert_fetches()
    assert bench.site.of(BASE)[1].range is not None


def test_a_server_that_stays_silent_is_an_error(bench: Bench) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.stall(0, 1.5)] * 3
    with pytest.raises(PiimgError, match="the server stopped answering"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.assert_fetches()


def test_nobody_listens(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PiimgError, match="the connection was refused"):
        bench.fetch(f"http://127.0.0.1:{port}/base.img.xz", sha256=FETCHED_SHA256)


OWN_FILE = "piimg fetch FILE, piimg build --base FILE"


def infos(bench: Bench) -> list[str]:
    return [event.text for event in bench.reporter.events if isinstance(event, Message)]


def test_a_name_that_is_not_known_is_reported_once_and_soon(bench: Bench) -> None:
    """As without a network, at the first download."""
    with pytest.raises(PiimgError, match=r"the server's name is not known \(2 tries\)") as caught:
        bench.fetch("http://downloads.invalid/base.img.xz", sha256=FETCHED_SHA256)
    assert infos(bench) == ["the server's name is not known; trying again"]
    assert OWN_FILE in caught.value.hint
    bench.assert_nothing_final()


def test_a_name_that_is_not_known_beside_the_file_ends_soon(bench: Bench) -> None:
    """The checksum file comes first."""
    with pytest.raises(PiimgError, match=r"sha256: the server's name is not known \(2 tries\)") as caught:
        bench.fetch("http://downloads.invalid/base.img.xz")
    assert OWN_FILE in caught.value.hint


@pytest.mark.parametrize("status", [404, 500, 403])
def test_what_is_not_there_says_how_to_go_on_with_a_file(bench: Bench, status: int) -> None:
    bench.pin()
    bench.site.faults[BASE] += [faults.status(status)] * 3
    with pytest.raises(PiimgError) as caught:
        bench.fetch()
    assert OWN_FILE in caught.value.hint


def test_the_same_reason_in_a_row_is_reported_once(bench: Bench) -> None:
    bench.pin()
    busy = faults.status(503)
    bench.site.faults[BASE] += [busy, busy, faults.cut(HALF), busy]
    bench.assert_fetches()
    said = "the server answered 503 Service Unavailable; trying again"
    assert infos(bench) == [said, "the connection was cut off; trying again", said]


def test_a_proxy_that_is_not_there_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(PiimgError, match="the proxy cannot be used"):
        bench.fetch("http://downloads.invalid/base.img.xz", sha256=FETCHED_SHA256)


def test_a_url_with_a_password_does_not_show_it(bench: Bench) -> None:
    url = bench.site.url.replace("http://", "http://me:hush@") + "/none.img.xz?token=hush"
    with pytest.raises(PiimgError) as caught:
        bench.fetch(url, sha256=FETCHED_SHA256)
    assert "hush" not in caught.value.message + caught.value.hint + repr(bench.reporter.events)
    for path in bench.cache.folder.rglob("*"):
        assert path.is_dir() or b"hush" not in path.read_bytes()


@pytest.mark.parametrize("label", ["gzip", "x-gzip"])
def test_an_image_that_the_server_labels_gzip_is_kept_as_it_is_sent(bench: Bench, label: str) -> None:
    """Apache's AddEncoding and object stores label NAME.img.gz so. It resumes, too."""
    path, content = "/base.img.gz", gzip.compress(IMAGE)
    bench.pin(content, path=path)
    bench.site.labels[path] = label
    bench.site.faults[path] += [faults.cut(len(content) // 2)]
    bench.assert_fetches()
    assert [request.range is None for request in bench.site.of(path)] == [True, False]
    assert bench.reporter.warnings == []


def test_an_image_that_the_server_packs_on_the_way_is_named_as_that(bench: Bench) -> None:
    """Its bytes are then not those of the checksum: the warning says why."""
    bench.pin()
    bench.site.files[BASE] = gzip.compress(FETCHED)
    bench.site.labels[BASE] = "gzip"
    with pytest.raises(PiimgError, match="wrong checksum"):
        bench.fetch()
    assert bench.reporter.warnings == ["the server sends it with Content-Encoding: gzip; used as it is sent"]
    bench.assert_nothing_final()
    del bench.site.labels[BASE]
    bench.site.files[BASE] = FETCHED
    bench.assert_fetches()


SUMS = f"{FETCHED_SHA256}  base.img.xz\n".encode()


@pytest.mark.parametrize("sent", [gzip.compress(SUMS), SUMS], ids=["packed", "only labelled"])
def test_a_checksum_file_labelled_gzip_is_decoded(bench: Bench, sent: bytes) -> None:
    """Apache labels NAME.gz.sha256 as it does NAME.gz, and sends it as it is."""
    bench.site.files |= {BASE: FETCHED, f"{BASE}.sha256": sent}
    bench.site.labels[f"{BASE}.sha256"] = "gzip"
    assert bench.fetch(bench.site.url + BASE).digest == IMAGE_SHA256


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (gzip.compress(bytes(1 << 20)), "larger than 65536 bytes"),
        (gzip.compress(SUMS)[:-9], "the connection was cut off"),
        (gzip.compress(SUMS)[:10] + b"\xff" * 40, "the answer is damaged"),
    ],
    ids=["a bomb", "cut off", "damaged"],
)
def test_a_checksum_file_that_is_badly_packed(bench: Bench, sent: bytes, why: str) -> None:
    bench.site.files |= {BASE: FETCHED, f"{BASE}.sha256": sent}
    bench.site.labels[f"{BASE}.sha256"] = "gzip"
    with pytest.raises(PiimgError, match=why):
        bench.fetch(bench.site.url + BASE)
    bench.assert_nothing_final()


def test_a_full_cache_is_reported_before_a_byte_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.pin()
    with monkeypatch.context() as patched:
        patched.setattr("imagebuilder.base.space.free_space", lambda folder: 10)
        with pytest.raises(PiimgError, match="not enough space to download base") as caught:
            bench.fetch()
    assert "--prune" in caught.value.hint
    bench.assert_nothing_final()
    bench.assert_fetches()


def test_two_files_of_one_server_do_not_mix(bench: Bench) -> None:
    bench.pin()
    other = random.Random(3).randbytes(4096)
    bench.site.files["/other.img"] = other
    bench.site.faults[BASE] += [faults.cut(HALF), faults.status(403)]
    with pytest.raises(PiimgError):
        bench.fetch()
    got = bench.fetch(f"{bench.site.url}/other.img", sha256=hashlib.sha256(other).hexdigest())
    assert got.path.read_bytes() == other
    assert bench.fetch().path.read_bytes() == IMAGE
