"""The container with each set of rights that docs/containers.md names, and with less."""

import json
from pathlib import Path

import pytest

from tests.system.container.conftest import CANARY, NODES, OWNER, SECRET, Cluster, digests
from tests.system.container.engine import BASE, Engine

pytestmark = [pytest.mark.timeout(1200), pytest.mark.container]

PRIVILEGED = ("--user=0", "--privileged")
BY_FUSE = ("--device=/dev/fuse", "--cap-add=SYS_ADMIN")
UNCONFINED = "--security-opt=apparmor=unconfined"  # podman's own profile denies every mount
FIRST = 200000  # where the container's user numbers begin on the host, in a user namespace
NAMESPACE = (f"--uidmap=0:{FIRST}:65536", f"--gidmap=0:{FIRST}:65536")
BUILD = ("build", *(word for node in NODES for word in ("--node", node)), "--output", "build")

RIGHTS = {
    "root, privileged": (PRIVILEGED, OWNER),
    "an ordinary user": ((*BY_FUSE, UNCONFINED, f"--user={OWNER}:{OWNER}"), OWNER),
    "a user number without a name": ((*BY_FUSE, UNCONFINED, "--passwd=false", "--user=4242:4242"), 4242),
    "an ordinary user in a user namespace": ((*NAMESPACE, *BY_FUSE, UNCONFINED), FIRST + 1000),
}
"""Options of podman, and whose the cluster folder is on the host."""


def there(copy: Path) -> tuple[str, ...]:
    """The options that bring a checkout, its cache and the secrets into a container."""
    volumes = (f"--volume={copy}:/work", f"--volume={copy.parent}/cache:/cache")
    return ("--rm", *volumes, *(f"--env={name}={value}" for name, value in SECRET.items()))


@pytest.mark.parametrize("who", RIGHTS)
def test_the_tree_is_the_same_as_on_the_host(
    who: str, engine: Engine, container: str, cluster: Cluster, tmp_path: Path
) -> None:
    """Nothing is left mounted or attached, and what is made belongs to whose folder it is."""
    rights, owner = RIGHTS[who]
    copy = cluster.copy_with_keys(tmp_path / "checkout", owner)
    script = f"container-entry {' '.join(BUILD)} >/dev/null && container-entry doctor build --json"
    printed = engine.good("run", *there(copy), *rights, "--entrypoint=sh", container, "-c", script)
    document = json.loads(printed)
    assert document["ready"], document
    assert digests(copy / "build") == cluster.digests
    assert {file.stat().st_uid for file in (copy / "build").iterdir()} == {owner}
    assert {(copy / "build" / f"{node}.img").stat().st_mode & 0o777 for node in NODES} == {0o600}


def test_by_itself_it_is_no_root_and_may_plan(
    engine: Engine, container: str, cluster: Cluster, tmp_path: Path
) -> None:
    copy = cluster.copy_with_keys(tmp_path / "checkout")
    script = "id --user && piimg plan --matrix"
    words = (
        "--rm",
        "--network=none",
        f"--volume={copy}:/work:ro",
        "--entrypoint=sh",
        container,
        "-c",
        script,
    )
    who, matrix = engine.good("run", *words).splitlines()
    assert who == "1000" and len(json.loads(matrix)["include"]) == 6
    assert engine.good("run", "--rm", container).startswith("Usage: piimg ")


def test_what_it_lacks_without_rights_is_said(
    engine: Engine, container: str, cluster: Cluster, tmp_path: Path
) -> None:
    """By the doctor, with the options that fix it, and by the build, in one line."""
    copy = cluster.copy_with_keys(tmp_path / "checkout")
    done = engine.run("run", *there(copy), container, "doctor", "build", "--json")
    missing = {load["what"]: load["fix"] for load in json.loads(done.stdout)["uses"][0]["missing"]}
    assert done.returncode == 1
    assert all(option in missing["/dev/fuse is missing"] for option in BY_FUSE)
    done = engine.run("run", *there(copy), "--device=/dev/fuse", container, "doctor", "build", "--json")
    assert BY_FUSE[1] in done.stdout and "this container may not mount file systems" in done.stdout
    done = engine.run("run", *there(copy), "--user=0", container, *BUILD)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no loop device" in done.stderr and "--privileged" in done.stderr


def test_it_holds_no_more_than_it_needs(engine: Engine, container: str) -> None:
    """No compiler, no tools of developers, no sources, no secrets; and it is small."""
    look = "for one in gcc pip pytest mypy; do command -v $one; done; ls -d /piimg; "
    look += f"grep -rl {CANARY} /usr/local /work /cache /home"
    done = engine.run("run", "--rm", "--entrypoint=sh", "--user=0", container, "-c", look)
    assert done.stdout == ""
    size = int(engine.good("image", "inspect", "--format={{.Size}}", container))
    bare = int(engine.good("image", "inspect", "--format={{.Size}}", BASE))
    assert size - bare < 200 << 20
