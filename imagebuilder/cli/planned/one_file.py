"""One file as the nodes get it: `piimg plan --show PATH`. Secrets are masked."""

import difflib
import hashlib
import posixpath
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from imagebuilder.builder import known_release, present_base
from imagebuilder.cli.output import Line, Style, echo
from imagebuilder.cli.planned.masked import plans_to_show
from imagebuilder.cli.planned.wording import mode_of, named, owner_text, place_text
from imagebuilder.cli.session import Session
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.image import ext4, fat
from imagebuilder.image.base.opening import Base, fitted
from imagebuilder.image.parts import ADDING, stacks, text_in, with_additions
from imagebuilder.image.tree import READ_LIMIT
from imagebuilder.model import HOME, Entry, Kind, Node, NodePlan, Partition, Release
from imagebuilder.summary import Place

_SIMILAR = 0.75  # difflib's ratio of two names, one of which may be misspelled
_BOOT = ("/boot/firmware", "/boot")  # where the boot partition is, on any release


@dataclass(frozen=True)
class _Seen:
    """What a node has at a path: a line about it, and its lines; ``whole`` if that is all of it."""

    about: str
    text: tuple[str, ...] = ()
    whole: bool = True


class _BaseFiles:
    """The base image, if it is in the cache; it is opened when it is needed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def base(self) -> Base | None:
        """The base image; None if it is not in the cache, or of no use."""
        try:
            return present_base(self._session.workspace)
        except PiimgError:
            return None  # a build reports what is wrong with it

    def content(self, place: Place) -> bytes | None:
        """The content of a file of the base image; None if there is none, or it cannot be read."""
        if self.base is None:
            return None
        try:
            if place[0] is Partition.BOOT:
                return fat.read_file(self.base.file, self.base.boot.start, place[1], READ_LIMIT)
            return ext4.read_file(self.base.file, self.base.root.start, place[1], READ_LIMIT)
        except PiimgError:
            return None


def one_file(session: Session, nodes: Sequence[Node], release: str | None, path: str) -> Iterator[Line]:
    """The lines of the file ``path`` on ``nodes``; once for all nodes that get the same.

    A path is that on the running node, or begins with the partition, as in layers. Raises UsageError when no
    node gets anything there.
    """
    if not path.strip("/"):
        raise UsageError("which file?", "name one: --show /etc/hosts, or --show boot/cmdline.txt")
    cluster, base = session.cluster, _BaseFiles(session)
    planned = Release(release) if release else known_release(session.workspace)
    shown = plans_to_show(session, nodes, planned)
    plans, places = shown.plans, _places(path, cluster.user.name)
    found = _found(plans, places, base, shown.hidden)
    if not found and base.base is not None:
        plans = [fitted(plan, base.base) for plan in plans]
        found = _found(plans, places, base, shown.hidden) or _of_base(plans, places, base)
    if not found:
        raise _nothing(session, plans, planned, path, base)
    everyone = [plan.node.name for plan in plans]
    others = [plan for plan in plans if plan.node.name not in found]
    found |= _of_base(others, places, base)
    groups: dict[_Seen, list[str]] = {}
    for node in filter(found.__contains__, everyone):
        groups.setdefault(found[node], []).append(node)
    missing = [node for node in everyone if node not in found]
    if missing:
        unknown = "" if base.base else " in any layer, and the base image is not at hand"
        echo(f"note: {named(missing, everyone)}: nothing there{unknown}", err=True)
    for number, (seen, names) in enumerate(groups.items()):
        if number:
            yield Line()
        if len(groups) > 1 or not (seen.text and seen.whole) or sys.stdout.isatty():
            yield Line(f"==> {named(names, everyone)}: {seen.about}", Style.HEAD)
        yield from (Line(line) for line in seen.text)


def _places(path: str, account: str) -> list[Place]:
    """What a path may mean, the likeliest first."""
    first, _, rest = path.partition("/")
    if first in ("boot", "root") and rest:
        return [(Partition(first), posixpath.normpath(f"/{rest}"))]
    whole = posixpath.normpath(f"/{path.lstrip('/')}")
    places = [
        (Partition.BOOT, whole.removeprefix(folder)) for folder in _BOOT if whole.startswith(f"{folder}/")
    ]
    home = f"/home/{account}"
    if f"{whole}/".startswith(f"{home}/"):  # files of the account lie in the home that it has in the image
        places.append((Partition.ROOT, HOME + whole.removeprefix(home)))
    return [*places, (Partition.ROOT, whole)]


def _found(
    plans: Sequence[NodePlan], places: Sequence[Place], base: _BaseFiles, hidden: bool
) -> dict[str, _Seen]:
    """What the plans have at the first of ``places`` that any of them has."""
    for place in places:
        found = {}
        for plan in plans:
            for at, stack in stacks(plan.entries):
                if _folded(at) == _folded(place):
                    found[plan.node.name] = _seen(at, stack, base, hidden)
        if found:
            return found
    return {}


def _folded(place: Place) -> Place:
    """FAT does not distinguish case."""
    return (place[0], place[1].casefold()) if place[0] is Partition.BOOT else place


def _seen(place: Place, stack: Sequence[Entry], base: _BaseFiles, hidden: bool) -> _Seen:
    main = stack[0]
    layers = ", ".join(dict.fromkeys(entry.layer for entry in stack))
    about = f"{place_text(place)}, layer{'s' * (',' in layers)} {layers}"
    if hidden and any(entry.secret for entry in stack):
        return _Seen(f"{about}: it has a secret that cannot be masked, as its template computes with it")
    if main.kind is Kind.LINK:
        return _Seen(f"{about}: a link to {main.target}")
    if main.kind is Kind.REMOVE:
        return _Seen(f"{about}: removed, if the base image has it")
    if main.kind is Kind.NETPLAN:
        names = ", ".join(main.content.decode().split())
        return _Seen(f"{about}: files of the base image that set up {names} are removed")
    rights = f"{mode_of(main)} {owner_text(main.uid, main.gid)}"
    if main.download is not None:
        how = "unpacked " if main.download.unpack else ""
        return _Seen(f"{about}, {rights}: {how}from {main.download.url}, sha256 {main.download.sha256}")
    if main.kind is Kind.DIRECTORY:
        return _Seen(f"{about}: a folder, {rights}")
    if main.kind not in ADDING:
        return _with_text(f"{about}, {rights}", with_additions(main.content, stack))
    before = base.content(place)
    if before is None:
        text = tuple(line for entry in stack for line in _additions(entry))
        return _Seen(f"{about}: added to the file of the base image, which is not at hand", text, False)
    return _with_text(f"{about}: the file of the base image with additions", with_additions(before, stack))


def _additions(entry: Entry) -> Iterator[str]:
    if entry.section:
        yield entry.section
    yield from entry.content.decode("utf-8", "replace").splitlines()


def _of_base(plans: Sequence[NodePlan], places: Sequence[Place], base: _BaseFiles) -> dict[str, _Seen]:
    """The file of the base image, which no layer changes, on the nodes of ``plans``."""
    for place in places if plans else ():
        content = base.content(place)
        if content is not None:
            seen = _with_text(f"{place_text(place)}: the file of the base image, unchanged", content)
            return {plan.node.name: seen for plan in plans}
    return {}


def _with_text(about: str, content: bytes) -> _Seen:
    text = text_in(content)
    if text is None:
        digest = hashlib.sha256(content).hexdigest()
        return _Seen(f"{about}: binary, {len(content)} bytes, sha256 {digest}")
    if not text:
        return _Seen(f"{about}: empty")
    return _Seen(about, tuple(text.removesuffix("\n").split("\n")))


def _nothing(
    session: Session, plans: Sequence[NodePlan], release: Release, path: str, base: _BaseFiles
) -> UsageError:
    """The error for a path that no node gets, with who else gets it, or a path that may be meant."""
    chosen = [plan.node.name for plan in plans]
    others = [node for node in session.cluster.nodes if node.name not in chosen]
    more = plans_to_show(session, others, release).plans if others else ()
    whose = "no node gets" if len(chosen) != 1 or not others else f"{chosen[0]} does not get"
    have = list(_found(more, _places(path, session.cluster.user.name), base, hidden=True))
    if have:
        everyone = [node.name for node in session.cluster.nodes]
        return UsageError(f"{whose} {path}", f"these nodes get it: {named(have, everyone)}")
    known = {(entry.partition, entry.path): None for plan in (*plans, *more) for entry in plan.entries}
    absolute = path.startswith("/")
    texts = [at if absolute and part is Partition.ROOT else place_text((part, at)) for part, at in known]
    hint = "list the paths with: piimg plan --full"
    if base.base is None:
        hint += "\nfiles of the base image can be shown once it is in the cache: piimg fetch"
    return UsageError(f"{whose} {path}{_meant(path, texts)}", hint)


def _meant(path: str, known: Sequence[str]) -> str:
    """The end of a sentence that suggests a path whose last part is like that of ``path``."""
    by_name = {text.rpartition("/")[2]: text for text in reversed(known)}
    nearest = difflib.get_close_matches(path.rpartition("/")[2], by_name, 1, _SIMILAR)
    return f"; is {by_name[nearest[0]]} meant?" if nearest else ""
