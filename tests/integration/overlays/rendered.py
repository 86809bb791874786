"""The example cluster, rendered for a release, as the tests of the shipped layers see it."""

import dataclasses
import functools
import io
import subprocess
import tarfile
from pathlib import Path

from imagebuilder import manifest, plan, resources
from imagebuilder.keys import derive, ssh
from imagebuilder.model import Cluster, Credentials, Entry, KeyPair, Kind, NodePlan, Partition, Release
from imagebuilder.overlay import layer

SSID = "HomeNetwork"
PASSPHRASE = "correct horse battery"


@functools.cache
def cluster() -> Cluster:
    """The shipped example manifest."""
    return manifest.load(resources.shipped("manifests") / "picluster.toml")


def with_wifi(ssid: str) -> Cluster:
    """The example cluster on a Wi-Fi network of another name."""
    nodes = tuple(
        dataclasses.replace(node, wifi=dataclasses.replace(node.wifi, ssid=ssid)) if node.wifi else node
        for node in cluster().nodes
    )
    return dataclasses.replace(cluster(), nodes=nodes)


@functools.cache
def someone() -> KeyPair:
    """The key of the person whose cluster it is."""
    return ssh.make("someone")


@functools.cache
def credentials() -> Credentials:
    """Keys and secrets for the example cluster, made anew for each run of the tests."""
    return Credentials(
        host_keys={node.name: ssh.make(node.name) for node in cluster().nodes},
        gateway_key=ssh.make("gateway"),
        authorized_keys=(someone().public,),
        password_hash="*",
        wifi_psks={"master": derive.wifi_psk(SSID, PASSPHRASE)},
        secrets={"wifi_psk": PASSPHRASE},
    )


def node_plan(
    name: str, release: Release, given: Cluster | None = None, secret: Credentials | None = None
) -> NodePlan:
    """What the shipped layers give a node of the example cluster."""
    found = given or cluster()
    overlays = layer.Overlays(resources.shipped("overlays"))
    return plan.plan_node(found, found.node(name), release, secret or credentials(), overlays)


def files(planned: NodePlan, partition: Partition = Partition.ROOT) -> dict[str, Entry]:
    """The files of a plan by their path."""
    return {
        entry.path: entry
        for entry in planned.entries
        if entry.kind is Kind.FILE and entry.partition is partition
    }


def tar(planned: NodePlan) -> bytes:
    """The folders, files and links of a plan's root partition as a tar archive, with modes and owners."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry in planned.entries:
            if entry.partition is not Partition.ROOT:
                continue
            info = tarfile.TarInfo(entry.path.lstrip("/"))
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            if entry.kind is Kind.FILE:
                info.size = len(entry.content)
                archive.addfile(info, io.BytesIO(entry.content))
            elif entry.kind is Kind.LINK:
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
                archive.addfile(info)
            elif entry.kind is Kind.DIRECTORY:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
    return stream.getvalue()


def unpack(planned: NodePlan, folder: Path) -> None:
    """Lay a plan's root partition out below ``folder``."""
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-C", folder], input=tar(planned), check=True)
