"""Paths of the files shipped with piimg: inside the installed package, or at the top of a checkout."""

from pathlib import Path


def shipped(name: str) -> Path:
    """The shipped folder ``name`` ("overlays", "manifests")."""
    package = Path(__file__).resolve().parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
