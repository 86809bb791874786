"""munge's key is the cluster's own: the same on all its nodes and in all its builds."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from imagebuilder.dressing.secrets import with_secrets
from imagebuilder.image.base.opening import Base
from imagebuilder.model import Entry, Kind, NodePlan, Partition
from imagebuilder.software import Installed
from tests.integration.dressing.test_downloads import plan_of
from tests.integration.overlays.rendered import cluster

MUNGE = (Installed("munge", "0.5", "arm64"),)


def entries(folder: Path, plan: NodePlan, **facts: Any) -> tuple[Entry, ...]:
    base = cast(Base, SimpleNamespace(**{"accounts": {"munge": 800}, "packages": MUNGE, **facts}))
    own = dataclasses.replace(cluster(), folder=folder)
    return with_secrets(plan, base, own).entries


def test_the_key_is_kept_and_belongs_to_munge(tmp_path: Path) -> None:
    (key,) = entries(tmp_path, plan_of())
    (again,) = entries(tmp_path, plan_of())
    assert again == key and len(key.content) == 128
    assert (key.path, key.mode, key.uid, key.gid, key.secret) == (
        "/etc/munge/munge.key",
        0o400,
        800,
        800,
        True,
    )
    kept = tmp_path / "state" / cluster().name / "munge-key"
    assert kept.read_bytes() == key.content and kept.stat().st_mode & 0o777 == 0o600
    assert entries(tmp_path / "other", plan_of())[0].content != key.content


def test_no_key_without_munge_and_none_over_a_layers_own(tmp_path: Path) -> None:
    assert entries(tmp_path, plan_of(), packages=()) == ()
    assert entries(tmp_path, plan_of(), accounts={}) == ()
    own = Entry(Partition.ROOT, "/etc/munge/munge.key", Kind.FILE, "mine", content=b"mine")
    assert entries(tmp_path, plan_of(own)) == (own,)
