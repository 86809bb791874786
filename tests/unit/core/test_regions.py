"""Countries, time zones, locales, keyboards: what a node knows is taken, all else refused."""

from collections.abc import Callable

import pytest

from imagebuilder.manifest.regions import COUNTRIES, country, keyboard, locale, timezone


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (country, sorted(COUNTRIES)),
        (timezone, ["Europe/Paris", "UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5"]),
        (locale, ["en_GB.UTF-8", "C.UTF-8", "de_DE.UTF-8@euro", "ja_JP.EUC-JP", "ast_ES.ISO-8859-15"]),
        (keyboard, ["gb", "us(intl)", "fr(bepo)", "ch(fr)"]),
    ],
)
def test_what_a_node_knows_is_taken(check: Callable[[str], str], values: list[str]) -> None:
    assert [check(value) for value in values] == values


@pytest.mark.parametrize(
    ("check", "value", "why"),
    [
        (country, "UK", "is GB meant"),
        (country, "gb", "two capital letters"),
        (country, "XX", "no wireless rules"),
        (timezone, "Europe/Pariss", "is Europe/Paris meant"),
        (timezone, "../../etc/passwd", "is not a time zone"),
        (timezone, "UTC\n", "is not a time zone"),
        (locale, "en_GB", r"write en_GB\.UTF-8"),
        (locale, "en_GB.utf8", r"write en_GB\.UTF-8"),
        (locale, "ja_JP.eucjp", r"write ja_JP\.EUC-JP"),
        (locale, "english", "is not a locale"),
        (keyboard, "fr bepo", "is not a keyboard layout"),
        (keyboard, "us(", "is not a keyboard layout"),
    ],
)
def test_all_else_is_refused_with_a_reason(check: Callable[[str], str], value: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(value)
