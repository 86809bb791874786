"""The process that renders templates: requests on standard input, answers on standard output.

A request is a pickle from the trusted parent: (the data of the cluster, or None for that of the last one; the
name of a node and its packages, or None for the same ones; "render", "holds" or "secrets"; the text; its
place). An answer is a line ``KIND LENGTH`` and LENGTH bytes. It is not a pickle, because a hostile template
could then run code in the parent.
"""

import json
import pickle
import sys

from imagebuilder.errors import UsageError
from imagebuilder.overlay.bounds import Bounds
from imagebuilder.overlay.sandbox import Sandbox
from imagebuilder.overlay.template import Templates


def main() -> None:
    """Answer requests until the parent closes standard input."""
    bounds, sandbox = Bounds(), Sandbox()
    templates: Templates | None = None
    shared = None
    while True:
        try:
            new_shared, node, request, text, place = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        shared = new_shared or shared
        if node is not None:
            assert shared is not None, "the first request has the data of the cluster"
            (cluster, release, credentials), (name, packages) = shared, node
            templates = Templates(
                cluster, cluster.node(name), release, credentials, packages, bounds, sandbox
            )
        assert templates is not None, "the first request names a node"
        try:
            if request == "secrets":
                kind, content = "names", json.dumps(templates.secrets_read).encode()
            elif request == "holds":
                kind, content = ("yes" if templates.holds(text, place) else "no"), b""
            else:
                content, secret = templates.render(text, place)
                kind = "secret" if secret else "text"
        except UsageError as error:
            kind, content = "error", json.dumps([error.message, error.hint]).encode()
        sys.stdout.buffer.write(f"{kind} {len(content)}\n".encode() + content)
        sys.stdout.buffer.flush()
