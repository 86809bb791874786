"""The manifest of a new cluster, from a few values. It only reads the template that comes with piimg."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import jinja2

from imagebuilder.model import Wifi
from imagebuilder.resources import shipped

MOST_WORKERS = 200
_FIRST_WORKER = 10  # worker1 has the address 11 of the network, where it is large enough


@dataclass(frozen=True)
class Starter:
    """What a new cluster is made of: a gateway called master, and ``workers`` nodes.

    ``wifi`` is how the master reaches the home network; without it, by a cable in its interface ``uplink``.
    """

    name: str
    base: str
    timezone: str
    locale: str
    keyboard: str
    user: str
    keys: Sequence[str]
    network: IPv4Network
    workers: int
    master_board: str
    worker_board: str
    uplink: str
    wifi: Wifi | None


@dataclass(frozen=True)
class _Worker:
    name: str
    address: IPv4Address


def most_workers(network: IPv4Network) -> int:
    """How many workers fit into ``network`` beside the master, at most ``MOST_WORKERS``."""
    return min(MOST_WORKERS, network.num_addresses - 3)


def manifest_text(starter: Starter, tables: str = "") -> str:
    """The manifest as TOML, with comments. Every value is quoted, whatever it contains.

    ``tables`` is more TOML, put before the nodes.
    """
    first = _FIRST_WORKER if network_holds(starter.network, _FIRST_WORKER + starter.workers) else 1
    addresses = starter.network.network_address
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["toml"] = quoted
    template = environment.from_string((shipped("manifests") / "new" / "cluster.toml.j2").read_text("utf-8"))
    return template.render(
        vars(starter),
        tables=tables,
        master=addresses + 1,
        workers=[
            _Worker(f"worker{number}", addresses + first + number) for number in range(1, starter.workers + 1)
        ],
    )


def network_holds(network: IPv4Network, number: int) -> bool:
    """Whether the host ``number`` of ``network`` can be a node's address."""
    return number < network.num_addresses - 1


def quoted(text: str) -> str:
    """``text`` as a basic string of TOML, whose escapes are those of JSON, except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
