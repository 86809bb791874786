"""The hints for the libraries of the optional parts, web and pdf: right for each way to install piimg."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.requirements import optional
from imagebuilder.requirements.host import Host, Lack
from imagebuilder.requirements.uses import USES, look

HOST = Host(Path("/"), root=True, container=False)


def lacks(use: str) -> list[Lack]:
    return [finding for finding in look(USES[use], HOST) if isinstance(finding, Lack)]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without the libraries."""
    for name in ("weasyprint", "starlette"):
        monkeypatch.setitem(sys.modules, name, None)
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in optional.WEB else known(name)
    )


def test_here_nothing_is_missing() -> None:
    """They are installed for these tests."""
    assert lacks("web") == lacks("pdf") == []
    assert USES["web"].optional and USES["pdf"].optional


@pytest.mark.usefixtures("without")
def test_in_a_virtual_environment_its_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (web,), (pdf,) = lacks("web"), lacks("pdf")
    assert web.what == "not installed: starlette, uvicorn"
    assert web.fix == f"{tmp_path}/bin/pip install starlette uvicorn"
    assert pdf.fix.splitlines()[0] == f"{tmp_path}/bin/pip install weasyprint"
    assert "libpango" in pdf.fix and "browser" in pdf.fix and "piimg[" not in web.fix + pdf.fix


@pytest.mark.usefixtures("without")
def test_a_debian_package_and_make_install_use_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their launcher loads what is in their own folder only."""
    monkeypatch.setattr(sys, "flags", SimpleNamespace(no_site=1))
    (web,), (pdf,) = lacks("web"), lacks("pdf")
    assert "pip" not in f"{web.fix} {pdf.fix}".replace("piimg", "") and "browser" in pdf.fix


def test_the_launcher_is_such_a_python() -> None:
    said = subprocess.run(
        [sys.executable, "-IS", "-c", "import sys; print(sys.flags.no_site)"], capture_output=True, check=True
    )
    assert said.stdout == b"1\n"


@pytest.mark.usefixtures("without")
def test_the_page_names_the_same_command() -> None:
    from imagebuilder.cli.web import run_page

    with pytest.raises(UsageError) as caught:
        run_page._check_libraries()
    assert caught.value.hint == lacks("web")[0].fix


def test_doctor_has_both() -> None:
    said = subprocess.run(
        [Path(sys.executable).with_name("piimg"), "doctor", "web", "pdf", "--json"],
        capture_output=True,
        check=True,
    )
    uses = json.loads(said.stdout)["uses"]
    assert [(use["use"], use["ready"]) for use in uses] == [("web", True), ("pdf", True)]
