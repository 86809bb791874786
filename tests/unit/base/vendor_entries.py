"""An entry as Raspberry Pi's catalogue has it, and catalogues of such entries."""

import json
from typing import Any

LITE = "Raspberry Pi OS Lite (64-bit)"


LEAF: dict[str, Any] = {
    "name": LITE,
    "description": "A port of Debian Trixie with no desktop environment",
    "url": "https://downloads.raspberrypi.com/raspios_lite_arm64/images/raspios_lite_arm64-2026-10-06/"
    "2026-10-06-raspios-trixie-arm64-lite.img.xz",
    "extract_size": 3078619136,
    "extract_sha256": "b8a393dc1c3701450b5fffbfe74368a98fb6eab7415ce456cc0cead886ea8780",
    "image_download_size": 550466056,
    "release_date": "2026-10-06",
    "init_format": "cloudinit-rpi",
    "devices": ["pi5-64bit"],
}


def document(*items: object) -> bytes:
    return json.dumps({"imager": {"latest_version": "2.0"}, "os_list": items}).encode()
