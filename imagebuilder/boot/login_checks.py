"""The checks of logins and accounts: each function returns what is wrong in one line, or an empty string."""

import re

from imagebuilder.boot.expected import Expected, public_key
from imagebuilder.boot.facts import Facts
from imagebuilder.settings import SSH_PORT
from imagebuilder.text import printable

_SSHD = {
    "passwordauthentication": ("no",),
    "kbdinteractiveauthentication": ("no",),
    "challengeresponseauthentication": ("no",),  # the same thing in OpenSSH before 8.7 (Bullseye)
    "permitemptypasswords": ("no",),
    "permitrootlogin": ("no", "without-password", "prohibit-password", "forced-commands-only"),
    "pubkeyauthentication": ("yes",),
}
"""Allowed values in the output of `sshd -T`, for settings that it prints."""


def user(expected: Expected, facts: Facts) -> str:
    name, account = expected.cluster.user.name, facts.account
    if account is None or account.name != name:
        return f"UID 1000 is {printable(account.name) if account else 'missing'}, not {name}"
    if facts.login != name:
        return f"a login as {name} becomes {printable(facts.login)}"
    if account.home != f"/home/{name}":
        return f"its home is {printable(account.home)}, not /home/{name}"
    if account.shell.rpartition("/")[2] in ("nologin", "false", ""):
        return f"its shell is {printable(account.shell) or 'missing'}"
    return (
        "" if "sudo" in facts.groups else f"it is not in the group sudo: {printable(' '.join(facts.groups))}"
    )


def sudo(expected: Expected, facts: Facts) -> str:
    return "" if facts.root else f"sudo refuses {expected.cluster.user.name}, or asks for a password"


def password(expected: Expected, facts: Facts) -> str:
    """Compares digests: neither the password nor its hash is ever shown."""
    same = facts.root is not None and facts.root.password == expected.password
    return "" if same else "it is not the password of the manifest"


def authorized_keys(expected: Expected, facts: Facts) -> str:
    found = [line.strip() for line in facts.authorized if line.strip() and not line.startswith("#")]
    wanted = [key.strip() for key in expected.authorized_keys]
    others = [line for line in found if line not in wanted]
    if others:
        return f"a key that is not in the manifest may log in: {_comment(others[0])}"
    missing = [key for key in wanted if key not in found]
    return f"a key is missing: {_comment(missing[0])}" if missing else ""


def _comment(line: str) -> str:
    words = line.split()
    return printable(words[-1] if len(words) > 2 else line[:24], 40)


def accounts(expected: Expected, facts: Facts) -> str:
    """The accounts of the manifest: number, home, shell, groups, and exactly their keys."""
    found = {account.name: account for account in facts.root.accounts} if facts.root else {}
    for wanted in expected.cluster.accounts:
        there = found.get(wanted.name)
        if there is None:
            return f"there is no account {wanted.name}"
        if (there.uid, there.home, there.shell) != (wanted.uid, f"/home/{wanted.name}", "/bin/bash"):
            return f"{wanted.name} has {there.uid}, {printable(there.home)}, {printable(there.shell)}"
        if missing := [group for group in wanted.groups if group not in there.groups]:
            return f"{wanted.name} is not in the group {missing[0]}"
        if sorted(there.keys) != sorted(expected.account_keys[wanted.name]):
            return f"the keys of {wanted.name} are not those of the manifest"
    return ""


def password_login(expected: Expected, facts: Facts) -> str:
    """The settings of sshd, and the methods that it offers to a client without a key."""
    settings = facts.root.sshd if facts.root else {}
    for name, allowed in _SSHD.items():
        if name in settings and settings[name] not in allowed:
            return f"sshd has {name} {printable(settings[name])}"
    for name in ("passwordauthentication", "permitrootlogin"):
        if name not in settings:
            return f"sshd does not report its {name}"
    offers = re.search(r"Permission denied \(([a-z,-]*)\)", " ".join(facts.offered))
    if offers is None:
        return f"sshd did not refuse a login without a key: {printable(' '.join(facts.offered))}"
    return "" if offers[1] == "publickey" else f"sshd offers {offers[1]}"


def ssh_port(expected: Expected, facts: Facts) -> str:
    """sshd listens on the port of the manifest, and on no other."""
    ports, wanted = facts.root.ssh_ports if facts.root else (), expected.node.ssh_port
    return "" if ports == (str(wanted),) else f"{printable(', '.join(ports)) or 'not known'}, not {wanted}"


def host_key(expected: Expected, facts: Facts) -> str:
    wanted = expected.host_keys[expected.node.name]
    found = {" ".join(line.split()[1:3]) for line in facts.presented if not line.startswith("#")}
    if found == {wanted}:
        return ""
    if not found:
        return "sshd presents no host key"
    others = ", ".join(sorted(key.split()[0] for key in found - {wanted} if key))
    if wanted in found:
        return f"sshd presents a host key that was not made for the node, too: {printable(others)}"
    return f"sshd presents another host key than the one made for the node: {printable(others)}"


def known_hosts(expected: Expected, facts: Facts) -> str:
    """This node's known host keys of all nodes, under each of their names."""
    found: dict[str, set[str]] = {}
    for line in facts.known_hosts:
        names, _, key = line.partition(" ")
        for name in names.split(","):
            found.setdefault(name, set()).add(public_key(key))
    for node in expected.cluster.nodes:
        for plain in (node.name, f"{node.name}.{expected.cluster.domain}", node.host):
            name = plain if node.ssh_port == SSH_PORT else f"[{plain}]:{node.ssh_port}"
            if found.get(name) != {expected.host_keys[node.name]}:
                return f"{'another key is' if name in found else 'no key is'} known for {name}"
    return ""
