"""The Containerfile and the workflow by their words; what they do is shown in tests/system/container."""

import json
import re
import subprocess
from typing import Any

from imagebuilder.requirements.uses import USES
from tests.support.checkout import TOP
from tests.support.cluster import command
from tests.system.container.workflow import read

EXPRESSION = re.compile(r"\$\{\{")


def steps() -> list[dict[str, Any]]:
    return [step for job in read()["jobs"].values() for step in job["steps"]]


def test_the_container_has_what_the_doctor_wants_for_building() -> None:
    text = (TOP / "Containerfile").read_text()
    named = set(text.rpartition("\nFROM $BASE\n")[2].split())
    wanted = {package for root in (True, False) for package in USES["build"].all_packages(root)}
    assert wanted <= named and len(wanted) > 5


def test_the_base_is_named_by_digest_and_nobody_is_root() -> None:
    text = (TOP / "Containerfile").read_text()
    assert re.search(r"^ARG BASE=docker\.io/library/debian:bookworm-slim@sha256:[0-9a-f]{64}$", text, re.M)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["$BASE", "$BASE"]
    assert re.findall(r"^USER (\S+)", text, re.M) == ["piimg"]


def test_docker_leaves_out_what_podman_leaves_out() -> None:
    assert (TOP / ".dockerignore").read_text() == (TOP / ".containerignore").read_text()


def test_actions_are_pinned_and_the_token_can_only_read() -> None:
    assert read()["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in steps() if "uses" in step]
    assert len(used) > 3
    assert [one for one in used if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one)] == []
    kept = [step["with"]["persist-credentials"] for step in steps() if "checkout" in step.get("uses", "")]
    assert kept == [False, False]


def test_no_expression_is_put_into_a_shell_script() -> None:
    """A name from the manifest, or a secret, would be run there as part of it."""
    scripts = [step["run"] for step in steps() if "run" in step]
    assert len(scripts) > 5 and not any(map(EXPRESSION.search, scripts))
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)
        words = ["shellcheck", "--shell=bash", "--exclude=SC2086", "-"]  # $ENGINE is several words
        done = subprocess.run(words, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_what_a_job_asks_of_the_matrix_is_in_it() -> None:
    asked = set(re.findall(r"matrix\.([a-z]+) \}\}", json.dumps(read()["jobs"]["build"])))
    words = command("--manifest", TOP / "manifests/picluster.toml", "plan", "--matrix")
    jobs = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["include"]
    assert {"node", "cache"} <= asked and all(asked <= job.keys() for job in jobs)
