"""The process of the page: who may ask, what it answers, and that nothing of it holds up a run."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn

from imagebuilder.cli.web.address import PageAddress, listening
from imagebuilder.cli.web.feed import Answers, Serving, fed, new_token
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.state import Start
from imagebuilder.events import Event, Message
from tests.support.checkout import TOP
from tests.support.waiting import wait_until
from tests.support.web import Client

HOSTS = ("localhost", "[::1]", "127.0.0.1")


@dataclass
class Heard:
    """A Reporter that keeps what it gets."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class Served:
    """A page that is served."""

    page: Page
    client: Client
    answers: Answers
    heard: Heard
    process: int


def processes() -> set[int]:
    """The children of this process."""
    return {int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@contextmanager
def served(
    token: str = "", control: bool = False, hosts: tuple[str, ...] = HOSTS, patience: int = 0
) -> Iterator[Served]:
    """Serve a page; with ``patience`` (ms) a viewer that never reads is dropped earlier."""
    with listening(PageAddress("127.0.0.1", 0)) as listener:
        if patience:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
        page = Page(Start("run", "station", "picluster", control=control))
        page.note("usb 1-1.1", "usb 1-1.1", "put in a card", {"slot": "usb 1-1.1", "state": "empty"})
        answers, heard, others = Answers(), Heard(), processes()
        with fed(listener, Serving(token, hosts, control), page, answers, heard):
            (process,) = processes() - others
            yield Served(page, Client(listener.getsockname()[1], token), answers, heard, process)
    assert processes() == others


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """A page that no test changes."""
    with served() as one:
        yield one


def test_the_page_and_its_files(shared: Served) -> None:
    got = shared.client.ask()
    assert (
        got.status == 200 and "usb 1-1.1" in got.text and got.headers["content-type"].startswith("text/html")
    )
    for name, kind in (
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        file = shared.client.ask(f"/{name}")
        assert file.status == 200 and file.headers["content-type"].startswith(kind)
    assert shared.client.ask("/", "HEAD").body == b""


@pytest.mark.parametrize("path", ["/", "/events", "/page.js", "/nothing", "/../../etc/passwd", "/page.css/x"])
def test_every_response_is_guarded(shared: Served, path: str) -> None:
    headers = shared.client.ask(path, "HEAD").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")
    assert headers["x-content-type-options"] == "nosniff" and "server" not in headers


def test_no_script_or_style_is_inline(shared: Served) -> None:
    page = shared.client.ask().text
    assert page.count("<script") == 1 and '<script src="page.js" defer></script>' in page
    assert "style=" not in page and "<style" not in page and " on" not in page.split("<body")[1].split(">")[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8180", "[::1]:8180", "[::1]"])
def test_names_of_this_machine(shared: Served, host: str) -> None:
    assert shared.client.ask(Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8180",
        "127.0.0.1.nip.io",
        "",
        "[::2]",
        "user@localhost",
    ],
)
def test_another_name_is_refused(shared: Served, host: str) -> None:
    """DNS rebinding: a page of evil.example, whose name then stands for 127.0.0.1."""
    for path in ("/", "/events", "/page.js"):
        got = shared.client.ask(path, Host=host)
        assert got.status == 403 and b"usb" not in got.body


def test_it_is_read_only(shared: Served) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert shared.client.ask("/", method, b"").status == 405
    assert shared.client.answer(1, "y").status == 404
    assert shared.answers.take() == []


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
        b"GET /%ff%00%2f.. HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request(shared: Served, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.client.port), timeout=10) as viewer:
        with contextlib.suppress(ConnectionError):  # it may be closed before it has sent all
            viewer.sendall(request_)
        with contextlib.suppress(OSError):  # nothing to end any more
            viewer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert b"Traceback" not in viewer.recv(100_000)
    assert shared.client.ask().status == 200


def test_the_token() -> None:
    token = new_token()
    with served(token, hosts=()) as one:
        assert one.client.ask().status == 200
        assert one.client.ask(Host="bench.local:8180").status == 200
        for wrong in ("", "x", token[:-1], f"{token}x", token.swapcase(), "%ff", "%2f", token + "%00"):
            for path in ("/", "/page.js", "/events"):
                got = Client(one.client.port, wrong).ask(path)
                assert got.status == 404 and b"usb" not in got.body and token not in str(got)
        bare = Client(one.client.port).ask(f"/{token}")
        assert bare.status in (302, 307) and bare.headers["location"] == f"/{token}/"
        page = one.client.ask().text
        assert token not in page and 'href="page.css"' in page  # links are relative
        child = one.process
        assert token not in Path(f"/proc/{child}/cmdline").read_text()
        assert token not in Path(f"/proc/{child}/environ").read_text(errors="replace")


def test_changes_are_sent_as_they_happen() -> None:
    with served() as one, one.client.events() as events, one.client.events() as others:
        assert "put in a card" in next(events)["parts"]["bench"]
        assert "put in a card" in next(others)["parts"]["bench"]
        begun = time.monotonic()
        one.page.note("usb 1-1.1", "x", "examining the card", {"slot": "usb 1-1.1", "state": "examining"})
        for viewer in (events, others):
            event = next(viewer)
            assert "examining the card" in event["parts"]["bench"] and "history" not in event["parts"]
        assert time.monotonic() - begun < 2


def test_a_viewer_that_comes_back_gets_what_it_missed() -> None:
    with served() as one:
        page = one.client.ask().text
        mark = page.split('data-mark="')[1].split('"')[0]
        one.page.emit(Message("warning", "the reader is slow"))
        with one.client.events(mark) as events:
            event = next(events)
        assert "the reader is slow" in event["parts"]["messages"] and "bench" not in event["parts"]


def test_the_last_state_is_shown_at_the_end() -> None:
    with ExitStack() as stack:
        with served() as one:
            events = stack.enter_context(one.client.events())
            next(events)
            one.page.goals(["master"])
        last = list(events)
    assert last[-1] == {} and "has ended" in last[-2]["parts"]["now"]


def test_answers() -> None:
    with served(new_token(), control=True) as one:
        got = one.client.answer(7, "yes")
        assert (got.status, got.headers["location"]) == (303, "./")
        wait_until(lambda: bool(one.answers._given), 10, lambda: "no answer")
        assert one.answers.take() == [(7, "yes")]
        for ticket, text in ((-1, "y"), ("x", "y"), (7, ""), (7, "y" * 101), ("9" * 50, "y")):
            assert one.client.answer(ticket, text).status == 400  # type: ignore[arg-type]
        assert one.client.ask("/answer", "POST", b"ticket=7&answer=y&x=" + b"a" * 5000).status == 400
        assert one.client.ask("/answer", "POST", b"\xff\x00").status == 400
        assert one.client.ask("/answer").status == 405
        assert one.client.answer(7, "y", Sec_Fetch_Site="cross-site").status == 403
        assert Client(one.client.port).answer(7, "y").status == 404  # without the token
        assert one.answers.take() == []


def test_an_answer_wakes_and_never_later() -> None:
    woken: list[int] = []
    answers = Answers()
    with answers.waking(lambda: woken.append(1)):
        answers.add(1, "y")
    answers.add(2, "y")
    assert woken == [1] and answers.take() == [(1, "y"), (2, "y")]
    for number in range(100):
        answers.add(number, "y")
    assert len(answers.take()) == 16


def test_a_viewer_that_never_reads_is_dropped() -> None:
    """The others see everything meanwhile, and the process does not grow."""
    with served(patience=3000) as one:
        viewers = [one.client.never_reads() for _ in range(5)]
        child = one.process
        with one.client.events() as events:
            next(events)
            until = time.monotonic() + 30
            number = 0
            while time.monotonic() < until and _connections(child) > 1:
                number += 1
                one.page.note(
                    "usb 1-1.1", "x", f"{number} " + "a" * 390, {"slot": "usb 1-1.1", "state": "empty"}
                )
                for _ in range(60):  # a state of some hundred kB: many slots
                    one.page.note(
                        f"s{number}.{_}", "x", "b" * 390, {"slot": f"s{number}.{_}", "state": "empty"}
                    )
                assert f"{number} aaa" in str(next(events))
            assert _connections(child) == 1
            assert _memory(child) < 150 << 20
        for viewer in viewers:
            viewer.close()
        assert one.heard.events == []


def _connections(pid: int) -> int:
    """The sockets of a process that are connected; its listener does not count."""
    found = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(one.readlink()).startswith("socket:")
        except OSError:
            continue
    return found - _OWN_SOCKETS


_OWN_SOCKETS = 3  # the listener, and the two by which the event loop wakes itself


def _memory(pid: int) -> int:
    """The resident size of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_browser_that_is_gone() -> None:
    with served() as one:
        child = one.process
        for _ in range(20):
            with one.client.events() as events:
                next(events)
        wait_until(lambda: _connections(child) == 0, 20, lambda: f"{_connections(child)} are left")
        assert one.client.ask().status == 200


def test_a_hundred_viewers_see_a_change() -> None:
    with served() as one, ExitStack() as stack:
        viewers = [stack.enter_context(one.client.events()) for _ in range(100)]
        for viewer in viewers:
            next(viewer)
        one.page.emit(Message("warning", "the reader is slow"))
        assert all("the reader is slow" in next(viewer)["parts"]["messages"] for viewer in viewers)


def test_too_many_viewers_are_refused() -> None:
    """Their number is bounded, and so are the descriptors of the process; the next ones are served again."""
    with served() as one:
        with ExitStack() as stack:
            for _ in range(256):
                next(stack.enter_context(one.client.events()))
            assert one.client.ask().status == 503
        wait_until(lambda: one.client.ask().status == 200, 20)
        limits = Path(f"/proc/{one.process}/limits").read_text()
        assert " 1024 " in next(line for line in limits.splitlines() if line.startswith("Max open files"))


def test_when_its_process_ends_there_is_a_warning() -> None:
    with served() as one:
        assert one.client.ask().status == 200
        child = one.process
        os.kill(child, signal.SIGKILL)
        one.page.emit(Message("info", "something changes"))
        wait_until(lambda: bool(one.heard.events), 10, lambda: "no warning")
        one.page.emit(Message("info", "something else changes"))
        time.sleep(0.6)
    assert one.heard.events == [Message("warning", "the page has ended; everything else goes on")]


def test_when_its_process_hangs_nothing_waits_for_it() -> None:
    begun = time.monotonic()
    with served() as one:
        assert one.client.ask().status == 200
        child = one.process
        os.kill(child, signal.SIGSTOP)
        for number in range(2000):
            one.page.note(str(number), "x", "a" * 390, {"slot": str(number), "state": "empty"})
    assert time.monotonic() - begun < 15


def test_it_has_no_rights_and_imports_nothing_later() -> None:
    """As nobody it could not read a module in a folder of root's."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with served(new_token(), control=True) as one:
        assert one.client.ask().status == 200
        child = one.process
        status = Path(f"/proc/{child}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0 and fields["Groups"].strip() == ""
        files = {str(path.readlink()) for path in Path(f"/proc/{child}/fd").iterdir()}
        assert {name.split(":")[0] for name in files} <= {"pipe", "socket", "/dev/null", "anon_inode"}


def test_it_works_where_only_root_can_read_the_program(tmp_path: Path) -> None:
    """All modules are imported before the rights are given up: a checkout may be in /root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place, libraries = tmp_path / "only-root", Path(uvicorn.__file__).parents[1]
    place.mkdir(mode=0o700)
    subprocess.run(["cp", "-r", TOP / "imagebuilder", place], check=True)
    (place / "libraries").mkdir()
    for name in ("anyio", "click", "h11", "idna", "jinja2", "markupsafe", "starlette", "uvicorn"):
        subprocess.run(["cp", "-r", libraries / name, place / "libraries"], check=True)
    code = f"""
import sys
sys.path[:] = [{str(place)!r}, {str(place / "libraries")!r}, *sys.path, {str(TOP)!r}]
import imagebuilder, tests.integration.cli.test_web_page as here
assert imagebuilder.__file__.startswith({str(place)!r})
with here.served(here.new_token(), control=True) as one:
    with one.client.events() as events:
        next(events)
    print(one.client.ask().status, one.client.answer(1, "y").status, one.client.ask("/no").status)
    print(one.client.ask("/page.js").status, here.Client(one.client.port).ask().status)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["200", "303", "404", "200", "404"], done.stderr
