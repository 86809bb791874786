"""The dressing of a node: what its base image gets first, and the name of the result. No I/O."""

import hashlib
import json
from dataclasses import dataclass

from imagebuilder.model import NodePlan
from imagebuilder.software import BuildScript

FORMAT = 1
"""The format of dressed bases: another one makes every base anew."""


@dataclass(frozen=True)
class Request:
    """The packages, by name, and the build scripts, in their order, for one dressed base."""

    packages: tuple[str, ...] = ()
    scripts: tuple[BuildScript, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.packages or self.scripts)

    def key(self, base: str) -> str:
        """The name of the base image with the digest ``base``, dressed: sha256 of what it is made of, hex.

        The layer of a script and the place that names a package make no difference.
        """
        scripts = [
            [script.name, hashlib.sha256(script.content).hexdigest(), script.internet, script.timeout]
            for script in self.scripts
        ]
        made_of = {"format": FORMAT, "base": base, "packages": list(self.packages), "scripts": scripts}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """The request in a few words, for messages: "3 packages, 1 script"."""
        counts = ((len(self.packages), "package"), (len(self.scripts), "script"))
        return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)


def request_of(plan: NodePlan) -> Request:
    """What the base image of a node must have before the node's entries are put into it."""
    return Request(tuple(sorted(plan.software.packages)), plan.software.scripts)
