"""`piimg sheet` as PDF: it needs Pango, which only these tests install."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagebuilder.cli.main import piimg
from imagebuilder.pages.rendering import pdf
from tests.support.checkout import TOP

pytestmark = pytest.mark.browser


def test_a_name_that_ends_in_pdf_gives_a_pdf(tmp_path: Path) -> None:
    shutil.copy(TOP / "manifests" / "picluster.toml", tmp_path / "cluster.toml")
    target = tmp_path / "sheet.PDF"
    words = ["--manifest", f"{tmp_path}/cluster.toml", "sheet", "--output", f"{target}"]
    assert CliRunner().invoke(piimg, words, catch_exceptions=False).exit_code == 0
    assert target.read_bytes().startswith(b"%PDF-")


def test_a_page_that_names_a_file_does_not_get_it(tmp_path: Path) -> None:
    """WeasyPrint fetches nothing: here the attachment would be in the PDF."""
    secret = tmp_path / "secret.txt"
    secret.write_text("topsecret")
    head = f'<html><head><link rel="attachment" href="{secret.as_uri()}"></head>'
    page = f'{head}<body><p>x</p><img src="{secret.as_uri()}"></body></html>'
    assert pdf(page).count(b"EmbeddedFile") == 0
