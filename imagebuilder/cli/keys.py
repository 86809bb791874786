"""The cluster's keys for a command: new ones are never made silently where the cluster had some."""

from collections.abc import Iterable

from imagebuilder.cli.errors import print_error
from imagebuilder.cli.output import ask, at_terminal
from imagebuilder.cli.session import Session
from imagebuilder.device.identity import Carried
from imagebuilder.keys.store import KeyStore


def usable_keys(session: Session, new: bool = False, cards: Iterable[Carried] = ()) -> KeyStore:
    """The cluster's keys. If some are missing that it had, ask at a terminal whether to make ``new`` ones.

    ``cards`` are what the cards at hand carry; they are looked at only if there are no keys at all. Raises
    KeysMissing, before anything is written.
    """
    workspace = session.workspace
    missing = None
    if not new:
        cluster = workspace.cluster.name
        seen = not workspace.has_keys and any(card.cluster == cluster for card in cards)
        missing = workspace.missing_keys(on_a_card=seen)
    if missing is not None:
        if not at_terminal():
            raise missing
        session.settle()
        print_error(missing)
        if ask("Type yes in full to make new keys [yes/N]", otherwise="").strip().lower() != "yes":
            raise missing
    return workspace.keys(new=True)
