"""The SBOM of a node: valid CycloneDX, with what is in the node, and the same for the same node."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from imagebuilder.sbom import cyclonedx
from imagebuilder.software import Installed

URL = "https://example.org/k3s/v1.31.4%2Bk3s1/k3s-arm64"
NODE: dict[str, Any] = {
    "piimg": "1.0",
    "cluster": "mycluster",
    "node": "worker1",
    "release": "bookworm",
    "base": {"name": "raspios", "sha256": "b" * 64, "description": "Debian GNU/Linux 12 (bookworm)"},
    "tree_digest": "a" * 64,
    "source_date_epoch": 1764000000,
    "entries": [
        {"path": "/usr/local/bin/k3s", "download": {"url": URL, "sha256": "d" * 64, "unpack": False}},
        {"path": "/opt/k3s", "download": {"url": URL, "sha256": "d" * 64, "unpack": False}},
        {"path": "/etc/hostname"},
    ],
}
PACKAGES = (Installed("g++", "4:12.2.0-3", "arm64"), Installed("libc6", "2.36-9+deb12u10", "armhf"))


def test_it_is_valid_and_complete() -> None:
    text = cyclonedx(NODE, PACKAGES)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    subject = document["metadata"]["component"]
    assert (subject["name"], subject["group"]) == ("worker1", "mycluster")
    found = {one["bom-ref"]: one for one in document["components"]}
    assert set(found) == {"base", "deb:g++:arm64", "deb:libc6:armhf", f"download:{'d' * 64}"}
    assert set(next(one for one in document["dependencies"] if one["ref"] == "node")["dependsOn"]) == set(
        found
    )
    url = PackageURL.from_string(found["deb:g++:arm64"]["purl"])
    assert (url.type, url.namespace, url.name, url.version) == ("deb", "debian", "g++", "4:12.2.0-3")
    assert url.qualifiers == {"arch": "arm64", "distro": "bookworm"}
    download = found[f"download:{'d' * 64}"]
    assert download["name"] == "k3s-arm64" and download["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    assert download["externalReferences"] == [{"type": "distribution", "url": URL}]


def test_the_same_node_gives_the_same_text() -> None:
    assert cyclonedx(NODE, PACKAGES) == cyclonedx(NODE, tuple(reversed(PACKAGES)))
    other = cyclonedx({**NODE, "tree_digest": "c" * 64}, PACKAGES)
    assert json.loads(other)["serialNumber"] != json.loads(cyclonedx(NODE, PACKAGES))["serialNumber"]


@pytest.mark.parametrize(("system", "vendor"), [("Raspbian GNU/Linux 11", "raspbian"), ("Debian", "debian")])
def test_packages_are_named_by_who_made_them(system: str, vendor: str) -> None:
    node = {**NODE, "base": {**NODE["base"], "description": system}}
    urls = [load["purl"] for load in json.loads(cyclonedx(node, PACKAGES))["components"] if "purl" in load]
    assert urls and all(url.startswith(f"pkg:deb/{vendor}/") for url in urls)
