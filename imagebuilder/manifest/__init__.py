"""The cluster manifest: reads and checks a TOML file, and reports all its errors together."""

from imagebuilder.manifest.read import load, parse

__all__ = ["load", "parse"]
