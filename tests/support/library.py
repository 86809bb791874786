"""The examples of docs/library.md, and running one in a cluster folder."""

import os
import re
import subprocess
import sys

from tests.support.checkout import TOP
from tests.support.cluster import Place

EXAMPLES = re.findall(r"```python\n(.*?)```", (TOP / "docs" / "library.md").read_text("utf-8"), re.DOTALL)
PLAN, BUILD, VERIFY = EXAMPLES
_AFTERWARDS = """
import sys
assert not [name for name in sys.modules if name.split(".")[:2] == ["imagebuilder", "cli"]], "imports cli"
"""


def ran(place: Place, code: str) -> str:
    """What an example prints, with nothing in its environment but a home folder and where programs lie."""
    done = subprocess.run(
        [sys.executable, "-c", code + _AFTERWARDS],
        cwd=place.folder,
        env={"PATH": os.environ["PATH"], "HOME": str(place.folder.parent), "PYTHONPATH": str(TOP)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
