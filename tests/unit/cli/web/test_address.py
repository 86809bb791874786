"""The value of --web, on the command line too, and the socket that it names."""

import socket

import click
import pytest

from imagebuilder.cli.main import piimg
from imagebuilder.cli.web.address import PageAddress, is_loopback, listening, parsed, shown_place
from imagebuilder.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", None),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        (":8080", "127.0.0.1", 8080),
        ("[::1]:8080", "::1", 8080),
        ("bench.local:1", "bench.local", 1),
    ],
)
def test_an_address(text: str, host: str, port: int | None) -> None:
    assert parsed(text) == PageAddress(host, port)


@pytest.mark.parametrize(
    "text", ["a b:1", "x:99999", "x:", "x:-1", "::1:80", "http://x:1", "x:1/", "x:²", "\n"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parsed(text)


def given(*words: str) -> tuple[object, object]:
    """What a command line gives for --web, and for the devices."""
    name, *rest = words
    with click.Context(piimg) as top:
        command = piimg.get_command(top, name)
        assert command is not None
        values = command.make_context(name, rest, parent=top).params
    return values["web"], values.get("devices")


@pytest.mark.parametrize(
    ("words", "web"),
    [
        (("station",), None),
        (("station", "--web"), "127.0.0.1"),
        (("station", "--web", "--yes"), "127.0.0.1"),
        (("station", "--web", "0.0.0.0:8080", "--yes"), "0.0.0.0:8080"),
        (("station", "--web=0.0.0.0:8080"), "0.0.0.0:8080"),
        (("station", "--web", ":8080"), ":8080"),
        (("station", "--web", "[::]:8080"), "[::]:8080"),
        (("station", "--web", "0.0.0.0"), "0.0.0.0"),
    ],
)
def test_the_value_may_be_omitted(words: tuple[str, ...], web: str | None) -> None:
    assert given(*words)[0] == web


@pytest.mark.parametrize("device", ["/dev/null", "x/y:1", "/dev/disk/by-path/pci-0000:00:14.0-usb-0:1:1.0"])
def test_a_device_is_no_address(device: str, tmp_path: object) -> None:
    try:
        web, devices = given("flash", "--web", device)
    except click.BadParameter as error:  # there is no such device: but it was taken for one
        assert device in error.format_message()
    else:
        assert web == "127.0.0.1" and [str(one) for one in devices] == [device]  # type: ignore[attr-defined]


def test_common_options_may_follow() -> None:
    words = ["station", "--web", "-v", "--progress", "plain", "--yes"]
    with piimg.make_context("piimg", words, resilient_parsing=True) as context:
        assert (context.params["verbosity"], context.params["mode"]) == (1, "plain")


def test_the_usual_port_may_be_in_use() -> None:
    """Then it is another one; a port that was named is an error."""
    with listening(PageAddress()) as first, listening(PageAddress()) as second:
        places = {shown_place(first), shown_place(second)}
        assert first.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000  # milliseconds
        assert len(places) == 2 and is_loopback(first) and is_loopback(second)
        taken = first.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listening(PageAddress("127.0.0.1", taken))


def test_any_address_is_shown_as_one_that_can_be_opened() -> None:
    with listening(PageAddress("0.0.0.0", 0)) as listener:
        assert not is_loopback(listener)
        host = shown_place(listener).rpartition(":")[0]
        socket.inet_aton(host)
