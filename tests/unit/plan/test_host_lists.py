"""Keyboard layouts and locales are checked against the lists of the host, where it has them."""

from pathlib import Path

import pytest

from imagebuilder.manifest import regions

LAYOUTS = (
    "! model\n  pc86  Generic\n\n! layout\n  us  English (US)\n  gb  English (UK)\n\n! variant\n  xx  us: x\n"
)
LOCALES = "en_GB.UTF-8 UTF-8\nde_DE@euro ISO-8859-15\naa_ER UTF-8\n"


def test_a_layout_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "base.lst"
    file.write_text(LAYOUTS)
    known = regions.host_layouts(file)
    assert known == {"us", "gb"}
    monkeypatch.setattr(regions, "host_layouts", lambda: known)
    assert regions.keyboard("gb") == "gb" and regions.keyboard("us(intl)") == "us(intl)"
    for wrong in ("xx", "zz(intl)"):
        with pytest.raises(ValueError, match=r"no keyboard layout is named (xx|zz)"):
            regions.keyboard(wrong)


def test_a_locale_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "SUPPORTED"
    file.write_text(LOCALES)
    known = regions.host_locales(file)
    assert known == {"en_GB", "de_DE", "aa_ER"}
    monkeypatch.setattr(regions, "host_locales", lambda: known)
    for right in ("en_GB.UTF-8", "de_DE.ISO-8859-15@euro", "aa_ER.UTF-8", "C.UTF-8"):
        assert regions.locale(right) == right
    with pytest.raises(ValueError, match=r"no locale is named en_GG.*en_GB"):
        regions.locale("en_GG.UTF-8")


def test_without_a_list_only_the_form_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not regions.host_layouts(tmp_path / "none") and not regions.host_locales(tmp_path / "none")
    monkeypatch.setattr(regions, "host_layouts", frozenset)
    monkeypatch.setattr(regions, "host_locales", frozenset)
    assert regions.keyboard("xx") == "xx" and regions.locale("xx_YY.UTF-8") == "xx_YY.UTF-8"
