"""`piimg init`: create a cluster folder that can be planned and built unchanged."""

import re
import shlex
import shutil
from pathlib import Path

from imagebuilder.cli.output import echo
from imagebuilder.errors import UsageError
from imagebuilder.resources import shipped
from imagebuilder.system import files


def init(folder: Path) -> None:
    """Run ``piimg init``, called as ``usage/init.py`` says."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", "name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch(folder) as made:
            _lay_out(made, folder.resolve().name)
            made.chmod(0o755)
            made.rename(folder)
    except shutil.Error as error:  # copytree's: a list of (source, target, reason)
        raise UsageError(f"cannot create {folder}: {error.args[0][0][2]}", "name another folder") from error
    except OSError as error:
        raise UsageError(f"cannot create {folder}: {error.strerror}", "name another folder") from error
    echo(f"{folder}/cluster.toml   the cluster: edit this first")
    echo(f"{folder}/secrets.toml   put the Wi-Fi passphrase here")
    echo(f"{folder}/overlays/      files and scripts of your own")
    echo(f"\nNext: cd {shlex.quote(str(folder))} && piimg plan")


def _lay_out(folder: Path, name: str) -> None:
    starter = shipped("manifests")
    shutil.copytree(starter / "new" / "overlays", folder / "overlays")
    files.write(folder / ".gitignore", (starter / "new" / "gitignore").read_bytes())
    files.write(folder / "secrets.toml", (starter / "new" / "secrets.toml").read_bytes(), 0o600)
    manifest = _named((starter / "picluster.toml").read_text("utf-8"), name)
    files.write(folder / "cluster.toml", manifest.encode())


def _named(manifest: str, name: str) -> str:
    """The manifest with the folder's name as the cluster's, if that is a valid hostname."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        return manifest
    return manifest.replace("picluster", name)
