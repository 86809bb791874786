"""What a dressed base is made of is its name."""

import dataclasses

from imagebuilder.dressing.request import Request
from imagebuilder.software import BuildScript

BASE = "a" * 64
SCRIPT = BuildScript("20-tools", "worker", "overlays/worker/build.d/20-tools", b"#!/bin/sh\n")
REQUEST = Request(("chrony", "htop"), (SCRIPT,))


def test_each_part_changes_the_name() -> None:
    others = [
        Request(("chrony",), (SCRIPT,)),
        Request(("chrony", "htop")),
        *(
            Request(REQUEST.packages, (dataclasses.replace(SCRIPT, **changed),))
            for changed in (
                {"name": "21-tools"},
                {"content": b"#!/bin/sh\n:\n"},
                {"internet": True},
                {"timeout": 5},
            )
        ),
    ]
    keys = [REQUEST.key(BASE), REQUEST.key("b" * 64), *(other.key(BASE) for other in others)]
    assert len({*keys}) == len(keys)


def test_the_place_of_a_script_makes_no_difference() -> None:
    elsewhere = dataclasses.replace(SCRIPT, layer="other", source="elsewhere/20-tools")
    assert Request(REQUEST.packages, (elsewhere,)).key(BASE) == REQUEST.key(BASE)


def test_the_summary_counts() -> None:
    assert REQUEST.summary == "2 packages, 1 script"
    assert not Request() and Request(("htop",))
