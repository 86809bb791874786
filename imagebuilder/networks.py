"""Networks: the programs that set them up, and how Wi-Fi is protected. No I/O."""

from dataclasses import dataclass
from enum import StrEnum


class Radio(StrEnum):
    """The Wi-Fi chip of a board, where all variants of the board have the same."""

    CYW43438 = "CYW43438"
    CYW43436 = "CYW43436"
    CYW43455 = "CYW43455"
    CYW43456 = "CYW43456"


class WifiSecurity(StrEnum):
    """How a wireless network is protected."""

    WPA2 = "wpa2"  # pre-shared key
    WPA3 = "wpa3"  # SAE
    BOTH = "wpa2/wpa3"  # SAE where the radio and the network can, else a pre-shared key
    OPEN = "open"
    OWE = "owe"  # Enhanced Open: encrypted, without a passphrase

    @property
    def has_sae(self) -> bool:
        """Whether SAE may be used: it needs the passphrase itself, not a key derived from it."""
        return self in (WifiSecurity.WPA3, WifiSecurity.BOTH)

    @property
    def has_passphrase(self) -> bool:
        """Whether the network has a passphrase."""
        return self not in (WifiSecurity.OPEN, WifiSecurity.OWE)


@dataclass(frozen=True)
class NetworkStack:
    """A program that sets up a node's network. ``units`` are its systemd units, the usual one first.

    ``program`` is the path of the program, given where a unit may exist without it. ``layer`` is the layer
    with its settings; if empty, the layer of each release has them.
    """

    name: str
    units: tuple[str, ...]
    program: str = ""
    layer: str = ""


DHCPCD = NetworkStack("dhcpcd", ("dhcpcd.service", "dhcpcd5.service"))
NETWORK_MANAGER = NetworkStack(
    "NetworkManager", ("NetworkManager.service",), "/usr/sbin/NetworkManager", "network-manager"
)

NETWORK_STACKS = (NETWORK_MANAGER, DHCPCD)
"""The network stacks that piimg can set up."""


def port_of(interface: str) -> str:
    """The port of an interface: ``eth0`` for the VLAN ``eth0.10``, else the interface itself."""
    return interface.partition(".")[0]
