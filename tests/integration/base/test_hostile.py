"""Servers whose answers are not HTTP, or never end: a clear error, soon, in little memory, nothing kept."""

import time
import tracemalloc

import pytest

from imagebuilder.base import download
from imagebuilder.errors import PiimgError
from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, QUICK, Bench
from tests.integration.base.site import Fault, raw

BASE = "/base.img.xz"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"
MANY = b"x" * (64 << 10)


def ranged(said: str) -> Fault:
    """A part with this Content-Range."""
    return lambda handler, content: handler.head(
        206, 10, {"Content-Range": said, "ETag": faults.etag(content)}
    )


BROKEN = {
    "a negative chunk": raw(CHUNKED + b"-5\r\nhello\r\n"),
    "a chunk of -1": raw(CHUNKED + b"-1\r\n", MANY),
    "a huge chunk": raw(CHUNKED + b"ffffffffffffffffffffffff\r\nhello"),
    "a chunk of many digits": raw(CHUNKED + b"f" * 9000 + b"\r\nhello"),
    "no chunk size": raw(CHUNKED + b"hello\r\n"),
    "bytes for a chunk size": raw(CHUNKED + b"\xff\x00\x1b]0;x\x07\r\n"),
    "a chunk's size without end": raw(CHUNKED, b"0" * len(MANY)),
    "a chunk's extension without end": raw(CHUNKED + b"5;", MANY),
    "trailers without end": raw(CHUNKED + b"0\r\n", b"A: b\r\n" * 1000),
    "chunks cut off": raw(CHUNKED + b"5\r\nhel"),
    "no HTTP": raw(b"\x1b]0;owned\x07\r\n\r\n"),
    "no answer": raw(b""),
    "a status that is no number": raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status line without end": raw(b"HTTP/1.1 200 ", MANY),
    "headers without end": raw(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "a header without end": raw(b"HTTP/1.1 200 OK\r\nA: ", MANY),
    "interim answers without end": raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a header that is none": raw(PLAIN + b"\xff\xfe\x00\r\n\r\n"),
    "a negative length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
    "a length of many digits": raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello"),
    "a length that is no number": raw(b"HTTP/1.1 200 OK\r\nContent-Length: \xc2\xb2\r\n\r\nhello"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nhello"),
    "a redirect to nowhere": raw(b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n"),
    "a redirect that is no text": raw(b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\x00//\r\n\r\n"),
    "a redirect to a wrong port": raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n"),
    "a redirect to a long name": raw(b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 300 + b"/\r\n\r\n"),
    "a redirect to a file": raw(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"),
    "a redirect with a body without end": raw(b"HTTP/1.1 302 Found\r\nLocation: /gone\r\n\r\n", MANY),
    "a body in an encoding": raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nhello"),
    "a part that is none": ranged("nonsense"),
    "a part of many digits": ranged("bytes 0-9/" + "9" * 5000),
    "a part in other digits": ranged("bytes ١-٢/٣".encode().decode("latin-1")),
    "a part backwards": ranged("bytes 10-0/10"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_is_broken(bench: Bench, name: str) -> None:
    """As a base image, and as a small file beside one: an error that says which, and the next run works."""
    bench.pin()
    bench.site.faults[BASE] += [faults.cut(100), *[BROKEN[name]] * 5]
    bench.site.faults["/small"] += [BROKEN[name]] * 5
    begun = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(PiimgError) as caught:
            bench.fetch()
        with pytest.raises(PiimgError) as small:
            download.read_small(f"{bench.site.url}/small", 1 << 10, patience=QUICK)
            raise PiimgError(f"{bench.site.url}/small")  # a few bytes and an end: that is an answer
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 10
    assert most < 16 << 20
    for error in (caught.value, small.value):
        assert error.message.isprintable()
        assert len(error.message) < 400
        assert "127.0.0.1" in error.message or error.message.startswith("base")
    bench.assert_nothing_final()
    bench.site.faults.clear()
    bench.assert_fetches()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_reason_that_a_terminal_would_obey(bench: Bench, status: int) -> None:
    said = b"\x1b]0;owned\x07\x9b31m" + b"no " * 20_000
    bench.pin()
    bench.site.faults[BASE] += [raw(b"HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n" % (status, said))] * 5
    with pytest.raises(PiimgError) as caught:
        bench.fetch()
    assert f"{status} ?]0;owned??31mno no" in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


def test_a_long_file_in_chunks_is_no_flood(bench: Bench) -> None:
    """Thousands of lines, each of a chunk's size, with content between them."""

    def chunked(handler: faults.Handler, content: bytes) -> None:
        pieces = [content[at : at + 64] for at in range(0, len(content), 64)]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        handler.wfile.write(CHUNKED + sent + b"0\r\nTrailer: x\r\n\r\n")

    bench.pin()
    bench.site.faults[BASE] += [chunked]
    bench.assert_fetches()
    assert len(FETCHED) > 64 * 400
