"""Which nodes a station is through with, and on which cards: a file in the cluster's state folder.

It is what a station knows when it starts again. A node counts as done for as long as its node image is the
one that was written; a node that was built anew is to be written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from imagebuilder.card.report import CardReport, Verdict
from imagebuilder.device.discovery import Disk
from imagebuilder.device.reference import DiskRef
from imagebuilder.errors import PiimgError
from imagebuilder.history.store import Time, key_of, now, plain_reference
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files

FILE = "station.json"
LOCK = "station.lock"
_FORMAT = 1


@dataclass(frozen=True)
class Made(DiskRef):
    """The card of a node: ``image`` is the tree digest of what is on it, ``key`` as in history.py, the rest
    says which card it was, and where; ``size`` in bytes."""

    size: Annotated[int, Field(ge=0)]
    time: Time
    image: str
    verdict: Verdict
    key: str


@dataclass(frozen=True)
class _Document:
    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)]
    nodes: dict[str, Made]


_FORM = TypeAdapter(_Document)


def made(disk: Disk, report: CardReport, image: str) -> Made:
    """What is to be remembered of a card that came out well."""
    return Made(
        time=now(),
        image=image,
        verdict=report.verdict,
        key=key_of(disk),
        **vars(plain_reference(disk)),
    )


@dataclass(frozen=True)
class Ledger:
    """The nodes that are done, in ``file``. What is made for it belongs to the owner of ``home``."""

    file: Path
    home: Path

    def read(self) -> dict[str, Made]:
        """By node; nothing when there is no file. Raises PiimgError when it is not one of ours."""
        try:
            return _FORM.validate_json(read_regular(self.file, SMALL)).nodes
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not what a station writes"
            raise PiimgError(
                f"{self.file} cannot be used: {said}", "remove it, or begin anew: piimg station --again"
            ) from error

    def write(self, nodes: Mapping[str, Made]) -> None:
        """Keep ``nodes``, and no others. Raises OSError."""
        files.make_private(self.file.parent, self.home)
        files.write(self.file, _FORM.dump_json(_Document(_FORMAT, dict(nodes)), indent=2) + b"\n", 0o600)
        files.hand_over(self.file, self.home)
