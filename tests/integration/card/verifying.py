"""For the tests of `piimg verify`: a real node image with one of everything, flashed, and booted."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.device.discovery import Disk, disk_at
from imagebuilder.system import loop
from imagebuilder.system.files import copy_sparse
from tests.integration.card import first_boot
from tests.integration.card.test_commands import Ended, piimg
from tests.integration.cli.test_events import REPORT
from tests.support.cluster import Place, make_place

SIZE = 2 * 10**9
LAYER = """
may_be_missing = ["root/etc/absent.conf"]
remove = ["root/etc/rpi-issue"]
[files."root/etc/spare"]
mode = "0750"
[links]
"root/etc/long" = "/usr/share/{0}/{0}/target"
[[lines]]
path = "root/etc/hosts"
lines = ["10.0.0.99 printer"]
[[lines]]
path = "root/etc/absent.conf"
lines = ["nobody has it"]
[[lines]]
path = "boot/config.txt"
lines = ["# a key of the radio {{{{ secrets.wifi_psk }}}}", "dtparam=audio=off"]
[[words]]
path = "boot/cmdline.txt"
words = ["cgroup_enable=memory", "quiet"]
remove = ["console=tty1"]
""".format("a" * 40)


@dataclass(frozen=True)
class Built:
    """A cluster folder in which ``worker1`` is built, and two cards of it, as files: flashed, and booted."""

    place: Place
    flashed: Path
    booted: Path

    @property
    def image(self) -> Path:
        return self.place.build / "worker1.img"


@contextmanager
def as_card(file: Path) -> Iterator[Disk]:
    """The card whose bytes are in ``file``."""
    with loop.attached(file, direct_io=True) as device:
        yield disk_at(device)


def build(folder: Path, base: Path, account: str = "ops") -> Built:
    """Build, flash and boot worker1, with a layer of one's own that has one of everything."""
    place = make_place(folder, folder / "cache")
    place.edit(r"^name = \"pi\"", f'name = "{account}"')
    own = place.folder / "overlays" / "node-worker1"
    (own / "root/etc/spare").mkdir(parents=True)
    (own / "boot/extra[2]").mkdir(parents=True)
    (own / "boot/extra[2]/quirk[1].txt").write_text("a name that mtools takes for a pattern\n")
    (own / 'root/etc/a "quoted" name').write_text("quotes\n")
    (own / "root/var/lib/systemd/rfkill").mkdir(parents=True)
    (own / "root/var/lib/systemd/rfkill/platform-3f300000.mmcnr:wlan").write_text("0\n")
    (own / "layer.toml").write_text(LAYER)
    place.good("build", "--node", "worker1", "--base", base)
    flashed, booted = folder / "flashed", folder / "booted"
    flashed.touch()
    os.truncate(flashed, SIZE)
    with as_card(flashed) as card:
        done = piimg(place.folder, "flash", card.node, "-n", "worker1", "--virtual", "-y")
        assert done.returncode == 0, done.stderr
    copy_sparse(flashed, booted)
    (folder / "point").mkdir()
    first_boot.boot(booted, folder / "point", account)
    return Built(place, flashed, booted)


def copied(card: Path, folder: Path) -> Path:
    copy_sparse(card, folder / "card")
    return folder / "card"


def verify(worker: Built, card: Path, *arguments: object) -> Ended:
    """What piimg says of the card; a traceback or a secret is never part of it."""
    with as_card(card) as disk:
        done = piimg(worker.place.folder, "verify", disk.node, *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    for secret in ("OPENSSH", "correct horse", "$6$"):
        assert secret not in done.stdout + done.stderr
    return done


def reported(worker: Built, card: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The exit code, and the document of --json, which is by the schema."""
    done = verify(worker, card, "--json", *arguments)
    document: dict[str, Any] = json.loads(done.stdout)
    REPORT.validate(document)
    return done.returncode, document
