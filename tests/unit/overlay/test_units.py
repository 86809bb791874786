"""Units that a layer enables and masks."""

# ruff: noqa: E501  # the tables of cases are read a line each

from pathlib import Path

import pytest

from imagebuilder.model import Kind
from tests.unit.overlay.making import by_path, entries, merged, refused, write

UNITS = """
    [files."root/etc/systemd/system/a.service"]
    when = "node.is_gateway"
    [files."root/etc/systemd/system/b.service"]
    when = "not node.is_gateway"
    [units]
    enable = ["a.service", "b.service"]
"""


@pytest.mark.parametrize(("node", "unit"), [("master", "a"), ("worker1", "b")])
def test_a_unit_that_is_left_out_is_not_enabled(node: str, unit: str, tmp_path: Path) -> None:
    text = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    paths = {f"root/etc/systemd/system/{name}.service": text for name in "ab"}
    found = entries(tmp_path / "mine", {"layer.toml": UNITS, **paths}, node=node)
    folder = "root/etc/systemd/system"
    assert set(found) == {f"{folder}/{unit}.service", f"{folder}/multi-user.target.wants/{unit}.service"}


UNIT = "[Unit]\nDescription=x\n[Install]\n{}\n"


ETC = "root/etc/systemd/system"


def test_units(tmp_path: Path) -> None:
    toml = '[units]\nenable = ["x.service"]\nenable_in = { "ssh.service" = "multi-user.target" }\nmask = ["y.timer"]'
    unit = UNIT.format("  WantedBy=a.target \\\n b.target\nWantedBy=c.target\nAlias=z.service")
    found = entries(tmp_path / "mine", {"layer.toml": toml, "root/etc/systemd/system/x.service": unit})
    assert {path.removeprefix(f"{ETC}/"): e.target for path, e in found.items() if e.kind is Kind.LINK} == {
        "a.target.wants/x.service": "/etc/systemd/system/x.service",
        "b.target.wants/x.service": "/etc/systemd/system/x.service",
        "c.target.wants/x.service": "/etc/systemd/system/x.service",
        "multi-user.target.wants/ssh.service": "/usr/lib/systemd/system/ssh.service",
        "y.timer": "/dev/null",
    }


@pytest.mark.parametrize(
    ("install", "said"),
    [
        ("Alias=z.service", "has no WantedBy= under [Install]"),
        ("WantedBy=a.target\nWantedBy=", "has no WantedBy= under [Install]"),
        (
            "WantedBy=../../../../tmp/x.target",
            "WantedBy= under [Install]: '../../../../tmp/x.target' is not the name of a unit",
        ),
    ],
)
def test_units_that_cannot_be_enabled(install: str, said: str, tmp_path: Path) -> None:
    files = {"layer.toml": '[units]\nenable = ["x.service"]', f"{ETC}/x.service": UNIT.format(install)}
    assert refused(tmp_path / "mine", files).startswith(f"{ETC}/x.service: {said}")


def test_a_unit_may_come_from_another_layer(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {f"{ETC}/x.service": UNIT.format("WantedBy=a.target")})
    two = write(tmp_path / "two", {"layer.toml": '[units]\nenable = ["x.service"]'})
    assert by_path(merged(one, two))[f"{ETC}/a.target.wants/x.service"].layer == "two"
