"""`piimg init`: what it lays out, and where it refuses to."""

import re
import stat
from pathlib import Path

from tests.unit.plan.running import piimg, refused


def test_init_lays_out_a_folder_that_plans(home: Path) -> None:
    done = piimg(home, "init", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.split("\n"))) <= 80
    secrets = home / "mine/secrets.toml"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "secrets.toml" in (home / "mine/.gitignore").read_text().split("\n")
    assert "state/" in (home / "mine/.gitignore").read_text().split("\n")
    named = [line for line in (home / "mine/cluster.toml").read_text().split("\n") if 'name = "mine"' in line]
    assert len(named) == 1
    plan = piimg(home / "mine", "plan", "--full")
    assert plan.returncode == 0, plan.stderr
    assert [line for line in plan.stdout.split("\n") if line and not line.startswith(" ")] == [
        "master: master, Raspberry Pi 4 Model B, 10.0.0.1, trixie",
        *(f"worker{n}: worker, Raspberry Pi 3 Model B+, 10.0.0.1{n}, trixie" for n in range(1, 6)),
        "layers",
    ]
    assert re.search(r"base \(own\) +root/etc/motd", plan.stdout)
    assert "the secret wifi_psk still has the value that piimg init gave it" in plan.stderr
    assert not (home / "mine/state").exists()


def test_init_in_a_folder_that_is_there(home: Path) -> None:
    (home / "empty").mkdir(mode=0o777)
    (home / "empty").chmod(0o777)
    assert piimg(home, "init", "empty").returncode == 0
    before = sorted((home / "empty").rglob("*"))
    assert refused(piimg(home, "init", "empty")).startswith("piimg: empty is not empty")
    assert sorted((home / "empty").rglob("*")) == before
    (home / "file").write_text("mine")
    assert piimg(home, "init", "file").returncode == 2
    assert (home / "file").read_text() == "mine"
    (home / "closed").mkdir(mode=0)
    said = refused(piimg(home, "init", "closed/new"))
    assert said.startswith("piimg: cannot create closed/new: Permission denied")


def test_a_name_no_host_can_have(home: Path) -> None:
    assert piimg(home, "init", "My Cluster").returncode == 0
    assert 'name = "picluster"' in (home / "My Cluster/cluster.toml").read_text()
