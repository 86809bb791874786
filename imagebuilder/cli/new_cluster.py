"""The values of a new cluster: from options, from questions at a terminal, and from this machine."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from imagebuilder.boards import BOARDS
from imagebuilder.cli import host_defaults as host
from imagebuilder.cli.output import ask, echo
from imagebuilder.cli.secrets import public_keys, ssh_folder, variable
from imagebuilder.errors import UsageError
from imagebuilder.keys.derive import wifi_psk
from imagebuilder.manifest.values import checked
from imagebuilder.model import DEFAULT_RELEASE, Secret, Wifi
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.starter import Starter, most_workers
from imagebuilder.text import did_you_mean

SECRET = "wifi_psk"
_WORKERS, _MASTER, _WORKER, _USER = 5, "pi-4b", "pi-3b+", "pi"
_WIRED = "eth1"  # a USB adapter: eth0 is the LAN
_NONE = "-"
_LIMIT = 1 << 12  # bytes of a passphrase on standard input


@dataclass(frozen=True)
class Given:
    """What the options give; None where an option is missing. ``ask``: the rest may be asked for."""

    workers: int | None
    master_board: str | None
    worker_board: str | None
    timezone: str | None
    locale: str | None
    keyboard: str | None
    network: str | None
    user: str | None
    ssh_keys: Sequence[Path]
    wifi: str | None
    country: str | None
    passphrase_file: str | None
    wired: str | None
    ask: bool


@dataclass(frozen=True)
class Chosen:
    """The new cluster, and the passphrase of its Wi-Fi (empty: not known, or there is none)."""

    starter: Starter
    passphrase: str


def choose(folder: Path, given: Given) -> Chosen:
    """The values for a cluster in ``folder``. Raises UsageError for an option that is not valid."""
    if given.wired is not None and (given.wifi or given.country or given.passphrase_file):
        raise UsageError("--wired and a Wi-Fi exclude each other", "use one of them")
    if given.wifi is None and given.passphrase_file is not None:
        raise UsageError("--wifi-passphrase-file needs the name of the Wi-Fi", "add --wifi SSID")
    network = IPv4Network(_checked("network", "--network", given.network or host.network()))
    if most_workers(network) < 1:
        raise UsageError(f"--network: {network} is too small for two nodes", "name a larger one: 10.0.0.0/24")
    workers = _workers(given, network)
    master = _board(given, "--master-board", given.master_board, "Board of the master", _MASTER)
    worker = (
        _board(given, "--worker-board", given.worker_board, "Board of the workers", _WORKER)
        if workers
        else _WORKER
    )
    zone = _value(given, "timezone", "--timezone", given.timezone, "Time zone", host.timezone() or "Etc/UTC")
    language = _value(
        given, "locale", "--locale", given.locale, "Locale", host.locale(os.environ) or "C.UTF-8"
    )
    layout = _value(
        given, "keyboard", "--keyboard", given.keyboard, "Keyboard layout", host.keyboard() or "us"
    )
    user = _value(given, "user", "--user", given.user, "Account on the nodes", _USER)
    keys = _keys(given.ssh_keys)
    wifi, passphrase = _way_out(given, zone, language)
    uplink = wifi.interface if wifi else given.wired or _WIRED
    _checked("interface", "--wired", uplink)
    if uplink == "eth0":
        raise UsageError("--wired: eth0 is the LAN of the cluster", "name the other port, such as eth1")
    return Chosen(
        Starter(
            name=folder.name if _is_label(folder.name) else "picluster",
            base=_base([master, worker] if workers else [master]),
            timezone=zone,
            locale=language,
            keyboard=layout,
            user=user,
            keys=keys,
            network=network,
            workers=workers,
            master_board=master,
            worker_board=worker,
            uplink=uplink,
            wifi=wifi,
        ),
        passphrase,
    )


def _base(boards: Sequence[str]) -> str:
    """The base image that all of the boards start: every board starts armhf, most arm64."""
    every = all("arm64" in BOARDS[board].architectures for board in boards)
    return f"raspios-{DEFAULT_RELEASE}-{'arm64' if every else 'armhf'}-lite"


def _is_label(name: str) -> bool:
    """Whether the folder's name can be the cluster's: a hostname in small letters."""
    return re.fullmatch(r"(?!localhost$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) is not None


def _value(given: Given, kind: str, option: str, text: str | None, question: str, default: str) -> str:
    """The option's value, else the answer to ``question``, else the default."""
    if text is not None:
        return _checked(kind, option, text)
    return _asked(question, default, lambda answer: checked(kind, answer)) if given.ask else default


def _checked(kind: str, option: str, text: str) -> str:
    try:
        return checked(kind, text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", f"see: {_HELP}") from None


_HELP = "piimg init --help"


def _asked(question: str, default: str, check: Callable[[str], str]) -> str:
    """Ask until the answer is valid; nothing typed is the default."""
    while True:
        answer = ask(f"{question} [{default}]" if default else question, otherwise=default or None).strip()
        try:
            return check(answer)
        except ValueError as error:
            echo(str(error), err=True)


def _workers(given: Given, network: IPv4Network) -> int:
    most = most_workers(network)
    if given.workers is not None and given.workers > most:
        raise UsageError(
            f"--workers: at most {most} fit into {network}", "name a larger LAN: --network 10.0.0.0/16"
        )

    def check(answer: str) -> str:
        if not answer.isascii() or not answer.isdecimal() or len(answer) > 6 or int(answer) > most:
            raise ValueError(f"a number from 0 to {most}")
        return answer

    if given.workers is not None:
        return given.workers
    default = min(_WORKERS, most)
    if given.ask:
        return int(_asked("How many workers", str(default), check))
    if default < _WORKERS:
        echo(f"only {default} worker{'s' * (default > 1)} fit{'s' * (default == 1)} into {network}", err=True)
    return default


def _board(given: Given, option: str, text: str | None, question: str, default: str) -> str:
    def check(answer: str) -> str:
        if answer not in BOARDS:
            meant = did_you_mean(answer, BOARDS) or f": {', '.join(BOARDS)}"
            raise ValueError(f"no board is named {answer}{meant}")
        return answer

    if text is None:
        return _asked(question, default, check) if given.ask else default
    try:
        return check(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", f"see: {_HELP}") from None


def _keys(files: Sequence[Path]) -> tuple[str, ...]:
    """The public keys in ``files``, else the user's own."""
    keys = []
    for file in files:
        try:
            text = read_regular(file, SMALL).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise UsageError(f"--ssh-key: cannot read {file}: {reason}", "name a .pub file") from None
        for line in filter(None, map(str.strip, text.splitlines())):
            if "PRIVATE KEY" in line:
                raise UsageError(f"--ssh-key: {file} is a private key", f"name {file}.pub")
            keys.append(_checked("key", f"--ssh-key {file}", line))
    if files and not keys:
        raise UsageError("--ssh-key: the file is empty", "name a .pub file")
    own = () if files else public_keys()
    if own:
        echo(f"public keys that may log in: {len(own)} in {ssh_folder()}", err=True)
    elif not files:
        echo(
            f"public keys that may log in: none in {ssh_folder()}; piimg makes one for the cluster", err=True
        )
    return tuple(keys) or own


def _way_out(given: Given, zone: str, language: str) -> tuple[Wifi | None, str]:
    """The Wi-Fi of the master, and its passphrase; None for a cable."""
    if given.wired is not None:
        return None, ""
    name = given.wifi
    if name is None:
        found = host.wifi()
        name = (
            _asked(f"Wi-Fi that the master joins ({_NONE}: none, a cable)", found or _NONE, _ssid)
            if given.ask
            else found
        )
    if name in ("", _NONE) and given.wifi is None:
        if given.country is not None and not given.ask:
            raise UsageError("--country needs the name of the Wi-Fi", "add --wifi SSID")
        echo(
            f"the master reaches your home network by a cable in {_WIRED}, a USB adapter; Wi-Fi: --wifi SSID",
            err=True,
        )
        return None, ""
    _checked("ssid", "--wifi", name)
    default = host.country(zone, language)
    if given.country is None and not given.ask and not default:
        raise UsageError("the country of the Wi-Fi is not known", "name it: --country GB")
    country = _value(given, "country", "--country", given.country, "Country of the Wi-Fi", default)
    passphrase, is_open = _passphrase(given, name)
    return Wifi(name, country, None if is_open else Secret(SECRET)), passphrase


def _ssid(answer: str) -> str:
    return answer if answer == _NONE else checked("ssid", answer)


def _passphrase(given: Given, name: str) -> tuple[str, bool]:
    """The passphrase, empty if it is not known yet; and whether the network is open: nothing was typed."""
    if given.passphrase_file is not None:
        text = _first_line(given.passphrase_file)
        try:
            wifi_psk(name, text)
        except UsageError as error:
            raise UsageError(error.message, f"see the first line of {given.passphrase_file}") from None
        return text, False
    if not given.ask or os.environ.get(variable(SECRET)):
        return "", False
    while True:
        first = ask(f"Passphrase of {name} (nothing: an open network)", hidden=True, otherwise="")
        if not first:
            return "", True
        try:
            wifi_psk(name, first)
        except UsageError as error:
            echo(error.message, err=True)
            continue
        if ask("The passphrase again", hidden=True, otherwise="") == first:
            return first, False
        echo("the two answers differ: type it again", err=True)


def _first_line(file: str) -> str:
    try:
        data = sys.stdin.buffer.read(_LIMIT) if file == "-" else read_regular(Path(file), _LIMIT)
        return data.decode().partition("\n")[0].removesuffix("\r")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "name a file with the passphrase") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text", "name a file with the passphrase") from None
