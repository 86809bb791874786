"""The process that renders templates: requests on standard input, answers on standard output.

A request is a pickle from the trusted parent: (the data of a node, or None for the node of the last request;
"render" or "holds"; the text; its place). An answer is a line ``KIND LENGTH`` and LENGTH bytes. It is not a
pickle, because a hostile template could then run code in the parent.
"""

import json
import pickle
import sys

from imagebuilder.errors import UsageError
from imagebuilder.overlay.bounds import Bounds
from imagebuilder.overlay.template import Templates


def main() -> None:
    """Answer requests until the parent closes standard input."""
    bounds = Bounds()
    templates: Templates | None = None
    while True:
        try:
            node_data, request, text, place = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if node_data is not None:
            cluster, node, release, credentials = node_data
            templates = Templates(cluster, node, release, credentials, bounds)
        assert templates is not None, "the first request names a node"
        try:
            if request == "holds":
                kind, content = ("yes" if templates.holds(text, place) else "no"), b""
            else:
                content, secret = templates.render(text, place)
                kind = "secret" if secret else "text"
        except UsageError as error:
            kind, content = "error", json.dumps([error.message, error.hint]).encode()
        sys.stdout.buffer.write(f"{kind} {len(content)}\n".encode() + content)
        sys.stdout.buffer.flush()
