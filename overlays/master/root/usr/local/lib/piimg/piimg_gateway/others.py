"""Firewall rules of other programs: what the gateway adds to them while it is open, and removes later.

Only rules of known programs are changed, and only at the place that each provides for users: Docker's chain
DOCKER-USER, ufw's chain of route rules, firewalld's table where it is writable. Rules that a user wrote are
not changed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from piimg_gateway import rules
from piimg_gateway.conf import Conf
from piimg_gateway.failure import Failure

COMMENT = rules.TABLE
_IPTABLES = {"iptables-nft": "ip filter", "iptables-legacy": "legacy filter"}
_CHAINS = ("DOCKER-USER", "ufw-user-forward")
_FIREWALLD = "inet firewalld"
LEGACY_TABLE = "legacy filter"
_LEGACY = Path("/proc/net/ip_tables_names")


def legacy_in_use() -> bool:
    """Whether there may be rules of legacy iptables, which nftables neither lists nor traces."""
    try:
        return "filter" in _LEGACY.read_text().split()
    except OSError:
        return False


def legacy_rules() -> str:
    """The forwarding rules of legacy iptables, whose changes cause no notification."""
    try:
        return rules.command(["iptables-legacy", "-w", "5", "-S"])
    except Failure as error:
        return str(error)


def let_through(conf: Conf, table: str) -> bool:
    """Add rules that let the LAN through ``table`` ("ip filter"); whether any were added."""
    if table == _FIREWALLD:
        return _into_firewalld(conf)
    for program, owner in _IPTABLES.items():
        if owner == table:
            added = [_into(conf, program, chain) for chain in _CHAINS]
            return any(added)
    return False


def take_away() -> None:
    """Remove all rules that ``let_through`` has added, also in an earlier run. Raises Failure."""
    for program in _IPTABLES:
        for chain in _CHAINS:
            for rule in _ours(program, chain):
                rules.command([program, "-w", "5", "-D", *rule])
    for handle in _firewalld_handles():
        rules.nft(["delete", "rule", *_FIREWALLD.split(), "filter_FORWARD", "handle", handle])


def _pair(conf: Conf) -> tuple[list[str], list[str]]:
    """The rules for packets out and back, as arguments of iptables."""
    lan, uplink, net = conf.lan_interface, conf.uplink, str(conf.lan)
    end = ["-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]
    answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    return ["-s", net, "-i", lan, "-o", uplink, *end], ["-d", net, "-i", uplink, "-o", lan, *answers, *end]


def _listed(program: str, chain: str) -> list[str] | None:
    """A chain's rules; None when it is missing. iptables is run only if needed, because it creates tables."""
    if program == "iptables-legacy":
        if not legacy_in_use():
            return None
    else:
        try:
            rules.nft(["list", "chain", "ip", "filter", chain])
        except Failure:
            return None
    try:
        return rules.command([program, "-w", "5", "-S", chain]).splitlines()
    except Failure:
        return None


def _ours(program: str, chain: str) -> list[list[str]]:
    words = [shlex.split(line) for line in _listed(program, chain) or ()]
    return [rule[1:] for rule in words if COMMENT in rule]


def _into(conf: Conf, program: str, chain: str) -> bool:
    listed = _listed(program, chain)
    if listed is None:
        return False
    if sum(COMMENT in line for line in listed) == 2:
        return False
    for rule in _ours(program, chain):
        rules.command([program, "-w", "5", "-D", *rule])
    for rule in _pair(conf):
        rules.command([program, "-w", "5", "-I", chain, *rule])
    return True


def _firewalld_handles() -> list[str]:
    try:
        listed = rules.nft(["-a", "list", "chain", *_FIREWALLD.split(), "filter_FORWARD"])
    except Failure:
        return []
    return re.findall(rf'comment "{COMMENT}" # handle (\d+)', listed)


def _into_firewalld(conf: Conf) -> bool:
    if len(_firewalld_handles()) == 2:
        return False
    lan, uplink, net = conf.lan_interface, conf.uplink, conf.lan
    for rule in (
        f'iifname "{lan}" oifname "{uplink}" ip saddr {net} accept',
        f'iifname "{uplink}" oifname "{lan}" ip daddr {net} ct state established,related accept',
    ):
        added = f'insert rule {_FIREWALLD} filter_FORWARD {rule} comment "{COMMENT}"\n'
        try:
            rules.nft(["-f", "-"], added)
        except Failure:
            return False  # from 2.1 on firewalld owns its table: other programs cannot write there
    return True


def advice(conf: Conf, table: str, chain: str) -> str:
    """What the user must do to let the LAN through ``table``, in one line."""
    lan, uplink = conf.lan_interface, conf.uplink
    if table == _FIREWALLD:
        # firewalld's zone "internal" lets in its services, which include the time
        return "; ".join(
            f"sudo firewall-cmd {words}"
            for words in (
                f"--permanent --zone=internal --change-interface={lan}",
                "--permanent --zone=internal --add-service=ntp",
                "--permanent --new-policy=lan-out",
                "--permanent --policy=lan-out --add-ingress-zone=internal",
                "--permanent --policy=lan-out --add-egress-zone=ANY",
                "--permanent --policy=lan-out --set-target=ACCEPT",
                "--reload",
            )
        )
    if table in _IPTABLES.values():
        insert = f"sudo {_iptables(table)} -I {chain}"
        answers = "-m conntrack --ctstate RELATED,ESTABLISHED"
        return f"{insert} -i {lan} -o {uplink} -j ACCEPT; {insert} -i {uplink} -o {lan} {answers} -j ACCEPT"
    insert = f"sudo nft insert rule {table} {chain}"
    if _hook(table, chain) in ("ingress", "prerouting"):  # the target of a packet is not known there
        out, back = f"iifname {lan} ip saddr {conf.lan}", f"iifname {uplink}"
    else:
        out, back = f"iifname {lan} oifname {uplink}", f"iifname {uplink} oifname {lan}"
    return f"{insert} {out} accept; {insert} {back} ct state established,related accept"


def _iptables(table: str) -> str:
    return "iptables-legacy" if table == LEGACY_TABLE else "iptables"


def _hook(table: str, chain: str) -> str:
    """The hook of ``chain``, such as "forward"; empty when it is not known."""
    try:
        listed = rules.nft(["list", "table", *table.split()])
    except Failure:
        return ""
    chains = dict(re.findall(r"^\tchain (\S+) \{\n(.*?)^\t\}", listed, re.MULTILINE | re.DOTALL))
    leading = {chain}
    found: set[str] = set()
    while leading - found:
        found |= leading
        for name in found:
            hook = re.search(r"type \S+ hook (\S+)", chains.get(name, ""))
            if hook:
                return hook[1]
        leading = {
            name for name, body in chains.items() if found & set(re.findall(r"(?:jump|goto) (\S+)", body))
        }
    return ""


def advice_in(conf: Conf, table: str, chain: str, protocol: str, port: int) -> str:
    """What the user must do to let the workers reach ``port`` of this node, in one line."""
    lan = conf.lan_interface
    if chain.startswith("ufw-") or _listed("iptables-nft", "ufw-user-input") is not None:
        return f"sudo ufw allow in on {lan} to any port {port} proto {protocol}"
    if table == _FIREWALLD:
        add = f"--add-port={port}/{protocol}"
        return f"sudo firewall-cmd {add}; sudo firewall-cmd --permanent {add}"
    if table in _IPTABLES.values():
        return f"sudo {_iptables(table)} -I {chain} -i {lan} -p {protocol} --dport {port} -j ACCEPT"
    return f"sudo nft insert rule {table} {chain} iifname {lan} {protocol} dport {port} accept"
