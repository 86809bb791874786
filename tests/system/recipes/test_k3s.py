"""The layer k3s, booted on two nodes with a program in place of k3s, fetched like k3s (k3s_stand_in.py).

It shows that the program and images come from their URLs, that server and agents are started as k3s is, find
each other by address and token without the internet, and what the layer's own check finds. It does not show
that k3s itself runs.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import releases
from tests.support import mirror
from tests.system.recipes.booting import booted, make_cluster, said

pytestmark = [pytest.mark.recipes, pytest.mark.timeout(1800)]

STAND_IN = Path(__file__).with_name("k3s_stand_in.py")
VERSION = "v1.31.4+k3s1"
TOKEN = "nobodyguesses"
IMAGES = "the images"
VARS = """[vars]
k3s_token = {{ secret = "k3s_token" }}
k3s_version = "{version}"
k3s_url = "{url}"
k3s_sha256 = "{program}"
k3s_images_sha256 = "{images}"
"""
RELEASES = [release for release in releases() if release != "bullseye"]  # whose base has no Python


@pytest.mark.parametrize("release", RELEASES)
def test_agents_join_the_server(release: str, tmp_path: Path) -> None:
    place, base = make_cluster(tmp_path, release)
    place = dataclasses.replace(place, secrets={**place.secrets, "k3s_token": TOKEN})
    files = {"k3s-arm64": STAND_IN.read_bytes(), "k3s-airgap-images-arm64.tar.zst": IMAGES.encode()}
    shelf = tmp_path / "served" / VERSION
    shelf.mkdir(parents=True)
    digests = []
    for name, content in files.items():
        (shelf / name).write_bytes(content)
        digests.append(hashlib.sha256(content).hexdigest())
    with mirror.served(shelf.parent) as url:
        variables = VARS.format(version=VERSION, url=url, program=digests[0], images=digests[1])
        place.edit(r"^\[gateway\]", f"{variables}\n[gateway]")
        place.edit(r"^(base = .*)$", r'\1\nlayers = ["k3s"]')
        with booted(place, base, release, ["master", "worker1"]) as nodes:
            server, agent = nodes["master"], nodes["worker1"]
            for one, address in ((server, "10.0.0.1"), (agent, "10.0.0.11")):
                found = json.loads(said(one, "sudo cat /run/k3s-stand-in.json"))
                assert found["token"] == ["0o600", 0, 0]
                assert found["images"] == {"k3s-airgap-images-arm64.tar.zst": IMAGES}
                assert found["interface"] and found["address"]
                words = found["words"]
                assert words[words.index("--node-ip") + 1] == address
                assert not any(TOKEN in value for value in found["environment"].values())
                assert TOKEN not in said(
                    one, "ps -eo args; sudo journalctl --no-pager; cat /var/log/piimg/firstboot.log"
                )
                assert said(one, "cat /proc/swaps").count("\n") == 1
            assert said(server, "sudo kubectl get nodes").split("\n") == ["master", "worker1 10.0.0.11", ""]
            assert "the server is ready" in said(server, "cat /var/log/piimg/firstboot.log")
            assert "joined the server" in said(agent, "cat /var/log/piimg/firstboot.log")
            assert (
                said(server, "systemctl is-active k3s")
                == said(agent, "systemctl is-active k3s-agent")
                == "active\n"
            )
