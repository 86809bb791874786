"""A first boot, done to a card by what the scripts of Raspberry Pi OS do, on its real file systems."""

import json
import re
from pathlib import Path

from imagebuilder.system import loop
from imagebuilder.system.process import run
from tests.support.judge import disk_id, on_boot, places

NEW_ID = "1a2b3c4d"
RESULTS = {
    "cluster": "mycluster",
    "node": "worker1",
    "boots": 2,
    "booted": "2026-06-01T10:00:00Z",
    "finished": True,
    "scripts": [{"name": "05-account", "needs": "none", "status": "done", "attempts": 1, "exit_status": 0}],
}


def boot(card: Path, point: Path, account: str) -> None:
    """Boot the card in the file ``card`` for the first time; ``point`` is a folder to mount at."""
    old = disk_id(card)
    draw_disk_id(card, old)
    grow_root(card)
    on_root_partition(card, point, old, account)
    last_mounted_as_root(card)
    consume(card)
    leave_results(card)


def draw_disk_id(card: Path, old: str) -> None:
    """set_partuuid: a random disk id; cmdline.txt follows and loses what is for the first boot."""
    run(["sfdisk", "--quiet", "--disk-id", card, f"0x{NEW_ID}"])
    line = on_boot(card, "/cmdline.txt").replace(old.encode(), NEW_ID.encode())
    put_on_boot(card, "/cmdline.txt", re.sub(rb" (resize|quiet|init=\S+/firstboot)(?=\s|$)", b"", line))


def grow_root(card: Path) -> None:
    """resize_early: partition 2 to the end of the card."""
    run(["sfdisk", "--quiet", "--no-reread", "-N", "2", card], data=b", +\n")


def on_root_partition(card: Path, point: Path, old: str, account: str) -> None:
    """What happens in the running system, and to the file system it runs from."""
    where = places(card)
    with loop.attached(card, offset=where.root, size=where.root_size) as device:
        run(["e2fsck", "-f", "-p", device], ok=(0, 1))
        run(["resize2fs", device])
        run(["mount", device, point])
        try:
            fstab = point / "etc/fstab"
            fstab.write_text(fstab.read_text().replace(old, NEW_ID))
            if account != "pi":
                (point / "home/pi").rename(point / "home" / account)
            for kind in ("rsa", "ecdsa", "ed25519"):
                (point / f"etc/ssh/ssh_host_{kind}_key").write_text("the machine's own\n")
            (point / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
            (point / "var/log/piimg").mkdir(parents=True)
            (point / "var/log/piimg/firstboot.log").write_text("05-account: done\n")
            for saved in (point / "var/lib/systemd/rfkill").glob("*:wlan"):
                saved.write_text("1\n")
        finally:
            run(["umount", point])


def last_mounted_as_root(card: Path) -> None:
    """What the kernel notes in the superblock when it mounts the root."""
    where = places(card)
    with loop.attached(card, offset=where.root, size=where.root_size) as device:
        run(["tune2fs", "-M", "/", device])


def consume(card: Path) -> None:
    """sshswitch and userconfig.service delete what they have read."""
    run(["mdel", "-i", f"{card}@@{places(card).boot}", "::/ssh", "::/userconf.txt"])


def leave_results(card: Path) -> None:
    """piimg-firstboot writes its summary."""
    put_on_boot(card, "/piimg-firstboot.json", json.dumps(RESULTS).encode())


def put_on_boot(card: Path, path: str, content: bytes) -> None:
    """Write a file of the boot partition, by mcopy."""
    source = card.with_name("put")
    source.write_bytes(content)
    run(["mcopy", "-o", "-i", f"{card}@@{places(card).boot}", source, f"::{path}"])
    source.unlink()


def debugfs(card: Path, *commands: str) -> None:
    """Change the root partition, by debugfs; each command must be accepted."""
    script = card.with_name("commands")
    script.write_text("".join(f"{command}\n" for command in commands))
    done = run(["debugfs", "-w", "-f", script, f"{card}?offset={places(card).root}"])
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs 1.")]
    assert not [line for line in said if "Allocated inode" not in line], said
    script.unlink()
