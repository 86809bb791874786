"""Other tools write the same cards in the same rig: six at the same time, read back."""

import json
import shutil
import subprocess
from pathlib import Path

from bench.cards import rig
from bench.context import CARD, Bench, Failed, check, measured
from bench.flashing import GB
from bench.images import NODES, Images, warm
from bench.measure import Run, Words
from imagebuilder.system.process import environment

ETCHER = "10.2.15"  # the version of etcher-sdk that is measured
# Its only dependency from outside the registry; it is for .bz2, which is not used here.
_INSTEAD = {"unbzip2-stream": "1.4.3"}
_COMPILED = ("@ronomon/direct-io", "mountutils", "drivelist")  # its compiled dependencies

_DD = """
dd if="$1" of="$2" bs=4M oflag=direct conv=fsync status=none
blockdev --flushbufs "$2"
cmp --bytes="$(stat --format=%s "$1")" "$1" "$2"
"""
_BMAPTOOL = """
bmaptool --quiet copy --bmap "$3" "$1" "$2"
blockdev --flushbufs "$2"
bmaptool --quiet copy --bmap "$3" "$2" /dev/null
"""


def dd(bench: Bench) -> None:
    """Six times dd, and cmp of the whole image."""
    _each(bench, "dd", "dd and cmp, six at once, the whole image", _DD)


def bmaptool(bench: Bench) -> None:
    """Six times bmaptool, and its check."""
    _each(bench, "bmaptool", "bmaptool and its check, six at once", _BMAPTOOL)


def _each(bench: Bench, name: str, what: str, script: str) -> None:
    made = bench.images()
    images = [made.built / f"{node}.img" for node in NODES]
    warm(*images)
    with rig(bench.cards, [CARD] * 6) as cards:
        commands: list[Words] = [
            ("sh", "-e", "-c", script, name, image, device, image.with_suffix(".bmap"))
            for image, device in zip(images, cards.devices, strict=True)
        ]
        _add(bench, made, name, what, check(measured(bench, cards, name, commands), what))


def etcher(bench: Bench) -> None:
    """etcher-sdk, one image to six cards, its intended use."""
    what = f"etcher-sdk {ETCHER}, six at once"
    try:
        modules = _etcher(bench.work / "etcher")
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"etcher-sdk cannot be installed: {error}; {_said(error)}") from error
    made = bench.images()
    with rig(bench.cards, [CARD] * 6) as cards:
        script, image = Path(__file__).with_name("etcher.js"), made.built / f"{NODES[1]}.img"
        warm(image)
        command: Words = ["node", script, image, *cards.devices]
        done = measured(bench, cards, "etcher", [command], env={"NODE_PATH": str(modules)})
        _add(bench, made, "etcher", what, check(done, what))


def _add(bench: Bench, made: Images, name: str, what: str, done: Run) -> None:
    limit = CARD.seconds(made.used, made.used)
    bench.add(name, what, done, 6 * made.used / GB, reference=limit, to="limit")


def _etcher(folder: Path) -> Path:
    """The folder of node modules with etcher-sdk in it, installed from the npm registry if need be."""
    modules = folder / "node_modules"
    if (folder / f"installed-{ETCHER}").exists():
        return modules
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    package = {"private": True, "dependencies": {"etcher-sdk": ETCHER}, "overrides": _INSTEAD}
    (folder / "package.json").write_text(json.dumps(package))
    node = shutil.which("node")
    if node is None:
        raise FileNotFoundError("node is not installed")
    # Compiled with the headers installed with node: none are fetched.
    env = environment({"npm_config_nodedir": str(Path(node).resolve().parents[1])})
    for words in (["install", "--ignore-scripts", "--no-audit", "--no-fund"], ["rebuild", *_COMPILED]):
        subprocess.run(["npm", *words], cwd=folder, env=env, check=True, capture_output=True)
    (folder / f"installed-{ETCHER}").touch()
    return modules


def _said(error: Exception) -> str:
    said = getattr(error, "stderr", b"") or b""
    return " ".join(said.decode("utf-8", "replace").split())[-500:]
