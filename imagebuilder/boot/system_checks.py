"""The checks of a card, its first boot and its services: each returns what is wrong, or an empty string."""

import re

from imagebuilder.boot.expected import Expected, PlannedScript
from imagebuilder.boot.facts import Facts, Mode, Script
from imagebuilder.settings import SwapKind
from imagebuilder.text import printable

_SECTOR = 512  # bytes
_SLACK = (
    4 << 20
)  # bytes; partitions are aligned, and resize2fs drops a last group that is too small for its tables
_FIRSTBOOT_UNIT = "piimg-firstboot.service"
_CONSUMED = ("ssh", "ssh.txt", "userconf", "userconf.txt")
_FIRST_WORDS = re.compile(r"resize|init=\S*/(?:firstboot|init_resize\.sh)")


def manifest(expected: Expected, facts: Facts) -> str:
    """The card was built for this node, from this manifest."""
    found = facts.identity
    if found is None:
        return "piimg.json is not on the boot partition"
    for key, wanted in (("cluster", expected.cluster.name), ("node", expected.node.name)):
        if found.get(key) != wanted:
            return f"the card is for the {key} {printable(str(found.get(key)))}"
    if found.get("manifest") != expected.cluster.digest:
        return "the node image was built from another version of the manifest: build it again"
    return ""


def machine_id(expected: Expected, facts: Facts) -> str:
    if re.fullmatch(r"[0-9a-f]{32}", facts.machine_id) and facts.machine_id.strip("0"):
        return ""
    return f"it is {printable(facts.machine_id) or 'empty'}"


def disk_id(expected: Expected, facts: Facts) -> str:
    """The card has a unique disk id, and fstab and cmdline.txt refer to it."""
    own = facts.root.disk_id if facts.root else ""
    if not re.fullmatch(r"[0-9a-f]{8}", own) or own == "00000000":
        return f"it is {printable(own) or 'not known'}"
    if own == expected.base_disk_id:
        return f"it is still {own}, as on every card made from this base image"
    named = {line.split()[1]: line.split()[0] for line in facts.fstab if len(line.split()) > 1}
    for place, number in (("/", "02"), (expected.boot_mount, "01")):
        if named.get(place) != f"PARTUUID={own}-{number}":
            return (
                f"fstab has {printable(named.get(place, 'nothing'))} at {place}, not PARTUUID={own}-{number}"
            )
    words = " ".join(facts.cmdline).split()
    roots = [word.removeprefix("root=") for word in words if word.startswith("root=")]
    if roots != [f"PARTUUID={own}-02"]:
        return f"cmdline.txt has {printable(' '.join(roots)) or 'nothing'} as root, not PARTUUID={own}-02"
    return ""


def grown(expected: Expected, facts: Facts) -> str:
    """The root partition reaches the end of the card, or has the manifest's size; the file system reaches
    the partition's end."""
    disk, size = facts.disk, facts.root.file_system if facts.root else 0
    if disk is None or not size:
        return "the sizes are not known"
    rest = (disk.size - disk.start - disk.length) * _SECTOR
    wanted = expected.node.root_size
    if wanted is not None and rest > 0:
        if disk.length * _SECTOR != wanted << 20:
            return f"the root partition has {disk.length * _SECTOR >> 20} MiB, not {wanted}"
    elif rest > _SLACK:
        return f"the root partition leaves {rest >> 20} MiB of the card free"
    rest = disk.length * _SECTOR - size
    return f"the root file system leaves {rest >> 20} MiB of its partition free" if rest > _SLACK else ""


def consumed(expected: Expected, facts: Facts) -> str:
    """Files and words that only the first boot reads are removed: one contains the password's hash."""
    left = sorted(name for name in facts.on_boot if name.lower() in _CONSUMED)
    if left:
        return f"{printable(', '.join(left))} is still on the boot partition"
    words = [word for line in facts.cmdline for word in line.split() if _FIRST_WORDS.fullmatch(word)]
    return f"cmdline.txt still has {printable(' '.join(words))}" if words else ""


def modes(expected: Expected, facts: Facts) -> str:
    """The modes of files that contain a secret, or that programs refuse with another mode."""
    found = facts.root.modes if facts.root else {}
    wrong = [
        f"{path} is {_shown(found.get(path))}, not {_shown(mode)}"
        for path, mode in expected.modes.items()
        if found.get(path) != mode
    ]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return wrong[0] + more if wrong else ""


def _shown(mode: Mode | None) -> str:
    if mode is None:
        return "missing"
    owner = "root" if (mode.uid, mode.gid) == (0, 0) else f"{mode.uid}:{mode.gid}"
    return f"{mode.mode:04o} {owner}"


def timezone(expected: Expected, facts: Facts) -> str:
    wanted = expected.cluster.timezone
    if facts.timezone != wanted:
        return f"{printable(facts.timezone) or 'unknown'}, not {wanted}"
    return (
        "" if facts.timezone_file in ("", wanted) else f"/etc/timezone says {printable(facts.timezone_file)}"
    )


def locale(expected: Expected, facts: Facts) -> str:
    wanted = expected.cluster.locale
    if facts.lang != (wanted,):
        return f"LANG is {printable(', '.join(facts.lang)) or 'not set'}, not {wanted}"
    if facts.lang_at_login != wanted:
        return f"LANG at login is {printable(facts.lang_at_login) or 'not set'}, not {wanted}"
    there = {_plain(name) for name in facts.locales}
    return "" if _plain(wanted) in there else f"{wanted} was not generated"


def _plain(name: str) -> str:
    """`locale -a` writes en_GB.utf8 for en_GB.UTF-8."""
    language, dot, rest = name.partition(".")
    codeset, at, modifier = rest.partition("@")
    return f"{language}{dot}{codeset.replace('-', '').lower()}{at}{modifier}"


def keyboard(expected: Expected, facts: Facts) -> str:
    wanted = expected.cluster.keyboard
    return "" if facts.keyboard == wanted else f"{printable(facts.keyboard) or 'not set'}, not {wanted}"


def swap(expected: Expected, facts: Facts) -> str:
    """Swap has the kind and the size of the manifest, and there is no other swap."""
    wanted = expected.node.swap
    there = [f"{printable(area.name)} of {area.kib >> 10} MiB" for area in facts.swaps]
    zrams = [area for area in facts.swaps if re.fullmatch(r"/dev/zram[0-9]+", area.name)]
    if wanted.kind is SwapKind.OFF:
        return f"there is swap: {', '.join(there)}" if there else ""
    if not there:
        return "there is no swap"
    if wanted.kind is SwapKind.ZRAM:
        if len(zrams) < len(facts.swaps):
            return f"there is swap outside of memory: {', '.join(there)}"
        backed = [area for area in zrams if area.backing != "none"]
        return f"{backed[0].name} writes to {printable(backed[0].backing)}" if backed else ""
    if zrams or len(facts.swaps) > 1 or facts.swaps[0].kind != "file":
        return f"it is {', '.join(there)}, not a file of {wanted.mib} MiB"
    # the first page of the file has the header: mkswap(8)
    return (
        ""
        if abs(facts.swaps[0].kib - (wanted.mib << 10)) <= 1 << 10
        else (f"it is {there[0]}, not of {wanted.mib} MiB")
    )


def mounts(expected: Expected, facts: Facts) -> str:
    """The mounts of the manifest are in fstab; those that need nothing but memory are mounted."""
    for mount in expected.node.mounts:
        if mount.line.split() not in [line.split() for line in facts.fstab]:
            return f"fstab has no such line for {mount.path}"
        needed = mount.type == "tmpfs" and "noauto" not in mount.options
        needed |= mount.path == expected.node.data
        if needed and (mount.path, mount.type) not in facts.mounted:
            return f"{mount.path} is not mounted"
    return ""


def absent(expected: Expected, facts: Facts) -> str:
    """The mounts of the manifest that are not there, such as a disk that emulation does not have."""
    there = {path for path, _ in facts.mounted}
    missing = [mount.path for mount in expected.node.mounts if mount.path not in there]
    return f"not mounted: {', '.join(missing)}" if missing else ""


def ca_certificates(expected: Expected, facts: Facts) -> str:
    """Each certificate of the manifest is in the bundle that programs read."""
    trusted = facts.root.ca_certificates if facts.root else ()
    missing = [path for path in expected.ca_certificates if path not in trusted]
    return f"{missing[0]} is not trusted" if missing else ""


def journal(expected: Expected, facts: Facts) -> str:
    """The journal is on the card: systemd-journald.service(8) names the folders."""
    files = facts.root.journal if facts.root else ()
    if any(file.startswith("/var/log/journal/") for file in files):
        return ""
    return f"it is in {printable(files[0])}" if files else "there is no journal"


# --- the first boot -----------------------------------------------------------------------------------------


def first_boot(expected: Expected, facts: Facts) -> str:
    """Every script ran once, in order, and succeeded. A script that cannot run here blocks the rest.

    A layer that brings its software in the image needs no internet on the first boot.
    """
    planned = [script.name for script in expected.scripts]
    summary = facts.summary
    if summary is None:
        return "its summary is not on the boot partition" if planned else ""
    if (summary.cluster, summary.node) != (expected.cluster.name, expected.node.name):
        return f"its summary is from {printable(summary.node)} of {printable(summary.cluster)}"
    if [script.name for script in summary.scripts] != planned:
        there = printable(", ".join(script.name for script in summary.scripts)) or "none"
        return f"its scripts are {there}; planned are {', '.join(planned) or 'none'}"
    for script, plan in zip(summary.scripts, expected.scripts, strict=True):
        if wrong := _script(expected, script) or _online(expected, plan):
            return wrong
    done = tuple(script.name for script in summary.scripts if script.status == "done")
    if tuple(sorted(facts.stamps)) != done:
        shown = printable(", ".join(facts.stamps)) or "none"
        return f"done are {', '.join(done) or 'none'}, but there are stamps of {shown}"
    return _runs(facts, done)


def _script(expected: Expected, script: Script) -> str:
    name = printable(script.name)
    if script.status == "done":
        return "" if script.exit_status == 0 else f"{name} is done with exit status {script.exit_status}"
    if script.status == "waiting":
        if script.name not in expected.runnable:
            return ""
        return f"{name} has not run{_quoted(script)}"
    tries = f"{script.attempts} tr{'y' if script.attempts == 1 else 'ies'}"
    return f"{name} failed with exit status {script.exit_status} after {tries}{_quoted(script)}"


def _online(expected: Expected, script: PlannedScript) -> str:
    if script.needs != "internet" or script.layer not in expected.complete_layers:
        return ""
    return f"{script.name} needs the internet, though the layer {script.layer} has its software in the image"


def _quoted(script: Script) -> str:
    return f": {printable(script.said, 60)}" if script.said else ""


def _runs(facts: Facts, done: tuple[str, ...]) -> str:
    """What the log shows to be wrong: another order, or a script that ran after it had succeeded."""
    begun = list(dict.fromkeys(line.name for line in facts.ran))
    if begun != sorted(begun):
        return f"the scripts ran in another order: {printable(', '.join(begun))}"
    for name in done:
        lines = [line.status for line in facts.ran if line.name == name]
        if lines.count(0) != 1:
            return f"{name} succeeded {lines.count(0)} times"
        if lines[-1] != 0:
            return f"{name} ran again after it had succeeded"
    return ""


def waits(expected: Expected, facts: Facts) -> str:
    """The scripts that wait, with the reason, and those that needed more than one try."""
    remarks = []
    scripts = facts.summary.scripts if facts.summary else ()
    for script in scripts:
        if script.status == "waiting":
            need = expected.missing(script.needs)
            remarks.append(f"{printable(script.name)} waits for {need or 'its turn'}")
        elif script.status == "done" and script.attempts > 1:
            remarks.append(f"{printable(script.name)} took {script.attempts} tries")
    return "; ".join(remarks)


# --- packages and services ----------------------------------------------------------------------------------


def packages(expected: Expected, facts: Facts) -> str:
    """Each package that is named for the node is installed completely (dpkg(1), package states)."""
    states = {name: facts.packages.get(name, "") for name in expected.packages}
    wrong = [
        f"{name} is {'not known to dpkg' if not state else f'not installed, but {state}'}"
        for name, state in states.items()
        if state != "installed"
    ]
    return wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "") if wrong else ""


def services(expected: Expected, facts: Facts) -> str:
    """The system has started, and no unit of the cluster failed, is masked or missing.

    The first-boot unit fails when one of its scripts does, which is the result of another check. Other units
    may fail, such as one whose hardware is missing in emulation: they are a remark, not a failure.
    """
    if facts.system not in ("running", "degraded"):
        waiting = f": it waits for {printable(', '.join(facts.jobs))}" if facts.jobs else ""
        return f"the system is {printable(facts.system) or 'unknown'}{waiting}"
    found = {unit.id: unit for unit in facts.units}
    for name in expected.units:
        unit = found.get(name)
        if unit is None or unit.load != "loaded":
            return f"{name} is {printable(unit.load) if unit else 'unknown'}"
        if name == _FIRSTBOOT_UNIT:
            continue
        if unit.active == "failed" or name in facts.failed:
            return f"{name} failed: {printable(unit.result)}"
        if unit.active not in ("active", "inactive"):
            return f"{name} is {printable(unit.active)}"
        if name in expected.enabled and unit.enabled != "enabled":
            return f"{name} is not enabled, but {printable(unit.enabled)}"
    return ""


def other_failures(expected: Expected, facts: Facts) -> str:
    """Failed units that are not the cluster's."""
    others = [name for name in facts.failed if name not in expected.units]
    return f"other units failed: {printable(', '.join(others))}" if others else ""
