"""build.d/: which scripts run in the base image, in which order, and which are refused."""

from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.overlay import build_scripts, layer
from tests.unit.overlay.making import merged, write

SCRIPT = "#!/bin/sh\n# needs: internet\n# timeout: 60\napt-get update\n"


def scripts(*folders: Path) -> list[tuple[str, str]]:
    """Name and layer of each script of layers that are called as their folders."""
    read = [layer.read(folder.name, folder) for folder in folders]
    return [(script.name, script.layer) for script in build_scripts.merged(read)]


def test_they_run_in_the_order_of_names_and_a_later_layer_wins(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"build.d/30-b": SCRIPT, "build.d/20-a": SCRIPT, "build.d/.gitkeep": ""})
    two = write(tmp_path / "two", {"build.d/30-b": "#!/bin/sh\n", "build.d/10-c": SCRIPT})
    assert scripts(one, two) == [("10-c", "two"), ("20-a", "one"), ("30-b", "two")]


def test_what_a_script_declares(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"build.d/20-a": SCRIPT, "build.d/30-b": "#!/bin/sh\n# needs: none\n"})
    declared, plain = build_scripts.merged([layer.read("one", folder)])
    assert (declared.internet, declared.timeout) == (True, 60)
    assert (plain.internet, plain.timeout) == (False, 1800)


def test_a_script_is_no_entry_of_a_node(tmp_path: Path) -> None:
    assert merged(write(tmp_path / "one", {"build.d/20-a": SCRIPT})) == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("20-a", "echo\n", "20-a:1: a build script starts with #!"),
        ("20-a", "#!/bin/sh\r\n", "20-a:1: a script with CRLF line ends"),
        ("20-a", "#!/bin/sh\n# needs: lan\n", "20-a:2: needs: takes one of none, internet"),
        ("20-a", "#!/bin/sh\n\n# timeout: soon\n", "20-a:3: timeout: takes a number of seconds"),
        ("20-a.j2", "#!/bin/sh\n", "20-a.j2: a build script is not a template"),
        ("tools", "#!/bin/sh\n", "the name of a build script is NN-name"),
        ("20-a/", "", "20-a is not a plain file"),
    ],
)
def test_what_could_not_run_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = write(tmp_path / "one", {f"build.d/{name}": content})
    with pytest.raises(UsageError) as refused:
        scripts(folder)
    assert message in refused.value.message


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"build.d/": ""})
    (folder / "build.d/20-a").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="20-a is not a plain file"):
        scripts(folder)
