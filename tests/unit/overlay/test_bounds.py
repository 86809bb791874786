"""Templates made to harm: each ends soon, in little memory, with an error that names file and line."""

# ruff: noqa: E501  # the tables of cases are read a line each

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagebuilder.errors import UsageError
from imagebuilder.model import Release
from imagebuilder.overlay.rendering import Rendering, TemplateRenderer
from tests.integration.overlays.rendered import cluster
from tests.support.checkout import TOP
from tests.support.waiting import wait_until
from tests.unit.overlay.making import CREDENTIALS, HOST_KEY, PASSPHRASE, refused, renderer, rendering

BIG = "'x' * 9999999"

HUNGRY = [
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%1000000000s' | format('x') }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{0:{1}}'.format(1, 1000000000) }}",
    "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x'.rjust(1000000000) }}",
    "{{ 'x'.center(1000000000) }}",
    "{{ 'x'.zfill(1000000000) }}",
    "{{ ('\t' * 99999).expandtabs(99999) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ 'x' | indent(1000000000, true) }}",
    r"{{ (('x\n' * 99999) | indent(99999)) | length }}",
    "{{ (('x' * 99999) | replace('x', 'y' * 99999)) | length }}",
    "{{ ('x' * 99999).replace('', 'y' * 99999) | length }}",
    "{{ (('x ' * 99999).split() | join('y' * 99999)) | length }}",
    "{{ ('y' * 99999).join(('x ' * 99999).split()) | length }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ ('x' * 99999 | wordwrap(1, wrapstring='y' * 99999)) | length }}",
    "{{ ('<' * 9999999) | escape | length + (('<' * 9999999) | e | escape | string | escape | list | length) }}",
    "{{ [BIG, BIG, BIG, BIG] | map('list') | list | length }}".replace("BIG", BIG),
    "{{ BIG | list | map('string') | list | tojson | length }}".replace("BIG", BIG),
    "{{ ([BIG | list] * 999) | sum(start=[]) | length }}".replace("BIG", BIG),
    "{{ ('%' * 9999999) | urlencode | urlencode | list | length }}",
    "{{ 'x'.encode('utf-32').ljust(1000000000) | length }}",
    "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=1) %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[0]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | string | length }}",
    "{% set x %}{% for i in range(99999) %}{{ 'x' * 9999999 }}{% endfor %}{% endset %}",
    "{% macro f(n) %}{{ 'x' * 9999999 }}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(9) | length }}",
    "{% set l = range(99999) | list %}{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = n.x + [l + l] %}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 10 ** (10 ** 9) }}",
    "{{ 'a'.__mul__(10 ** 10) }}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ range(10 ** 9) | list }}",
]

BUSY = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set l = range(99999) | list %}{% for i in range(99999) %}{% if l == 1 or -1 in l %}{% endif %}{% endfor %}",
    "{{ ([range(99999) | list] * 9999) | map('sum') | list }}",
    "{{ ([range(99999) | list] * 9999) | map('sort') | map('first') | list }}",
]

STUCK = [
    # Comparing and hashing what is nested takes twice as long a level, in one step of Python: it hears no signal.
    "{% set n = namespace(x=[0], y=[0]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "{% set n = namespace(x=(0,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
]


def most_memory() -> int:
    """Bytes of memory that the process that renders has had at most."""
    child = rendering()._child  # it is looked at from outside
    if child is None:
        return 0
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


@pytest.mark.parametrize("text", [*HUNGRY, *BUSY])
def test_a_template_that_takes_too_much(text: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    message = refused(tmp_path / "mine", {"root/etc/x.j2": f"first\n{text}\n"})
    took = time.monotonic() - begun
    # Python knows no line where the signal comes between two lines of its own: then the file alone is named.
    assert re.match(r"root/etc/x\.j2:2: |root/etc/x\.j2: takes more than 2 seconds", message), message
    assert took < 30, "two seconds of processor time, on a machine that has other work"
    assert most_memory() < 512 << 20
    assert renderer().render("{{ node.name }}", "t.j2") == (b"master", False)


@pytest.mark.parametrize("text", STUCK)
def test_a_step_of_python_that_never_ends(text: str, tmp_path: Path) -> None:
    """The process is ended from outside: which line it was at, nobody knows."""
    begun = time.monotonic()
    message = refused(tmp_path / "mine", {"root/etc/x.j2": text})
    assert message == "root/etc/x.j2: takes more than 2 seconds of processor time"
    assert time.monotonic() - begun < 30
    assert renderer().render("{{ node.name }}", "t.j2") == (b"master", False)


@pytest.mark.parametrize("text", [*HUNGRY, *BUSY, *STUCK])
def test_a_condition_that_takes_too_much(text: str, tmp_path: Path) -> None:
    if not text.startswith("{{") or text.count("{{") > 1:
        return
    toml = '[files."root/x"]\nwhen = ' + json.dumps(text.removeprefix("{{").removesuffix("}}").strip())
    begun = time.monotonic()
    message = refused(tmp_path / "mine", {"layer.toml": toml, "root/x": ""})
    assert message.startswith("layer.toml: when of root/x: ")
    assert time.monotonic() - begun < 30


def test_what_ends_the_process_is_reported(tmp_path: Path) -> None:
    """Python gives up by itself on some templates; the run goes on to say which."""
    deep = "{{ " + "-" * 200_000 + "1 }}"
    assert refused(tmp_path / "mine", {"root/etc/x.j2": deep}).startswith("root/etc/x.j2: ")
    wide = "{{ x }}" * 2_000_000
    assert refused(tmp_path / "other", {"root/etc/x.j2": wide}).startswith("root/etc/x.j2")
    large = "x" * (17 << 20)
    assert "larger than 16 MiB" in refused(tmp_path / "third", {"root/etc/x.j2": large})
    assert "surrogates not allowed" in refused(tmp_path / "fourth", {"root/etc/x.j2": r"{{ '\ud800' }}"})


def test_what_is_large_but_allowed() -> None:
    assert len(renderer().render("{{ 'x' * (16 * 1024 * 1024) }}", "t.j2")[0]) == 16 << 20
    assert len(renderer().render("{{ '\U0001f600' * (4 * 1024 * 1024) }}", "t.j2")[0]) == 16 << 20
    rounds = "{% for i in range(99999) %}{{ i }}\n{% endfor %}"
    assert renderer().render(rounds, "t.j2")[0].endswith(b"99998\n")


def test_secrets_are_not_where_others_could_see_them() -> None:
    with Rendering() as own:
        one = TemplateRenderer(own, cluster(), cluster().node("master"), Release.TRIXIE, CREDENTIALS)
        assert one.render("{{ secrets.wifi_psk }}", "t.j2") == (b"ab" * 32, True)
        child = own._child
        assert child is not None
        process = Path(f"/proc/{child.pid}")
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert not any(secret.encode() in seen for secret in (PASSPHRASE, HOST_KEY, "ab" * 32))
        limits = (process / "limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
    assert child.poll() is not None


def test_the_process_ends_with_who_began_it(tmp_path: Path) -> None:
    """Also one that is killed while a template runs."""
    program = (
        "import sys\nfrom tests.unit.overlay import making\n"
        "making.renderer().render('x', 't')\nprint(making.rendering()._child.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_until(gone, 5)


def test_a_wrong_answer_is_no_answer() -> None:
    """A process that says something else than it should is not believed."""
    with Rendering() as own:
        one = TemplateRenderer(own, cluster(), cluster().node("master"), Release.TRIXIE, CREDENTIALS)
        assert one.render("x", "t.j2") == (b"x", False)
        child = own._child
        assert child is not None
        child.kill()
        child.wait()
        with pytest.raises(UsageError, match=r"^t\.j2: the rendering process ended \(exit status -9\)"):
            one.render("x", "t.j2")
        assert one.render("x", "t.j2") == (b"x", False)
