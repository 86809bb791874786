"""piimg in a cluster folder, as a user without any rights."""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PIIMG = Path(sys.executable).with_name("piimg")


NOBODY = 65534


PASSPHRASE = "battery staple correct"


PASSWORD = "Tr0ub4dor&3 indeed"


WIFI = {"PIIMG_SECRET_WIFI_PSK": PASSPHRASE}


@functools.cache
def dropping() -> tuple[str, ...]:
    """The command in front of piimg that takes root's rights and the network away (none for a user)."""
    if os.geteuid() != 0:
        return ()
    away = ("unshare", "--net", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    nobody = (*away, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    # In a folder that only root may enter, nobody could not start piimg: then root without any capability.
    reachable = (
        subprocess.run([*nobody, PIIMG, "--version"], capture_output=True, check=False).returncode == 0
    )
    return nobody if reachable else (*away, "--")


Done = subprocess.CompletedProcess[str]


def piimg(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Done:
    """Run piimg in ``folder`` with nothing inherited."""
    return subprocess.run(
        [*dropping(), PIIMG, *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


SECRETS = {"wifi_psk": PASSPHRASE, "user_password": PASSWORD, "token": "the token itself"}


GIVEN = {f"PIIMG_SECRET_{name.upper()}": value for name, value in SECRETS.items()}


def planned(folder: Path, *words: str, env: Mapping[str, str] = GIVEN) -> str:
    done = piimg(folder, "plan", *words, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr  # one line: no key of the user's
    return done.stdout


def refused(done: Done) -> str:
    """What a refused command said: exit 2, nothing on standard output, no traceback."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("piimg: ")
    assert "Traceback" not in done.stderr
    return done.stderr
