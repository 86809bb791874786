"""What the user can do now, the most urgent first. Pure."""

from collections.abc import Iterator, Sequence
from itertools import chain

from imagebuilder.cli.web.state import Action, Shown, Tile

_LOOKED_AT = ("settling", "examining")
_UNDECIDED = (*_LOOKED_AT, "asking")  # states in which it is open which node a card gets


def actions(
    shown: Shown, following: str, wanted: Sequence[str], stopping: bool = False
) -> tuple[Action, ...]:
    """The actions for what is shown. ``following`` is the node of the next card of a station.

    ``wanted`` are the nodes for which more cards are waited for. There is always at least one action.
    """
    if shown.ended:
        return (_end(shown), *_out(shown.tiles))
    found = list(
        chain(
            _asked(shown),
            _out(shown.tiles),
            _in(shown, following, wanted),
            _left(shown.tiles),
        )
    )
    if stopping and shown.busy:
        found.insert(0, Action("wait", "Stopping", "Each card finishes its current block."))
    return tuple(found) or (_wait(shown),)


def _asked(shown: Shown) -> Iterator[Action]:
    if shown.question is not None:
        where = "Answer here or at the terminal." if shown.question.answers else "Answer at the terminal."
        yield Action("question", shown.question.text, where)


def _out(tiles: Sequence[Tile]) -> Iterator[Action]:
    """Cards that have their verdict. Those that are not good come first: no list cuts them off."""
    for tile in tiles:
        if tile.state == "failed":
            text = f"Set this card aside. {_went_wrong(tile)}"
            yield Action("aside", f"Take out {tile.slot}", text)
    for tile in tiles:
        if tile.state == "done":
            yield Action("out", f"Take out {tile.slot}", _label(tile))


def _went_wrong(tile: Tile) -> str:
    verdicts = {"": "failed", "failed": "failed", "interrupted": "was interrupted"}
    word = verdicts.get(tile.verdict, f"is {tile.verdict}")
    return f"It {word}: {tile.why}." if tile.why else f"It {word}."


def _label(tile: Tile) -> str:
    """What to do with a card that is done; a text with more than that is shown as it is."""
    usual = tile.node and tile.verdict in ("", "good") and not tile.why
    return f"It is good. Label it {tile.node}." if usual else _sentence(tile.text)


def _in(shown: Shown, following: str, wanted: Sequence[str]) -> Iterator[Action]:
    """Cards that are needed. Until it is certain what the cards that are in get, no node is named for the
    next one.
    """
    tiles = shown.tiles
    if shown.question is not None or any(tile.state in _UNDECIDED for tile in tiles):
        following, wanted = "", ()
    if following:
        yield Action("in", "Put in the next card", f"It becomes {following}.")
    for tile in tiles:
        if tile.wanted:
            yield Action("in", f"Put a card into {tile.slot}", f"It becomes {tile.wanted}.")
    if wanted:
        yield Action("in", "Put in the next cards", f"They become {', '.join(wanted)}.")


def _left(tiles: Sequence[Tile]) -> Iterator[Action]:
    """Cards that are left alone."""
    for tile in tiles:
        if tile.state in ("refused", "present"):
            text = f"left alone: {tile.why}" if tile.why else tile.text
            yield Action("left", f"Take out {tile.slot}", _sentence(text))


def _wait(shown: Shown) -> Action:
    if shown.busy:
        cards = "1 card is" if shown.busy == 1 else f"{shown.busy} cards are"
        return Action("wait", f"{cards} being written", f"{shown.left} left" if shown.left else "")
    if shown.work:
        return Action("wait", "Preparing the nodes", "The cards are next.")
    if shown.count and shown.done == shown.count:
        return Action("over", "Every node has its card")
    if looked_at := sum(tile.state in _LOOKED_AT for tile in shown.tiles):
        return Action("wait", f"Examining {looked_at} card{'s' if looked_at > 1 else ''}")
    return Action("wait", "Waiting for cards" if shown.tiles else "Starting")


def _end(shown: Shown) -> Action:
    if shown.count and shown.done == shown.count:
        return Action("over", "Every node has its card", f"piimg {shown.command} has ended.")
    missing = shown.count - shown.done
    text = f"{missing} of {shown.count} nodes have no good card." if missing > 0 else ""
    return Action("over", f"piimg {shown.command} has ended", text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
