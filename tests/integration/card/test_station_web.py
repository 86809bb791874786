"""`piimg station --web`: real cards, and the page without a browser (tests/system/browser/web has one)."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagebuilder.system.process import run
from tests.integration.card.conftest import MIB
from tests.integration.card.manning import Cards, Manned, start, station
from tests.integration.card.running import command, environment
from tests.integration.card.slots import Slot, slots
from tests.support.waiting import wait_until
from tests.support.web import Client

pytestmark = pytest.mark.long


@pytest.fixture
def two(root: None) -> Iterator[list[Slot]]:
    """Two empty slots."""
    with slots(2) as made:
        yield made


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


def client_of(one: Manned, cluster: Path) -> Client:
    """A client of the page that the station shows, with the token of its file if there is one."""
    found = re.search(r"page: http://127.0.0.1:(\d+)/(\S*)", one.see("page: http://"))
    assert found is not None
    file = cluster / "state" / "picluster" / "web-token"
    return Client(int(found[1]), file.read_text().strip() if found[2] else "")


def await_text(client: Client, text: str, count: int = 1) -> str:
    """Wait until this is on the page, so often at least; give the page."""
    pages: list[str] = []

    def there() -> bool:
        pages.append(client.ask().text)
        return pages[-1].count(text) >= count

    wait_until(there, 60, lambda: pages[-1], pause=0.2)
    return pages[-1]


def test_the_page_shows_what_the_terminal_shows(cluster: Path, two: list[Slot], cards: Cards) -> None:
    slot, other = two
    with station(cluster, two, "--web", "127.0.0.1:0") as one:
        client = client_of(one, cluster)
        page = await_text(client, "Put in the next card")
        assert "It becomes master." in page and "Raspberry Pi 4 Model B" in page
        slot.put(cards())
        page = await_text(client, f"Take out {slot.name}")
        assert "It is good. Label it master." in page and "<b>1 of 3</b> nodes done" in page
        slot.take()
        await_text(client, "It becomes worker1.")
        other.put(cards())
        one.see(other.name, "good: take it out, and label it worker1")
        with client.events() as events:
            next(events)
            one.interrupt()
            status, said = one.end()
            assert "2 of 3" in str(list(events)) + str(client)
    assert status == 130 and "Traceback" not in said
    with pytest.raises(OSError):
        client.ask()  # nothing listens any more


def test_a_port_in_use(cluster: Path, two: list[Slot], cards: Cards) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as stack:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        one = stack.enter_context(station(cluster, two, "--web", address))
        one.see(f"warning: there is no page: {address}: Address already in use; everything else goes on")
        two[0].put(cards())
        one.see(two[0].name, "good: take it out, and label it master")


def test_when_the_page_is_killed_the_station_goes_on(cluster: Path, two: list[Slot], cards: Cards) -> None:
    with station(cluster, two, "--web", "127.0.0.1:0") as one:
        assert client_of(one, cluster).ask().status == 200
        os.kill(page_process(one), signal.SIGKILL)
        two[0].put(cards())
        one.see("warning: the page has ended; everything else goes on")
        one.see(two[0].name, "good: take it out, and label it master")


def test_when_piimg_is_killed_the_page_ends(cluster: Path, two: list[Slot]) -> None:
    with station(cluster, two, "--web", "127.0.0.1:0") as one:
        assert client_of(one, cluster).ask().status == 200
        process = page_process(one)
        one.process.kill()
        one.process.wait()
        wait_until(lambda: not Path(f"/proc/{process}").exists() or _is_zombie(process), 10)


def page_process(one: Manned) -> int:
    """The process that serves the page: the child that runs as nobody."""
    pid = one.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [
        int(child) for child in children if "\nUid:\t65534" in Path(f"/proc/{child}/status").read_text()
    ]
    return found


def _is_zombie(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_questions_are_answered_on_the_page_where_nobody_is_at_a_terminal(
    cluster: Path, two: list[Slot], cards: Cards, tmp_path: Path
) -> None:
    (slot, other), log = two, tmp_path / "log"
    options = ("--web", "127.0.0.1:0", "--web-control", "--log-file", str(log), "-vv")
    with station(cluster, two, *options, typing=False) as one:
        client = client_of(one, cluster)
        assert len(client.token) >= 22 and Client(client.port).ask().status == 404
        card = cards(64 * MIB)
        run(["mkfs.ext4", "-q", "-F", card])
        untouched = start(card)
        slot.put(card)
        page = await_text(client, f"Erase {slot.node} ({slot.name}) for master?")
        assert f"{slot.name}: it holds an ext4 file system at byte 0" in page
        ticket = ticket_of(page)
        assert client.answer(ticket, "yes please").status == 303  # no yes: as at the terminal, it means no
        await_text(client, "nothing was written")
        assert start(card) == untouched
        slot.take()
        await_text(client, '<p class="text">put in a card</p>', 2)

        slot.put(card)
        page = await_text(client, f"Erase {slot.node}")
        assert client.answer(ticket, "y").status == 303  # about the card of before
        second = cards(65 * MIB)
        run(["mkfs.ext4", "-q", "-F", second])
        other.put(second)
        await_text(client, "asking: it holds an ext4 file system at byte 0", 2)
        assert client.answer(ticket_of(page) + 1, "y").status == 303  # its turn has not come
        one.window.settle(1.5)
        assert start(card) == untouched
        assert client.answer(ticket_of(page), "y").status == 303
        await_text(client, "label it master")
        one.see(f"{slot.name}: answered on the page: y")
        page = await_text(client, f"Erase {other.node}")
        assert client.answer(ticket_of(page), "n").status == 303
        await_text(client, "nothing was written")
        one.interrupt()
        said = one.end()[1]
    assert client.token in said and client.token not in log.read_text()
    assert "▀▀" in said  # the QR code
    assert (cluster / "state" / "picluster" / "web-token").stat().st_mode & 0o777 == 0o600


def test_where_there_is_no_terminal_the_token_is_in_its_file_only(cluster: Path, two: list[Slot]) -> None:
    """Standard error may be a log, such as the journal, and events are for programs."""
    said, tokens = cluster / "said", set[str]()
    words = ("--progress", "json", "station", "--virtual", "--yes", *(f"--slot={slot.name}" for slot in two))
    for _ in range(2):  # the token stays the same
        with said.open("wb") as stream:
            process = subprocess.Popen(
                command(*words, "--web", "127.0.0.1:0", "--web-control"),
                cwd=cluster, env=environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
            try:
                wait_until(lambda: "nodes are done" in said.read_text(), 60, said.read_text)
                found = re.search(
                    r"page: http://127.0.0.1:(\d+)/TOKEN/, with the token in (\S+)", said.read_text()
                )
                assert found is not None
                token = Path(found[2]).read_text().strip()
                assert Client(int(found[1]), token).ask().status == 200
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 130
        assert token not in said.read_text() and "▀" not in said.read_text()
        tokens.add(token)
    assert len(tokens) == 1


def ticket_of(page: str) -> int:
    """The ticket of the question on the page."""
    found = re.search(r'name="ticket" value="(\d+)"', page)
    assert found is not None, page
    return int(found[1])


def test_a_node_is_chosen_on_the_page(cluster: Path, two: list[Slot], cards: Cards) -> None:
    options = ("--web", "127.0.0.1:0", "--web-control", "--node-from", "ask")
    with station(cluster, two, *options) as one:
        client = client_of(one, cluster)
        two[0].put(cards())
        page = await_text(client, "for which node?")
        assert "<option>worker2</option>" in page and "<option>none</option>" in page
        client.answer(ticket_of(page), "worker2")
        await_text(client, "Label it worker2.")


def test_without_control_nothing_can_be_answered(cluster: Path, two: list[Slot], cards: Cards) -> None:
    with station(cluster, two, "--web", "127.0.0.1:0") as one:
        client, card = client_of(one, cluster), cards(64 * MIB)
        run(["mkfs.ext4", "-q", "-F", card])
        untouched = start(card)
        two[0].put(card)
        page = await_text(client, "Answer at the terminal.")
        assert "<form" not in page and "<button" not in page
        assert [client.answer(ticket, "y").status for ticket in range(5)] == [404] * 5
        one.window.settle(1)
        assert start(card) == untouched


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--web-control"], "--web-control needs a page"),
        (["--web=no address"], "no address is no address"),
        (["--web", "127.0.0.1:99999"], "write ADDRESS:PORT"),
    ],
)
def test_wrong_usage(cluster: Path, options: list[str], said: str) -> None:
    done = subprocess.run(
        command("station", "--yes", "--slot=x", *options),
        cwd=cluster, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
