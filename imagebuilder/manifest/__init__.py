"""The cluster manifest: TOML text to a checked ``Cluster``, every error of the file in one go."""

from imagebuilder.manifest.read import load, parse

__all__ = ["load", "parse"]
