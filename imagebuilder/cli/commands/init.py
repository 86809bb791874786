"""`piimg init`: create a cluster folder that can be planned, built and flashed unchanged."""

import os
import secrets
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.cli.new_cluster import SECRET, Chosen, Given, choose
from imagebuilder.cli.output import at_terminal, echo
from imagebuilder.cli.ready_layers import ready_layers
from imagebuilder.cli.ready_manifest import ROLES, ReadyLayer, read_ready, section
from imagebuilder.cli.secret_file import keep_secret
from imagebuilder.cli.secrets import variable
from imagebuilder.errors import UsageError
from imagebuilder.resources import shipped
from imagebuilder.starter import manifest_text
from imagebuilder.system import files
from imagebuilder.text import did_you_mean
from imagebuilder.workspace import Workspace


def init(
    folder: Path,
    workers: int | None,
    master_board: str | None,
    worker_board: str | None,
    timezone: str | None,
    locale: str | None,
    keyboard: str | None,
    network: str | None,
    user: str | None,
    ssh_keys: tuple[Path, ...],
    wifi: str | None,
    country: str | None,
    passphrase_file: str | None,
    wired: str | None,
    layers: tuple[str, ...],
    yes: bool,
) -> None:
    """Run ``piimg init``, called as ``usage/init.py`` says."""
    ready = _ready(layers)
    given = Given(
        workers=workers,
        master_board=master_board,
        worker_board=worker_board,
        timezone=timezone,
        locale=locale,
        keyboard=keyboard,
        network=network,
        user=user,
        ssh_keys=ssh_keys,
        wifi=wifi,
        country=country,
        passphrase_file=passphrase_file,
        wired=wired,
        ask=not yes and at_terminal(),
    )
    try:
        _refuse_used(folder)
        if given.ask:
            echo(
                f"A new cluster in {folder}. Enter takes what is in brackets; nothing is written yet.",
                err=True,
            )
        target = folder.resolve()
        chosen = choose(target, given)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch(target) as made:
            _lay_out(made, chosen, ready)
            made.chmod(0o755)
            _publish(made, target)
    except shutil.Error as error:  # copytree's: a list of (source, target, reason)
        raise UsageError(f"cannot create {folder}: {error.args[0][0][2]}", "name another folder") from error
    except OSError as error:
        raise UsageError(f"cannot create {folder}: {error.strerror}", "name another folder") from error
    echo(f"{folder}/cluster.toml   the cluster, complete; change what you like")
    echo(f"{folder}/secrets.toml   secrets, for your eyes only")
    echo(f"{folder}/overlays/      files and scripts of your own")
    missing = [name for each in ready for name in each.to_fill_in]
    if missing:
        echo(f"\nTo be filled in, in cluster.toml: {', '.join(missing)} (docs/recipes.md)")
    then = "Then" if missing else "\nNext"
    wifi_of = chosen.starter.wifi
    named = wifi_of is not None and wifi_of.passphrase is not None
    if named and not chosen.passphrase and not os.environ.get(variable(SECRET)):
        echo(f"{then}: cd {shlex.quote(str(folder))} && piimg secrets set {SECRET} && piimg plan")
    else:
        echo(f"{then}: cd {shlex.quote(str(folder))} && piimg plan")


def _refuse_used(folder: Path) -> None:
    """Raise UsageError when there is something in ``folder``: before any question."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "name a new folder")


def _publish(made: Path, target: Path) -> None:
    """Give the finished folder its name, or its content to an empty folder that is there, manifest last."""
    if target.exists():
        _refuse_used(target)  # again: somebody may have put something there meanwhile
        for path in sorted(made.iterdir(), key=lambda path: path.name == "cluster.toml"):
            path.rename(target / path.name)
    else:
        made.rename(target)


def _ready(given: Sequence[str]) -> list[ReadyLayer]:
    """The ready layers of lists with commas. Raises UsageError for a name that is none."""
    known = ready_layers()
    names = dict.fromkeys(name.strip() for text in given for name in text.split(","))
    for name in names:
        if name not in known:
            text = f"no ready layer is named {name or repr(name)}{did_you_mean(name, known)}"
            raise UsageError(text, f"ready layers: {', '.join(known)}")
    return [read_ready(name) for name in names]


def _lay_out(folder: Path, chosen: Chosen, ready: Sequence[ReadyLayer]) -> None:
    starter = shipped("manifests") / "new"
    shutil.copytree(starter / "overlays", folder / "overlays")
    files.write(folder / ".gitignore", (starter / "gitignore").read_bytes())
    made = "".join(f'{secret} = "{secrets.token_hex(16)}"\n' for each in ready for secret in each.secrets)
    text = (starter / "secrets.toml").read_text("utf-8") + made
    files.write(folder / "secrets.toml", text.encode(), 0o600)
    if chosen.passphrase:
        keep_secret(folder / "secrets.toml", SECRET, chosen.passphrase)
    manifest = folder / "cluster.toml"
    roles = ROLES if chosen.starter.workers else ROLES[:1]
    files.write(manifest, manifest_text(chosen.starter, section(ready, roles)).encode())
    try:
        Workspace(manifest).check(Path("cluster.toml"))  # before the folder gets its name
    except UsageError as error:
        text = f"these values make no valid cluster: {error.message}"
        raise UsageError(text, "change the options") from None
