"""Layers written by a test, and what they give a node of the example cluster."""

import atexit
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.model import Credentials, Entry, KeyPair, Release
from imagebuilder.overlay import layer
from imagebuilder.overlay.merge import merge
from imagebuilder.overlay.rendering import Rendering, TemplateRenderer
from tests.integration.overlays.rendered import cluster

PASSPHRASE = "correct horse battery"
HOST_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nthe host key itself\n"

CREDENTIALS = Credentials(
    host_keys={
        node.name: KeyPair(HOST_KEY, f"ssh-ed25519 AAAA root@{node.name}") for node in cluster().nodes
    },
    gateway_key=KeyPair("the gateway key itself", "ssh-ed25519 BBBB gateway"),
    authorized_keys=("ssh-ed25519 CCCC me",),
    password_hash="$6$salt$hash",
    wifi_psks={"master": "ab" * 32},
    secrets={"wifi_psk": PASSPHRASE},
)


@functools.cache
def rendering() -> Rendering:
    """One process for all tests; it ends with them."""
    made = Rendering()
    atexit.register(made.__exit__, None, None, None)
    return made


def renderer(node: str = "master", account: str = "pi") -> TemplateRenderer:
    found = dataclasses.replace(cluster(), user=dataclasses.replace(cluster().user, name=account))
    return TemplateRenderer(rendering(), found, found.node(node), Release.TRIXIE, CREDENTIALS)


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A layer's folder with ``files``; a name ending in / makes a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def merged(*folders: Path, node: str = "master", account: str = "pi") -> tuple[Entry, ...]:
    """The entries of layers, each called as its folder."""
    return merge([layer.read(folder.name, folder) for folder in folders], renderer(node, account))


def entries(folder: Path, files: Mapping[str, str | bytes], node: str = "master") -> dict[str, Entry]:
    """The entries of one layer by partition and path: ``root/etc/hosts``."""
    return by_path(merged(write(folder, files), node=node))


def by_path(found: tuple[Entry, ...]) -> dict[str, Entry]:
    return {f"{entry.partition.value}{entry.path}": entry for entry in found}


def refused(folder: Path, files: Mapping[str, str | bytes]) -> str:
    """The one line a layer is refused with; it names the layer's folder."""
    with pytest.raises(UsageError) as error:
        entries(folder, files)
    return reported(error.value, folder)


def reported(error: UsageError, folder: Path) -> str:
    assert error.message.isprintable(), error.message
    assert str(folder) in error.message
    assert error.hint or ":" in error.message
    return error.message.replace(f"{folder}/", "")
