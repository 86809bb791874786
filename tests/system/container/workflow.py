"""The workflow that builds images, read from its file and done as a runner does it: its steps word for word.

What stands in the place of an action of GitHub's is below; a step with an action that is not known here, or
with an expression that has no value, fails.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import TOP
from tests.system.container.engine import Engine

FILE = TOP / ".github/workflows/images.yml"
_READ = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


def read() -> dict[str, Any]:
    """The workflow. PyYAML is Debian's: in piimg's own environment there is none."""
    words = ["/usr/bin/python3", "-c", _READ]
    done = subprocess.run(words, input=FILE.read_bytes(), capture_output=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@dataclass(frozen=True)
class Runner:
    """What a job runs in: the checkout, what the expressions of the workflow stand for, and the caches."""

    engine: Engine
    checkout: Path
    given: Mapping[str, str]
    kept: Path

    def value(self, text: str) -> str:
        return _EXPRESSION.sub(lambda match: self.given[match[1]], text)

    def job(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Do the steps of a job. The first that fails ends it; else the last one's outcome is given."""
        workflow = read()
        job = workflow["jobs"][name]
        env = {**workflow["env"], **job.get("env", {})}
        afterwards: list[tuple[Path, Path]] = []
        done = None
        for step in job["steps"]:
            if "uses" in step:
                afterwards += self._action(step["uses"], step.get("with", {}))
                continue
            done = self._shell(step["run"], {**env, **step.get("env", {})})
            if done.returncode:
                return done
        for source, target in afterwards:
            shutil.copytree(source, target)
        assert done is not None
        return done

    def _shell(self, script: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        assert not _EXPRESSION.search(script), "what differs from job to job comes in by the environment"
        values = {name: self.value(text) for name, text in env.items()}
        assert values["ENGINE"].split()[-1] == "podman"
        values |= {"ENGINE": str(self.engine.script), "GITHUB_OUTPUT": str(self.output)}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.checkout,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": str(self.checkout.parent),
                **values,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def output(self) -> Path:
        """What a step tells other jobs."""
        return self.checkout.parent / "output"

    def _action(self, uses: str, given: Mapping[str, Any]) -> list[tuple[Path, Path]]:
        """Do what an action does; what is to be copied from where to where when the job has ended well."""
        name, _, commit = uses.partition("@")
        assert re.fullmatch("[0-9a-f]{40}", commit), f"{uses} is not pinned"
        match name:
            case "actions/checkout":
                return []
            case "actions/cache":
                path, kept = self.checkout / given["path"], self.kept / self.value(given["key"])
                if not kept.exists():
                    return [(path, kept)]
                shutil.copytree(kept, path)
                return []
            case "actions/upload-artifact":
                for line in self.value(given["path"]).splitlines():
                    assert (self.checkout / line).is_file(), f"nothing to keep: {line}"
                return []
            case _:
                raise AssertionError(f"what {name} does is not known here")
