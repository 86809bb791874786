"""Templates: strict, bounded, shut in; and no secret where others could read it."""

# ruff: noqa: E501  # the tables of cases are read a line each

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.errors import UsageError
from imagebuilder.overlay import layer
from imagebuilder.overlay.merge import merge
from tests.support.toml_text import documents
from tests.unit.overlay.making import HOST_KEY, PASSPHRASE, entries, refused, renderer

SECRETS = (PASSPHRASE, HOST_KEY, "the gateway key itself", "$6$salt$hash", "ab" * 32)


def render(text: str) -> str:
    return renderer().render(text, "t.j2")[0].decode()


def error_of(text: str) -> str:
    begun = time.monotonic()
    with pytest.raises(UsageError) as error:
        render(text)
    assert time.monotonic() - begun < 20
    assert error.value.message.isprintable()
    assert not any(secret in error.value.message for secret in SECRETS)
    return error.value.message


def test_what_templates_may_use() -> None:
    text = (
        "{{ node.name }} {{ node.address }}/{{ cluster.lan.prefixlen }} {{ gateway.address }} "
        "{% for other in nodes if not other.is_gateway %}{{ other.name }}{{ ' ' if not loop.last }}{% endfor %}"
    )
    assert render(text) == "master 10.0.0.1/24 10.0.0.1 worker1 worker2 worker3 worker4 worker5"
    assert (
        render("{{ 'piimg-lan' | uuid }}") == render("{{ 'piimg-lan' | uuid }}") != render("{{ 'x' | uuid }}")
    )
    assert render("a\r\nb\r\n") == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ nod.name }}", "t.j2:1: 'nod' is undefined"),
        ("a\n\n{{ node.nme }}", "t.j2:3: Node has no attribute 'nme'"),
        ("{% if node.vars.x %}{% endif %}", "t.j2:1: Vars has no attribute 'x'"),
        ("{{ secrets.other }}", "t.j2:1: Secrets has no attribute 'other'"),
        ("\n{% for x in node %}{% endfor %}", "t.j2:2: 'NodeView' object is not iterable"),
        ("\n{% if %}", "t.j2:2: Expected an expression"),
        ("{% for x in y %}", "t.j2:1: Unexpected end of template"),
        ("{{ (", "t.j2:1: unexpected"),
        ("{% include 'x' %}", "t.j2:1: no loader"),
        ("{% extends '/etc/passwd' %}", "t.j2:1: no loader"),
        ("{{ 1 / 0 }}", "t.j2:1: division by zero"),
        ("{{ lipsum() }}", "t.j2:1: 'lipsum' is undefined"),
        ("{{ [1, 2] | random }}", "t.j2:1: No filter named 'random'"),
        ("{{" + "(" * 5000, "t.j2"),
    ],
)
def test_faults_are_reported_with_file_and_line(text: str, said: str) -> None:
    assert error_of(text).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ node.__init__.__globals__ }}",
        "{{ secrets._values }}",
        "{{ nodes[0]['__class__'] }}",
        "{{ ('%s' | attr('__class__')) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format(node) }}",
        "{{ cluster.dns.__add__ }}",
        "{{ nodes.append(1) }}",
        "{{ self._TemplateReference__context }}",
    ],
)
def test_python_s_insides_are_out_of_reach(text: str) -> None:
    assert error_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range(10**9) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set l = range(99999) | list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 10**12 }}",
        "{{ 10**12 * [0] }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 9 ** 9 ** 9 * 9 ** 9999 }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_a_template_that_never_ends_is_refused(text: str) -> None:
    assert error_of(text)


@pytest.mark.parametrize(
    "text", ["{{ secrets.wifi_psk.x }}", "{{ {}[secrets.wifi_psk] }}", "{{ secrets.host_key | int / 0 }}"]
)
def test_an_error_does_not_repeat_a_secret(text: str) -> None:
    assert error_of(text).endswith("details are not shown, because a secret was in use")


SECRET_TEXTS = (
    "{{ secrets.wifi_psk }}",
    "{{ secrets['host_key'] | upper }}",
    "{% for name in secrets %}{{ secrets[name] | length }}{% endfor %}",
    "{% if secrets.password_hash == 'x' %}y{% endif %}",
    "{{ secrets.values() | list }}",
)


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_what_a_secret_went_into_is_marked(text: str, tmp_path: Path) -> None:
    toml = '[files."root/etc/key"]\nmode = "0600"'
    entry = entries(tmp_path / "mine", {"layer.toml": toml, "root/etc/key.j2": text})["root/etc/key"]
    assert entry.secret
    assert entry.digest == ""
    assert not any(secret in repr(entry) for secret in SECRETS)
    plain = entries(tmp_path / "other", {"root/etc/x.j2": "{{ node.name }}", "root/etc/y": text})
    assert not any(entry.secret for entry in plain.values())


@pytest.mark.parametrize("mode", [None, "0644", "0640", "0604"])
def test_a_secret_that_others_could_read_is_refused(mode: str | None, tmp_path: Path) -> None:
    files = {"root/etc/key.j2": "{{ secrets.wifi_psk }}"}
    if mode:
        files["layer.toml"] = f'[files."root/etc/key"]\nmode = "{mode}"'
    message = refused(tmp_path / "mine", files)
    assert (
        message
        == f"root/etc/key.j2: contains a secret but would be readable by others (mode {mode or '0644'})"
    )


def test_a_secret_in_a_link_or_a_line_is_refused(tmp_path: Path) -> None:
    link = '[links]\n"root/x" = "/{{ secrets.wifi_psk }}"'
    assert "a link's target can be read by everyone" in refused(tmp_path / "one", {"layer.toml": link})
    lines = '[[lines]]\npath = "root/x"\nlines = ["psk={{ secrets.wifi_psk }}"]'
    assert "a secret would be appended to a file that others may read" in refused(
        tmp_path / "two", {"layer.toml": lines}
    )


def test_the_boot_partition_has_no_modes(tmp_path: Path) -> None:
    entry = entries(tmp_path / "mine", {"boot/userconf.txt.j2": "pi:{{ secrets.password_hash }}"})[
        "boot/userconf.txt"
    ]
    assert entry.secret


def test_a_template_that_is_not_text(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "mine", {"root/x.j2": b"a\xff"})
        == "root/x.j2: a template must be UTF-8 text (byte 1)"
    )


# fmt: off
PIECES = st.sampled_from([
    "{{", "}}", "{%", "%}", "{#", "#}", " for ", "x in ", "node", ".", "name", "nodes", "secrets", "[", "]", "(", ")", "'",
    "|", "join", "if ", "else", "endfor", "endif", "set ", "=", "range", "9" * 9, "*", "**", "+", "~", "-", "\n",
    "macro f()", "endmacro", "f()", "loop", "attr", "__class__", "namespace", "raw", "endraw", "wifi_psk", "%",
])
# fmt: on


@given(st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join))
@settings(deadline=5000, max_examples=300)
def test_any_template_gives_text_or_is_refused(text: str) -> None:
    given_to = renderer()
    for call in (given_to.render, given_to.holds):
        try:
            call(text, "t.j2")
        except UsageError as error:
            assert error.message.isprintable()
            assert PASSPHRASE not in error.message


KEYS = (
    "description",
    "files",
    "links",
    "remove",
    "lines",
    "words",
    "units",
    "may_be_missing",
    "path",
    "when",
    "mode",
)


@given(documents((*KEYS, '"root/etc/x"', '"boot/y"', "enable", "enable_in", "mask", "owner")))
@settings(deadline=None, max_examples=200)
def test_any_layer_toml_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    (folder / "root" / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "root" / "etc" / "x").touch()
    (folder / "layer.toml").write_text(text, "utf-8")
    try:
        merge([layer.read("fuzzed", folder)], renderer())
    except UsageError as error:
        assert error.message.isprintable()
        assert str(folder) in error.message
