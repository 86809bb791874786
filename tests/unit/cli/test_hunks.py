"""Differences as lines: complete, as `diff -u` shows them, without secrets, and soon."""

import dataclasses
import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.cli.output import Line, Style
from imagebuilder.cli.planned.hunks import difference_lines, title, unified
from imagebuilder.image.parts import Difference, Key, Part
from imagebuilder.model import Kind, Partition

KEY: Key = (Partition.ROOT, "/etc/x", "")
FILE = Part(Kind.FILE, 0o644, 0, 0, content=b"a\nb\nc\n", size=6, layer="base")
SECRET = b"correct horse"


def lines(old: Part | None, new: Part | None, key: Key = KEY) -> list[str]:
    return [line.text for line in difference_lines(Difference(key, old, new), "card", "planned")]


def part(**more: object) -> Part:
    return dataclasses.replace(FILE, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (FILE, part(mode=0o600), ["-mode 0644", "+mode 0600"]),
        (FILE, part(uid=1000, gid=1000), ["-owner root", "+owner user"]),
        (FILE, part(uid=7, gid=8), ["-owner root", "+owner 7:8"]),
        (
            FILE,
            part(content=b"a\nB\nc\n"),
            ["--- card", "+++ planned", "@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"],
        ),
        (
            FILE,
            part(content=b"a\nb\nc"),
            [
                *("--- card", "+++ planned", "@@ -1,3 +1,3 @@", " a", " b", "-c", "+c"),
                "\\ no line end at the end of the file",
            ],
        ),
        (Part(Kind.LINK, target="/a"), Part(Kind.LINK, target="/b"), ["-link to /a", "+link to /b"]),
        (Part(Kind.LINK, target="/a"), None, ["only card: link to /a"]),
        (
            None,
            Part(Kind.DIRECTORY, 0o700, 1000, 1000, layer="l"),
            ["only planned: folder 0700 user, layer l"],
        ),
        (
            None,
            FILE,
            [
                *("only planned: file 0644 root, layer base", "--- card", "+++ planned"),
                *("@@ -0,0 +1,3 @@", "+a", "+b", "+c"),
            ],
        ),
        (part(content=None, other="fifo"), FILE, ["-kind fifo", "+kind file", *lines(None, FILE)[1:]]),
        (
            Part(Kind.DIRECTORY, 0o755),
            part(content=b""),
            ["-kind folder", "+kind file", "-mode 0755", "+mode 0644"],
        ),
    ],
)
def test_what_is_shown(old: Part | None, new: Part | None, wanted: list[str]) -> None:
    assert lines(old, new) == wanted


def test_binary_files_are_called_so() -> None:
    digests = [hashlib.sha256(content).hexdigest()[:16] for content in (b"\0", b"\xff\xfe")]
    assert lines(part(content=b"\0"), part(content=b"\xff\xfe")) == [
        f"-card: binary, 1 bytes, sha256 {digests[0]}…",
        f"+planned: binary, 2 bytes, sha256 {digests[1]}…",
    ]
    assert lines(part(content=b"\0"), FILE)[1].startswith("+planned: a text, 6 bytes, sha256 ")
    assert lines(part(content=None, size=9 << 20), FILE)[0] == "-card: 9437184 bytes, not shown: too large"
    assert (
        lines(part(content=None, digest="ab" * 32), part(digest="cd" * 32))[0]
        == "-card: 6 bytes, sha256 abababababababab…, not kept"
    )


@pytest.mark.parametrize("other", [None, FILE, part(content=b"\0"), part(mode=0o600), part(content=None)])
def test_a_secret_is_never_shown(other: Part | None) -> None:
    secret = part(content=SECRET, secret=True, mode=0o600)
    for old, new in ((secret, other), (other, secret), (secret, part(content=SECRET * 2, secret=True))):
        said = "\n".join(lines(old, new))
        assert SECRET.decode() not in said and "not shown" in said
        assert hashlib.sha256(SECRET).hexdigest()[:8] not in said
    assert lines(secret, part(content=b"", secret=True)) == [
        "-mode 0600",
        "+mode 0644",
        "the contents differ; they have a secret and are not shown",
    ]


def test_titles() -> None:
    assert title(Difference(KEY, None, None)) == "root/etc/x"
    assert (
        title(Difference((Partition.BOOT, "/config.txt", "added"), None, None))
        == "boot/config.txt (additions)"
    )


TEXT = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=40)


@given(TEXT, TEXT, TEXT, TEXT)
def test_it_is_the_diff_of_the_whole_texts(
    head: list[str], a: list[str], b: list[str], tail: list[str]
) -> None:
    """What both begin and end with is left out, but the hunks say where in the whole texts they are."""
    old, new = [*head, *a, *tail], [*head, *b, *tail]
    shown = [line.text for line in unified(old, new, "x", "y")]
    assert patched(old, shown) == new
    assert (shown == []) == (old == new)
    if shown:
        assert shown[:2] == ["--- x", "+++ y"]


def patched(old: list[str], diff: list[str]) -> list[str]:
    """``old`` with the hunks of ``diff`` applied, each at the line that it names."""
    result, at = list[str](), 0
    for line in diff[2:]:
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            begin = int(start) if count == "0" else int(start) - 1
            result, at = [*result, *old[at:begin]], begin
        elif line[0] == "+":
            result.append(line[1:])
        else:
            assert old[at] == line[1:]
            result, at = [*result, *([old[at]] if line[0] == " " else [])], at + 1
    return [*result, *old[at:]]


def test_the_styles() -> None:
    styles = [line.style for line in unified(["a", "b"], ["a", "c"], "x", "y")]
    assert styles == [*[Style.HEAD] * 2, Style.PLACE, Style.PLAIN, Style.REMOVED, Style.ADDED]


@pytest.mark.parametrize("length", [1000, 2000, 3000, 100_000])
def test_hostile_texts_take_no_time(length: int) -> None:
    """What makes difflib slow: many lines that are all alike, or alike in another order."""
    begun = time.process_time()
    alike = [f"{number % 7}" for number in range(length)]
    other = [f"{number * number % 11 % 7}" for number in range(length)]
    for a, b in ((["x"] * length, ["x", "y"] * (length // 2)), (alike, other), (alike, alike[::-1])):
        assert [*unified(a, b, "x", "y")]
    assert time.process_time() - begun < 10


def test_a_long_difference_is_cut() -> None:
    shown = [line.text for line in unified([], [f"{number}" for number in range(9000)], "x", "y")]
    assert len(shown) == 5002 and shown[-1] == "… more than 5000 lines"


def test_a_line_is_one_line() -> None:
    assert Line("a\nb\x1b[31m\tc\r").shown(coloured=False) == "a?b?[31m\tc?"
    assert Line("x\x1b[31m", Style.ADDED).shown(coloured=True) == "\x1b[32mx?[31m\x1b[0m"
