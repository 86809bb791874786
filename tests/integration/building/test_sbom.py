"""`piimg export sbom`: the software of a node that was prepared."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.cluster import Place, make_place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="building with loop devices needs root")


def test_a_node_without_packages_of_its_own_has_those_of_its_base_image(
    specimen: Callable[[str], Path], tmp_path: Path
) -> None:
    place = make_place(tmp_path, tmp_path / "cache")
    hint = "run: piimg build --node worker2"
    assert hint in place.refused(1, "export", "sbom", "--node", "worker2")
    place.good("build", "--node", "worker2", "--base", specimen("trixie"))
    text = place.good("export", "sbom", "--node", "worker2")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    urls = [load.get("purl", "") for load in json.loads(text)["components"]]
    assert any(url.startswith("pkg:deb/debian/dpkg@") and "distro=trixie" in url for url in urls)
    assert place.good("export", "sbom", "--node", "worker2") == text
    check_wrong_use(place)
    for image in (place.cache / "bases").glob("*.img"):
        image.unlink()
    assert hint in place.refused(1, "export", "sbom", "--node", "worker2")


def check_wrong_use(place: Place) -> None:
    assert "name one with --node NAME" in place.refused(2, "export", "sbom")
    assert "no node worker9" in place.refused(2, "export", "sbom", "--node", "worker9")
    assert "use it with sbom" in place.refused(2, "export", "hosts", "--node", "worker2")
