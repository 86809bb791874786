"""The optional parts of piimg, ``web`` and ``pdf``: the libraries that they need, and how to install them."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from imagebuilder.requirements.host import Found, Host, Lack

WEB = ("starlette", "uvicorn")
_WEASYPRINT = "weasyprint"
_PANGO = ("libharfbuzz-subset0", "libpango-1.0-0", "libpangoft2-1.0-0")
_BROWSER = "save the sheet as an HTML page, and print it in a browser, which also saves a PDF"


def missing_web() -> list[str]:
    """The libraries of ``--web`` that are not installed."""
    return [name for name in WEB if importlib.util.find_spec(name) is None]


def web_fix(host: Host) -> str:
    """The command that installs the libraries of ``--web``."""
    return _pip(host, WEB) or "install piimg again: its package contains them"


def pdf_fix(host: Host) -> str:
    """What gives a PDF where WeasyPrint is missing or cannot be loaded: commands, or a browser."""
    command = _pip(host, (_WEASYPRINT,))
    if not command:
        return _BROWSER
    return f"{command}\n{host.install(_PANGO)}\nor {_BROWSER}"


def web_libraries(host: Host) -> Found:
    """Check the libraries of ``--web``."""
    if missing := missing_web():
        yield Lack(f"not installed: {', '.join(missing)}", web_fix(host))


def weasyprint(host: Host) -> Found:
    """Check the library that makes a PDF by loading it, with the libraries of the system that it needs."""
    try:
        importlib.import_module(_WEASYPRINT)
    except (ImportError, OSError, LookupError) as error:  # LookupError: codecs are missing
        text = f"WeasyPrint cannot be loaded: {error}".splitlines()[0]
        yield Lack(text, pdf_fix(host).replace("\n", "\n      "))


def _pip(host: Host, names: tuple[str, ...]) -> str:
    """The command by which the pip of this Python installs libraries where piimg finds them.

    Empty for a Debian package and ``make install``: these load what is in their own folder, and nothing else.
    """
    if sys.flags.no_site:
        return ""
    pip = Path(sys.prefix) / "bin" / "pip"
    words = f"{pip if pip.exists() else f'{sys.executable} -m pip'} install {' '.join(names)}"
    return words if os.access(sys.prefix, os.W_OK) else host.command(words)
