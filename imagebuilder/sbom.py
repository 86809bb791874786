"""A software bill of materials (SBOM) of a node: CycloneDX 1.6, as JSON. No I/O; only here: cyclonedx.

Packages are named by package URLs (https://github.com/package-url/purl-spec, type deb), which scanners look
up. The same node gives the same text.
"""

import datetime
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from imagebuilder.software import Installed

_SPACE = uuid.UUID("8f0c1c0e-5d3a-5b6e-9a1e-3f6a2f1d7c44")  # of the serial numbers of piimg


def cyclonedx(node: Mapping[str, Any], packages: Sequence[Installed]) -> str:
    """The SBOM of a node: its base image, its ``packages``, and the downloads of its layers.

    ``node`` is the content of its NODE.json (image/results.py).
    """
    base = node["base"]
    subject = Component(
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="node",
        name=node["node"],
        group=node["cluster"],
        description=f"node image of piimg, tree digest {node['tree_digest']}",
    )
    parts = [
        Component(
            type=ComponentType.OPERATING_SYSTEM,
            bom_ref="base",
            name=base["name"],
            version=base["sha256"],
            description=base["description"],
            hashes=[_sha256(base["sha256"])],
        ),
        *_packages(packages, "raspbian" if base["description"].startswith("Raspbian") else "debian", node),
        *_downloads(node),
    ]
    piimg = Component(type=ComponentType.APPLICATION, name="piimg", version=node["piimg"])
    bom = Bom(
        components=parts,
        serial_number=uuid.uuid5(_SPACE, node["tree_digest"]),
        metadata=BomMetaData(
            component=subject,
            timestamp=datetime.datetime.fromtimestamp(node["source_date_epoch"], datetime.UTC),
            tools=ToolRepository(components=[piimg]),
        ),
    )
    bom.register_dependency(subject, parts)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _packages(packages: Sequence[Installed], vendor: str, node: Mapping[str, Any]) -> Iterator[Component]:
    for package in packages:
        qualifiers = {"arch": package.architecture, "distro": node["release"]}
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"deb:{package.name}:{package.architecture}",
            name=package.name,
            version=package.version,
            purl=PackageURL("deb", vendor, package.name, package.version, qualifiers),
        )


def _downloads(node: Mapping[str, Any]) -> Iterator[Component]:
    """One component for each file that a layer had downloaded."""
    found = {entry["download"]["sha256"]: entry["download"]["url"] for entry in _downloaded(node)}
    for sha256, url in sorted(found.items()):
        yield Component(
            type=ComponentType.FILE,
            bom_ref=f"download:{sha256}",
            name=posixpath.basename(urlsplit(url).path),
            hashes=[_sha256(sha256)],
            external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(url))],
        )


def _downloaded(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in node["entries"] if "download" in entry)


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
