"""A cluster folder for the tests, and piimg run in it as a user would run it."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from imagebuilder.cli.main import piimg
from imagebuilder.keys import ssh
from imagebuilder.keys.credentials import make_credentials
from imagebuilder.model import Credentials, Entry, Release
from imagebuilder.plan import plan_node
from imagebuilder.workspace import Workspace

PASSPHRASE = "correct horse battery"
PASSWORD = "Tr0ub4dor&3"
SECRETS = {"wifi_psk": PASSPHRASE, "user_password": PASSWORD}


@dataclass(frozen=True)
class Place:
    """A cluster folder, and the environment piimg runs in there."""

    folder: Path
    cache: Path
    secrets: Mapping[str, str] = field(default_factory=lambda: SECRETS)

    @property
    def manifest(self) -> Path:
        return self.folder / "cluster.toml"

    @property
    def build(self) -> Path:
        return self.folder / "build"

    @property
    def workspace(self) -> Workspace:
        """The cluster folder as it is now: the manifest is read anew."""
        return Workspace(self.manifest)

    @property
    def env(self) -> dict[str, str]:
        others = ("PIIMG_", "SUDO_")  # under sudo, keys are looked for in that user's home, not in HOME
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(others)},
            "PIIMG_CACHE": str(self.cache),
            **{f"PIIMG_SECRET_{name.upper()}": value for name, value in self.secrets.items()},
            "HOME": str(self.folder.parent),
        }

    def run(
        self, *words: str | Path, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run piimg to its end."""
        return subprocess.run(
            command(*words),
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def good(self, *words: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run piimg, which must succeed; give its standard output."""
        done = self.run(*words, env=env)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, status: int, *words: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run piimg, which must fail with ``status`` and say why without a traceback; give what it said."""
        done = self.run(*words, env=env)
        assert done.returncode == status, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert "piimg: " in done.stderr, done.stderr
        return done.stderr

    def start(self, *words: str | Path) -> "subprocess.Popen[bytes]":
        """Start piimg and do not wait for it."""
        return subprocess.Popen(
            command(*words),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def credentials(self) -> Credentials:
        """What the nodes get with the secrets and the home folder of ``env``; keys are made where missing."""
        own_keys = ssh.public_keys(Path(self.env["HOME"]) / ".ssh")
        return make_credentials(self.workspace.cluster, self.workspace.keys(), self.secrets, own_keys)

    def entries(self, node: str, release: str) -> tuple[Entry, ...]:
        """What the plan gives a node."""
        cluster, overlays = self.workspace.cluster, self.workspace.overlays
        return plan_node(cluster, cluster.node(node), Release(release), self.credentials(), overlays).entries

    def edit(self, pattern: str, replacement: str) -> None:
        """Change the manifest; the pattern must match."""
        text, count = re.subn(pattern, replacement, self.manifest.read_text(), flags=re.MULTILINE)
        assert count, pattern
        self.manifest.write_text(text)


def command(*words: str | Path) -> list[str]:
    """The command line of piimg, by the interpreter that runs the tests."""
    code = "from imagebuilder.cli.main import main; main()"
    return [sys.executable, "-c", code, *(str(word) for word in words)]


EXAMPLE = (
    *("--wifi", "HomeNetwork", "--country", "GB", "--wifi-passphrase-file", "-"),
    *("--timezone", "Europe/London", "--locale", "en_GB.UTF-8", "--keyboard", "gb"),
    *("--network", "10.0.0.0/24"),
)
"""Options of `piimg init` for the cluster of manifests/picluster.toml; the passphrase is standard input."""

EXAMPLE_PASSPHRASE = "change-me-please"


def make_place(folder: Path, cache: Path) -> Place:
    """A new cluster folder, laid out by piimg itself."""
    place = Place(folder / "mycluster", cache)
    # No keys of the user who runs the tests; in this process, as nearly every test of a build needs a folder.
    runner = CliRunner(env={"HOME": str(folder)})
    done = runner.invoke(piimg, ["init", str(place.folder), *EXAMPLE], EXAMPLE_PASSPHRASE)
    assert done.exit_code == 0, done.output
    return place
