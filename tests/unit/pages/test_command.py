"""`piimg sheet` as a user runs it: where the page goes, what it is made of, and that no secret is in it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imagebuilder.card.report import Verdict, save
from imagebuilder.cli.commands import sheet as work
from imagebuilder.cli.main import piimg
from imagebuilder.errors import PiimgError
from imagebuilder.history.store import FILE, History
from imagebuilder.keys.derive import wifi_psk
from imagebuilder.pages.rendering import pdf
from imagebuilder.pages.sheet import sheet_page
from imagebuilder.workspace import Workspace
from tests.support.checkout import TOP
from tests.unit.history.making import SLOT, report_of, run_on
from tests.unit.pages.making import example, sheet_of, text_of

PASSPHRASE = "battery staple correct"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster folder with a card in its history, the report of a batch, keys and secrets."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(TOP / "manifests" / "picluster.toml", folder / "cluster.toml")
    (folder / "secrets.toml").write_text(f'wifi_psk = "{PASSPHRASE}"\n')
    (folder / "secrets.toml").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    for event in run_on(SLOT, "one", Verdict.GOOD):
        History(folder / "state" / "picluster" / FILE, folder).add(event)
    (folder / "build").mkdir()
    save(folder / "build" / "flash-report.json", [report_of(SLOT, Verdict.BAD, "wrong data")], ["worker9"])
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(piimg, ["sheet", *words], catch_exceptions=False)


def test_it_is_saved_in_the_folder_of_results(cluster: Path) -> None:
    done = run()
    assert done.exit_code == 0
    page = (cluster / "build" / work.FILE).read_text()
    assert f"{cluster}/build/sheet.html" in done.output and "xdg-open" in done.output
    text = text_of(page)
    assert SLOT.serial in text and "wrong data" in text and "worker9" in text
    assert [file.name for file in (cluster / "state" / "picluster").iterdir()] == [FILE]  # no key was made


def test_no_secret_is_in_it(cluster: Path) -> None:
    keys = Workspace(cluster / "cluster.toml").keys(new=True)
    pair = keys.key("gateway-key", "x")
    run()
    page = (cluster / "build" / work.FILE).read_text()
    for secret in (PASSPHRASE, wifi_psk("HomeNetwork", PASSPHRASE), *pair.private.splitlines()[1:3]):
        assert secret not in page


def test_it_is_saved_where_the_option_says(cluster: Path, tmp_path: Path) -> None:
    piped = subprocess.run(
        [Path(sys.executable).with_name("piimg"), "sheet", "--output", "-"], capture_output=True, check=True
    )
    assert piped.stdout.startswith(b"<!doctype html>") and piped.stdout.endswith(b"</html>")
    run("--output", str(tmp_path / "here.html"), "--paper", "letter", "--via", "10.1.1.1:2222")
    page = (tmp_path / "here.html").read_text()
    assert "Avery 5160" in page and "ssh://pi@10.1.1.1:2222" in page and "ssh -p 2222 pi@10.1.1.1" in page


def test_without_weasyprint_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(PiimgError, match="a PDF needs WeasyPrint") as caught:
        pdf(sheet_page(sheet_of(example())), "how to get it")
    assert caught.value.hint == "how to get it"


def test_a_damaged_report_is_a_warning_unless_it_was_named(cluster: Path) -> None:
    report = cluster / "build" / "flash-report.json"
    report.write_text(json.dumps({"format": 1, "cards": "none"}))
    done = run()
    assert done.exit_code == 0 and "warning: the sheet has no last batch" in done.output
    assert "There is no report of it" in text_of((cluster / "build" / work.FILE).read_text())
    named = subprocess.run(
        [Path(sys.executable).with_name("piimg"), "sheet", "--report", report],
        capture_output=True,
        text=True,
        check=False,
    )
    assert named.returncode == 1 and "is not a report of piimg flash" in named.stderr


@pytest.mark.parametrize("output", ["/dev/null/x.html", "/proc/x.html", "build"])
def test_a_target_that_cannot_be_written_is_refused(cluster: Path, output: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("piimg"), "sheet", "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr
