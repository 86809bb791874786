"""Real faults of the network of base images, by the finding they must give."""

from tests.integration.image.spoiling import (
    Spoil,
    in_order,
    root_edit,
    root_file,
    root_gone,
    root_link,
)
from tests.unit.image.test_netplan import CLOUD_INIT, NM

WANTS = "/etc/systemd/system/multi-user.target.wants"
UNIT = "/usr/lib/systemd/system"
PROFILES = "/etc/NetworkManager/system-connections"
OTHERS_RADIO = NM.format(kind="wifis", match="{}", more='access-points: {"a": {password: "12345678"}}')


def profile(**keys: str) -> str:
    lines = "".join(f"{name.replace('_', '-')}={value}\n" for name, value in keys.items())
    return f"[connection]\nid=x\n{lines}\n[ipv4]\nmethod=auto\n"


NETWORK_CASES: dict[str, tuple[tuple[str, str, Spoil], ...]] = {
    "no-network-program": (
        (
            "bookworm",
            "NetworkManager.service is masked",
            root_link("/etc/systemd/system/NetworkManager.service", "../../../dev/null"),
        ),
        (
            "bookworm",
            "NetworkManager.service is missing",
            in_order(
                root_gone(f"{UNIT}/NetworkManager.service"), root_gone(f"{WANTS}/NetworkManager.service")
            ),
        ),
        ("bookworm", "/usr/sbin/NetworkManager is missing", root_gone("/usr/sbin/NetworkManager")),
        ("trixie", "NetworkManager.service is not enabled", root_gone(f"{WANTS}/NetworkManager.service")),
        (
            "bullseye",
            "dhcpcd.service is masked",
            root_link("/etc/systemd/system/dhcpcd.service", "/dev/null"),
        ),
        ("bullseye", "dhcpcd.service is not enabled", root_gone(f"{WANTS}/dhcpcd.service")),
    ),
    "other-network-program": (
        (
            "bullseye",
            "NetworkManager is enabled as well",
            root_link(f"{WANTS}/NetworkManager.service", f"{UNIT}/NetworkManager.service"),
        ),
        (
            "bullseye",
            "masked, and NetworkManager is enabled",
            in_order(
                root_link("/etc/systemd/system/dhcpcd.service", "/dev/null"),
                root_link(f"{WANTS}/NetworkManager.service", f"{UNIT}/NetworkManager.service"),
            ),
        ),
        (
            "bookworm",
            "systemd-networkd is enabled",
            root_link(f"{WANTS}/systemd-networkd.service", f"{UNIT}/systemd-networkd.service"),
        ),
    ),
    "network-profile": (
        (
            "bullseye",
            "wpa_supplicant.conf has other wireless networks",
            root_file(
                "/etc/wpa_supplicant/wpa_supplicant.conf", "country=GB\nnetwork={\n ssid=x\n}\n", 0o600
            ),
        ),
        (
            "bookworm",
            "preconfigured.nmconnection",
            root_file(f"{PROFILES}/preconfigured.nmconnection", profile(type="wifi"), 0o600),
        ),
        (
            "trixie",
            "lan.nmconnection",
            root_file(f"{PROFILES}/lan.nmconnection", profile(type="ethernet", interface_name="eth0"), 0o600),
        ),
        (
            "bookworm",
            "Wired connection 1",
            root_file(f"{PROFILES}/Wired connection 1", profile(type="802-3-ethernet"), 0o600),
        ),
    ),
    "unmanaged": (
        (
            "bookworm",
            "conf.d/x.conf makes NetworkManager ignore eth0",
            root_file(
                "/etc/NetworkManager/conf.d/x.conf", "[keyfile]\nunmanaged-devices=interface-name:eth0\n"
            ),
        ),
        (
            "bookworm",
            "ignore wlan0",
            root_file("/etc/NetworkManager/conf.d/x.conf", "[device-w]\nmatch-device=type:wifi\nmanaged=0\n"),
        ),
        (
            "trixie",
            "ignore eth0",
            root_file(
                "/etc/NetworkManager/conf.d/x.conf", "[keyfile]\nunmanaged-devices=*,except:type:wifi\n"
            ),
        ),
    ),
    "netplan": (
        (
            "trixie",
            "50-cloud-init.yaml",
            root_file("/etc/netplan/50-cloud-init.yaml", CLOUD_INIT, 0o600),
        ),
        (
            "trixie",
            "90-NM-b2c0.yaml; removed from",
            root_file("/etc/netplan/90-NM-b2c0.yaml", OTHERS_RADIO, 0o600),
        ),
        ("trixie", "1.yaml", root_file("/etc/netplan/1.yaml", "network: [", 0o600)),
        ("bookworm", "50.yaml; remove it", root_file("/etc/netplan/50.yaml", CLOUD_INIT, 0o600)),
    ),
    "dhcpcd-block": (
        (
            "bullseye",
            "other settings for the",
            root_edit(
                "/etc/dhcpcd.conf",
                lambda text: text + b"\ninterface eth0\nstatic ip_address=192.168.1.50/24\n",
                0o664,
            ),
        ),
        (
            "bullseye",
            "other settings for the",
            root_edit("/etc/dhcpcd.conf", lambda text: text + b"denyinterfaces eth* usb0\n", 0o664),
        ),
        (
            "bullseye",
            "other settings for the",
            root_edit("/etc/dhcpcd.conf", lambda text: text + b"allowinterfaces wlan0\n", 0o664),
        ),
    ),
    "ifupdown": (
        (
            "bookworm",
            "/etc/network/interfaces ",
            root_file(
                "/etc/network/interfaces", "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n"
            ),
        ),
        (
            "bullseye",
            "interfaces.d/lan",
            root_file("/etc/network/interfaces.d/lan", "iface eth0 inet static\n  address 10.1.1.1\n"),
        ),
    ),
    "interface-names": (
        (
            "bookworm",
            "70-persistent-net.rules",
            root_file(
                "/etc/udev/rules.d/70-persistent-net.rules",
                '# was eth0\nSUBSYSTEM=="net", ACTION=="add", \\\n'
                '  ATTR{address}=="b8:27:eb:00:00:01", NAME="eth0"\n',
            ),
        ),
        (
            "trixie",
            "10-lan.link",
            root_file(
                "/etc/systemd/network/10-lan.link",
                "[Match]\nMACAddress=b8:27:eb:00:00:01\n[Link]\nName=lan0\n",
            ),
        ),
    ),
}
"""As ``CASES`` of base_cases.py."""
