"""Where the files that come with piimg lie: inside the installed package, or at the top of a checkout."""

from pathlib import Path


def shipped(name: str) -> Path:
    """The folder ``name`` ("overlays", "manifests") that comes with piimg."""
    package = Path(__file__).resolve().parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
