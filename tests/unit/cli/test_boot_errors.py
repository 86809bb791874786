"""`piimg boot`: an error of a node is shown with the node's name, once, whatever the name is."""

import pytest

from imagebuilder.boot.cluster import ClusterProof
from imagebuilder.boot.login import HostKeyError
from imagebuilder.boot.probe import FactsError
from imagebuilder.boot.run import Proof
from imagebuilder.cli.commands.boot import _table
from imagebuilder.errors import PiimgError


@pytest.mark.parametrize("name", ["worker1", "node", "no"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FactsError("the node reports no facts"), "{}: the node reports no facts"),
        (HostKeyError("{} has another host key"), "{} has another host key"),
    ],
)
def test_the_name_is_there_once(name: str, error: PiimgError, text: str) -> None:
    error = type(error)(error.message.replace("{}", name))
    shown = _table(ClusterProof((Proof(name, None, (), error),), ())).splitlines()
    assert text.replace("{}", name) in shown
