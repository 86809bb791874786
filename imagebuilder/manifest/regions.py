"""Checks of countries, time zones, locales and keyboard layouts against what Raspberry Pi OS supports."""

import re
import zoneinfo
from collections.abc import Collection
from functools import cache
from pathlib import Path

from imagebuilder.reading import SMALL, read_regular
from imagebuilder.text import did_you_mean

_COUNTRIES = """
    AD AE AF AI AL AM AN AR AS AT AU AW AZ BA BB BD BE BF BG BH BL BM BN BO BR BS BT BW BY BZ CA CF CH
    CI CL CN CO CR CU CX CY CZ DE DK DM DO DZ EC EE EG ES ET FI FM FO FR GB GD GE GF GH GI GL GP GR GT
    GU GY HK HN HR HT HU ID IE IL IM IN IR IS IT JM JO JP KE KH KN KP KR KW KY KZ LB LC LI LK LS LT LU
    LV MA MC MD ME MF MH MK MN MO MP MQ MR MT MU MV MW MX MY NA NG NI NL NO NP NZ OM PA PE PF PG PH PK
    PL PM PR PT PW PY QA RE RO RS RU RW SA SE SG SI SK SM SN SR SV SX SY TC TD TG TH TN TR TT TW TZ UA
    UG US UY UZ VA VC VE VI VN VU WF WS YE YT ZA ZW
"""
COUNTRIES = frozenset(_COUNTRIES.split())
"""Countries with wireless rules in the kernel: regulatory.db of wireless-regdb 2026.05.30, without "00"."""

_MEANT = {"UK": "GB", "EN": "GB"}
_GLIBC_CHARSETS = """
    ARMSCII-8 BIG5 BIG5-HKSCS CP1251 CP1255 EUC-JP EUC-KR EUC-TW GB18030 GB2312 GBK GEORGIAN-PS
    ISO-8859-1 ISO-8859-2 ISO-8859-3 ISO-8859-5 ISO-8859-6 ISO-8859-7 ISO-8859-8 ISO-8859-9 ISO-8859-10
    ISO-8859-13 ISO-8859-14 ISO-8859-15 KOI8-R KOI8-T KOI8-U PT154 RK1048 TCVN5712-1 TIS-620 UTF-8
"""
_CHARSETS = frozenset(_GLIBC_CHARSETS.split())
"""The character sets of glibc's list of locales (localedata/SUPPORTED, glibc 2.41)."""


def country(value: str) -> str:
    """Check a two-letter country code for which the kernel has wireless rules. Raises ValueError."""
    if value in COUNTRIES:
        return value
    if not re.fullmatch("[A-Z]{2}", value):
        raise ValueError(f"{value[:60]!r} is not a country code of two capital letters (ISO 3166)")
    meant = f"; is {_MEANT[value]} meant?" if value in _MEANT else ""
    raise ValueError(f"the kernel has no wireless rules for a country {value}{meant}")


def timezone(value: str) -> str:
    """Check a time zone against the host's tz database; without one, only its form. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", value):
        raise ValueError(f"{value[:60]!r} is not a time zone such as Europe/Paris")
    known = zoneinfo.available_timezones()
    if known and value not in known:
        raise ValueError(f"no time zone is named {value[:60]}{did_you_mean(value, known)}")
    return value


def locale(value: str) -> str:
    """Check a locale with its character set, in glibc's spelling, against the host's list if it has one.

    Raises ValueError.
    """
    match = re.fullmatch(r"([a-z]{2,3}(?:_[A-Z]{2})?|C)(?:\.([A-Za-z0-9-]+))?(@[a-z]+)?", value)
    if not match:
        raise ValueError(f"{value[:60]!r} is not a locale such as en_GB.UTF-8")
    name, charset, modifier = match[1], match[2], match[3] or ""
    if charset is None:
        raise ValueError(f"{value} has no character set; write {name}.UTF-8{modifier}")
    if charset not in _CHARSETS:
        spelled = {known.replace("-", "").lower(): known for known in _CHARSETS}
        right = spelled.get(charset.replace("-", "").lower(), "UTF-8")
        raise ValueError(f"glibc has no character set {charset}; write {name}.{right}{modifier}")
    known = host_locales()
    if known and name not in ("C", *known):
        raise ValueError(f"no locale is named {name}{did_you_mean(name, known)}")
    return value


def keyboard(value: str) -> str:
    """Check a layout of xkeyboard-config, with an optional variant: ``gb``, ``ch(fr)``. Raises ValueError.

    The layout is checked against the host's list, if it has one.
    """
    if not re.fullmatch(r"[a-z]{2,8}(\([a-z0-9][a-z0-9_-]*\))?", value):
        raise ValueError(
            f"{value[:60]!r} is not a keyboard layout such as gb, or with a variant: fr(bepo), us(intl)"
        )
    layout, known = value.partition("(")[0], host_layouts()
    if known and layout not in known:
        raise ValueError(f"no keyboard layout is named {layout}{did_you_mean(layout, known)}")
    return value


@cache
def host_layouts(file: Path = Path("/usr/share/X11/xkb/rules/base.lst")) -> Collection[str]:
    """The keyboard layouts of this host's xkeyboard-config; none where it is not installed."""
    listed = _text(file).partition("! layout\n")[2].partition("\n!")[0]
    return frozenset(row.split()[0] for row in listed.splitlines() if row.strip())


@cache
def host_locales(file: Path = Path("/usr/share/i18n/SUPPORTED")) -> Collection[str]:
    """Language and country of the locales of this host's glibc; none where Debian's locales is missing."""
    return frozenset(re.split("[.@ ]", row)[0] for row in _text(file).splitlines() if row.strip())


def _text(file: Path) -> str:
    try:
        return read_regular(file, SMALL).decode("utf-8", "replace")
    except OSError:
        return ""
