"""What two sides have at each path, and how they differ; what is kept of a prepared node to show it later."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.image.drift import wanted_of
from imagebuilder.image.parts import (
    Difference,
    Part,
    differences,
    documented_parts,
    kept_texts,
    planned_parts,
    text_in,
    with_additions,
    without_unpacked,
)
from imagebuilder.image.results import entry_document
from imagebuilder.model import Entry, Kind, Partition, Release
from imagebuilder.overlay.layer import Overlays
from imagebuilder.plan import plan_node
from imagebuilder.resources import shipped
from imagebuilder.software import Download
from tests.unit.overlay.making import CREDENTIALS, renderer

ROOT, BOOT = Partition.ROOT, Partition.BOOT


def entry(path: str, kind: Kind = Kind.FILE, content: bytes = b"", **more: object) -> Entry:
    made = Entry(ROOT, path, kind, "base", content=content)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def documented(entries: Sequence[Entry], secrets: dict[str, str] | None = None) -> dict[Any, Part]:
    """The parts that the document of a build of these entries has, with the texts that are kept."""
    document = {"node": "n", "entries": [entry_document(one) for one in entries]}
    return documented_parts(wanted_of(document), kept_texts(entries), secrets or {})


def paths(found: Sequence[Difference]) -> list[str]:
    return [one.key[1] for one in found]


EVERY = (
    entry("/file", content=b"text\n"),
    entry("/binary", content=b"\0\1"),
    entry("/secret", content=b"hush", secret=True, mode=0o600),
    entry("/folder", Kind.DIRECTORY, mode=0o755),
    entry("/link", Kind.LINK, target="/else", mode=0o777),
    entry("/gone", Kind.REMOVE),
    entry("/lines", Kind.LINES, b"a\nb\n", section="[all]"),
    entry("/lines", Kind.LINES, b"c\n", layer="more"),
    entry("/words", Kind.WORDS, b"a b", partition=BOOT),
    entry("/etc/netplan/*.yaml", Kind.NETPLAN, b"eth0 wlan0"),
)
DIGESTS = {"entry.base root/secret": "1"}


def test_a_document_and_the_plan_that_it_is_of_do_not_differ() -> None:
    (found, _, _), overlays = renderer().shared, Overlays(shipped("overlays"))
    plan = plan_node(found, found.node("master"), Release.TRIXIE, CREDENTIALS, overlays)
    assert len(plan.entries) > 40
    for entries in (EVERY, plan.entries):
        assert differences(documented(entries, DIGESTS), planned_parts(entries, DIGESTS)) == []


def test_each_change_is_seen() -> None:
    old = documented(EVERY, DIGESTS)
    for number, one in enumerate(EVERY):
        without = [*EVERY[:number], *EVERY[number + 1 :]]
        assert paths(differences(old, planned_parts(without, DIGESTS))) == [one.path]
        changes: list[dict[str, object]] = []
        if one.kind in (Kind.FILE, Kind.DIRECTORY):
            changes += [{"mode": 0o444}, {"uid": 7}, {"gid": 7}]
        if one.kind not in (Kind.DIRECTORY, Kind.LINK, Kind.REMOVE) and not one.secret:
            changes.append({"content": one.content.replace(b"a", b"z") + b"z"})
        changes += [{"target": "/there"}] if one.kind is Kind.LINK else []
        changes += [{"kind": Kind.DIRECTORY}] if one.kind is Kind.FILE else []
        for change in changes:
            changed = dataclasses.replace(one, **change)  # type: ignore[arg-type]
            new = planned_parts([*EVERY[:number], changed, *EVERY[number + 1 :]], DIGESTS)
            assert paths(differences(old, new)) == [one.path], change
    assert paths(differences(old, planned_parts(EVERY, {"entry.base root/secret": "2"}))) == ["/secret"]


def test_on_the_boot_partition_there_are_no_rights() -> None:
    one = entry("/x", partition=BOOT)
    other = dataclasses.replace(one, mode=0o755, uid=1)
    assert differences(planned_parts([one]), planned_parts([other])) == []


def test_a_secret_is_never_in_what_may_be_shown() -> None:
    for parts in (planned_parts(EVERY, DIGESTS), documented(EVERY, DIGESTS)):
        part = parts[ROOT, "/secret", ""]
        assert part.secret and part.content is None and hashlib.sha256(b"hush").hexdigest() != part.digest
    assert "root/secret" not in kept_texts(EVERY)


def test_which_texts_are_kept() -> None:
    large = entry("/large", content=b"x" * (257 << 10))
    many = [entry(f"/{number}", content=b"y" * (200 << 10)) for number in range(60)]
    kept = kept_texts([*EVERY, large, *many])
    assert kept["root/file"] == "text\n" and not {"root/binary", "root/secret", "root/large"} & kept.keys()
    assert sum(map(len, kept.values())) <= 8 << 20 and len(kept) == 41


def test_what_corrects_the_base_image_is_no_part_of_a_plan() -> None:
    fix = entry("/etc/machine-id", content=b"", layer="base image")
    assert differences(documented([*EVERY, fix], DIGESTS), planned_parts(EVERY, DIGESTS)) == []


def test_downloads_are_compared_by_their_digest() -> None:
    """The plan has no content of a download; a build has it, and what was in an archive."""
    digest = hashlib.sha256(b"fetched").hexdigest()
    file = entry("/opt/file", download=Download("https://x.example/f", digest))
    folder = entry("/opt/tool", Kind.DIRECTORY, download=Download("https://x.example/t", "0" * 64, True))
    munge = entry("/etc/munge/munge.key", content=b"hush", layer="packages", secret=True)
    built = [
        dataclasses.replace(file, content=b"fetched"),
        folder,
        entry("/opt/tool/bin", content=b"in it"),
        munge,
    ]
    for extra in ([], [entry("/opt/tool/own", content=b"own")]):
        new = planned_parts([file, folder, *extra], DIGESTS)
        old = without_unpacked(documented([*built, *extra]), new, [file, folder, *extra])
        assert differences(old, new) == []
    other = dataclasses.replace(file, download=Download("https://x.example/f", "1" * 64))
    new = planned_parts([other], DIGESTS)
    assert paths(differences(documented(built[:1]), new)) == ["/opt/file"]
    assert without_unpacked(old, new, [other]) == old


@given(st.binary(max_size=40))
def test_text(content: bytes) -> None:
    text = text_in(content)
    assert (text is None) == (b"\0" in content or content.decode("utf-8", "replace").encode() != content)
    assert text is None or text.encode() == content


def test_additions() -> None:
    entries = [
        entry("/x", content=b"a\n"),
        entry("/x", Kind.LINES, b"a\nb\n"),
        entry("/x", Kind.LINES, b"c\n"),
    ]
    assert with_additions(b"a\n", entries) == b"a\nb\nc\n"
    assert with_additions(b"one two\n", [entry("/x", Kind.WORDS, b"two three")]) == b"one two three\n"
