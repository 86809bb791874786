"""The process that renders templates: requests come in on standard input, answers go out on standard output.

A request is a pickle from its parent, whom it trusts: (what is known of a node, or None for the same node
as before; "render" or "holds"; the text; its place). An answer is a line ``KIND LENGTH`` and so many bytes,
which run no code where they are read: a template can be hostile.
"""

import json
import pickle
import sys

from imagebuilder.errors import UsageError
from imagebuilder.overlay.bounds import Bounds
from imagebuilder.overlay.template import Templates


def main() -> None:
    """Answer until the parent has gone."""
    bounds = Bounds()
    templates: Templates | None = None
    while True:
        try:
            given, what, text, place = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if given is not None:
            cluster, node, release, credentials = given
            templates = Templates(cluster, node, release, credentials, bounds)
        assert templates is not None, "the first request names a node"
        try:
            if what == "holds":
                kind, content = ("yes" if templates.holds(text, place) else "no"), b""
            else:
                content, secret = templates.render(text, place)
                kind = "secret" if secret else "text"
        except UsageError as error:
            kind, content = "error", json.dumps([error.message, error.hint]).encode()
        sys.stdout.buffer.write(f"{kind} {len(content)}\n".encode() + content)
        sys.stdout.buffer.flush()
