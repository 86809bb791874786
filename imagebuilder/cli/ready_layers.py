"""The ready layers, for a help text and completion: read without a parser, because both must be quick.

A layer that comes with piimg and has ``for_roles`` in its layer.toml is ready (docs/recipes.md).
"""

import re

_DESCRIPTION = re.compile(r'^description = "([^"\\]*)"$', re.MULTILINE)
_FOR_ROLES = re.compile(r"^for_roles = ", re.MULTILINE)


def ready_layers() -> dict[str, str]:
    """The description of each ready layer by its name, sorted."""
    from imagebuilder.resources import shipped

    texts = {file.parent.name: file.read_text("utf-8") for file in shipped("overlays").glob("*/layer.toml")}
    return {
        name: described[1]
        for name, text in sorted(texts.items())
        if (described := _DESCRIPTION.search(text)) and _FOR_ROLES.search(text)
    }
