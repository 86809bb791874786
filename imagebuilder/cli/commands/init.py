"""`piimg init`: create a cluster folder that can be planned, built and flashed unchanged."""

import os
import shlex
import shutil
from pathlib import Path

from imagebuilder.cli.new_cluster import SECRET, Chosen, Given, at_terminal, choose
from imagebuilder.cli.output import echo
from imagebuilder.cli.secret_file import keep_secret
from imagebuilder.cli.secrets import variable
from imagebuilder.errors import UsageError
from imagebuilder.resources import shipped
from imagebuilder.starter import manifest_text
from imagebuilder.system import files
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
    yes: bool,
) -> None:
    """Run ``piimg init``, called as ``usage/init.py`` says."""
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
        chosen = choose(folder.resolve(), given)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch(folder) as made:
            _lay_out(made, chosen)
            made.chmod(0o755)
            made.rename(folder)
    except shutil.Error as error:  # copytree's: a list of (source, target, reason)
        raise UsageError(f"cannot create {folder}: {error.args[0][0][2]}", "name another folder") from error
    except OSError as error:
        raise UsageError(f"cannot create {folder}: {error.strerror}", "name another folder") from error
    echo(f"{folder}/cluster.toml   the cluster, complete; change what you like")
    echo(f"{folder}/secrets.toml   secrets, for your eyes only")
    echo(f"{folder}/overlays/      files and scripts of your own")
    wifi_of = chosen.starter.wifi
    named = wifi_of is not None and wifi_of.passphrase is not None
    if named and not chosen.passphrase and not os.environ.get(variable(SECRET)):
        echo(f"\nNext: cd {shlex.quote(str(folder))} && piimg secrets set {SECRET} && piimg plan")
    else:
        echo(f"\nNext: cd {shlex.quote(str(folder))} && piimg plan")


def _refuse_used(folder: Path) -> None:
    """Raise UsageError when there is something in ``folder``: before any question."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "name a new folder")


def _lay_out(folder: Path, chosen: Chosen) -> None:
    starter = shipped("manifests") / "new"
    shutil.copytree(starter / "overlays", folder / "overlays")
    files.write(folder / ".gitignore", (starter / "gitignore").read_bytes())
    files.write(folder / "secrets.toml", (starter / "secrets.toml").read_bytes(), 0o600)
    if chosen.passphrase:
        keep_secret(folder / "secrets.toml", SECRET, chosen.passphrase)
    manifest = folder / "cluster.toml"
    files.write(manifest, manifest_text(chosen.starter).encode())
    assert Workspace(manifest).cluster.nodes, "the manifest is valid"  # before the folder gets its name
