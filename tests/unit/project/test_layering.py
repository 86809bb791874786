"""The table of docs/design.md: who may import whom, where each library lives, who spawns processes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import imagebuilder

PACKAGE = Path(imagebuilder.__file__).parent
PROJECT = PACKAGE.parent
LINES_LIMIT = 400

CORE = {
    *("model", "boards", "networks", "events", "errors", "manifest", "reading", "software", "toml"),
    *("resources", "text", "version", "progress", "settings"),
}
MAY_IMPORT = {
    "core": {"core"},
    "system": {"system", "core"},
    "keys": {"keys", "system", "core"},
    "overlay": {"overlay", "system", "core"},
    "base": {"base", "system", "core"},
    "plan": {"overlay", "core"},
    "summary": {"overlay", "core"},
    "graph": {"core"},
    "export": {"core"},
    "sbom": {"core"},
    "starter": {"core"},
    "image": {"image", "plan", "overlay", "base", "keys", "system", "core"},
    "device": {"device", "image", "system", "core"},
    "card": {"card", "device", "image", "system", "core"},
    "history": {"history", "card", "device", "image", "system", "core"},
    "station": {"station", "history", "card", "device", "image", "system", "core"},
    "boot": {"boot", "image", "base", "system", "core"},
    "pages": {"pages", "history", "card", "boot", "export", "graph", "core"},
    "diagnostics": {"system", "core"},
    "requirements": {"requirements", "device", "base", "system", "core"},
    "workspace": {"overlay", "base", "keys", "system", "core"},
    "dressing": {"dressing", "image", "base", "keys", "system", "core"},
    "builder": {"workspace", "dressing", "image", "plan", "base", "system", "core"},
    "library": {
        *("builder", "workspace", "card", "image", "plan", "base", "keys", "core"),
    },
    "cli": {
        *("cli", "dressing", "requirements", "builder", "workspace", "boot", "station", "history", "card"),
        *("device", "image", "plan", "summary", "graph", "export", "sbom", "overlay", "base", "keys"),
        *("pages", "starter", "system", "core", "diagnostics"),
    },
}
LIBRARIES = {
    "click": {"cli"},
    "tqdm": {"cli"},
    "pyudev": {"device"},
    "jeepney": {"system"},
    "parted": {"image"},
    "_ped": {"image"},
    "requests": {"base"},
    "urllib3": {"base"},
    "cryptography": {"card", "keys"},
    "passlib": {"keys"},
    "cyclonedx": {"sbom"},
    "packageurl": {"sbom"},
    "jinja2": {"overlay", "pages", "starter", "cli"},
    "markupsafe": {"pages"},
    "segno": {"cli", "pages"},
    "starlette": {"cli"},
    "uvicorn": {"cli"},
    "weasyprint": {"pages"},
    "yaml": {"image"},
    "zstandard": {"image"},
    "pydantic": {"core", "overlay", "base", "dressing", "image", "device", "history", "station", "boot"},
}
SPAWNING = {
    "os": {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}

MODULES = {
    ".".join(("imagebuilder", *file.relative_to(PACKAGE).with_suffix("").parts)): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def row_of(module: str) -> str:
    """The row of the table that a module of imagebuilder belongs to."""
    first = module.split(".")[1:2]
    if first == ["__init__"]:
        return "library"
    is_module = first and ((PACKAGE / first[0]).is_dir() or (PACKAGE / f"{first[0]}.py").is_file())
    return first[0] if is_module and first[0] not in CORE else "core"


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module that ``file`` imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            if node.module == "imagebuilder":
                yield from ((f"imagebuilder.{alias.name}", node.lineno) for alias in node.names)
            elif node.module:
                yield node.module, node.lineno


def breaches(file: Path, module: str) -> list[str]:
    """The imports of ``file`` (as ``module``) that the table does not allow."""
    row = row_of(module)
    found = []
    for name, line in imports(file):
        top = name.split(".")[0]
        if top == "imagebuilder":
            allowed = row_of(name) in MAY_IMPORT[row]
        elif top in sys.stdlib_module_names:
            allowed = True
        else:
            allowed = row in LIBRARIES.get(top, set())
        if not allowed:
            found.append(f"{file.name}:{line}: {row} imports {name}")
    return found


def graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """By module: the modules that it imports anywhere in it, inside functions too."""
    known = {name.removesuffix(".__init__") for name in modules}
    found: dict[str, set[str]] = {}
    for module, file in modules.items():
        uses = found.setdefault(module.removesuffix(".__init__"), set())
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                uses |= {alias.name for alias in node.names} & known
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    uses |= {full if full in known else node.module} & known
        uses.discard(module.removesuffix(".__init__"))
    return found


def spawns(file: Path) -> list[str]:
    """Where ``file`` uses what can spawn a process."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in SPAWNING.get(node.value.id, ()) or node.value.id in ("subprocess", "pty"):
                found.append(f"{file.name}:{node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module in ("subprocess", "pty", "multiprocessing"):
            found.append(f"{file.name}:{node.lineno}: from {node.module}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module: str) -> None:
    assert breaches(MODULES[module], module) == []


def test_the_walk_sees_a_breach(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "from imagebuilder.device import discovery\ndef f():\n    import click, parted\n"
        "    from imagebuilder import plan\n"
    )
    assert breaches(file, "imagebuilder.overlay.bad") == [
        "bad.py:1: overlay imports imagebuilder.device",
        "bad.py:3: overlay imports click",
        "bad.py:3: overlay imports parted",
        "bad.py:4: overlay imports imagebuilder.plan",
    ]
    file.write_text("import subprocess, os\nsubprocess.run(['x'])\nos.system('x')\n")
    assert spawns(file) == ["bad.py:2: subprocess.run", "bad.py:3: os.system"]


def test_no_import_cycle() -> None:
    assert list(TopologicalSorter(graph(MODULES)).static_order())


def test_the_graph_sees_a_cycle(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from imagebuilder import b\n")
    (tmp_path / "b.py").write_text("import imagebuilder.a\n")
    cyclic = graph({f"imagebuilder.{name}": tmp_path / f"{name}.py" for name in "ab"})
    with pytest.raises(CycleError):
        TopologicalSorter(cyclic).prepare()


def test_only_the_process_runner_spawns() -> None:
    """Types such as subprocess.CompletedProcess are free; a call is not."""
    found = {
        module: [use for use in spawns(file) if not use.endswith(("CompletedProcess", "TimeoutExpired"))]
        for module, file in MODULES.items()
    }
    assert {module for module, uses in found.items() if uses} == {
        "imagebuilder.system.process",
        "imagebuilder.dressing.enter",  # it becomes the program that the process runner wants to run
    }


def test_only_the_cache_makes_paths_in_its_folder() -> None:
    made = re.compile(r"cache\.folder\s*/")
    found = {module for module, file in MODULES.items() if made.search(file.read_text("utf-8"))}
    assert found == set(), "a file or folder of the cache is a property or a method of base/cache.py"


AUDIT = """
import importlib, os, sys

allowed_bytecode = sys.dont_write_bytecode
done = []

def hook(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        done.append(f"open {args[0]} {args[1]}")
    elif event == "open" and args[1] is None and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        done.append(f"os.open {args[0]}")
    elif event in ("subprocess.Popen", "os.fork", "os.system", "os.posix_spawn", "os.exec", "os.mkdir",
                   "os.remove", "os.rename", "socket.connect", "socket.bind", "signal.signal"):
        done.append(f"{event} {args}")

libraries = ["click", "cryptography.hazmat.primitives.serialization", "cyclonedx.output.json",
             "jinja2.sandbox", "parted", "passlib.hash", "pydantic", "pyudev", "requests", "segno",
             "starlette.applications", "tqdm", "uvicorn"]
for name in libraries:
    importlib.import_module(name)
from passlib.hash import sha512_crypt
sys.addaudithook(hook)
for name in sys.argv[1:]:
    importlib.import_module(name)
print("\\n".join(done))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No file is opened for writing, no folder made, no process, socket or signal handler."""
    names = [module.removesuffix(".__init__") for module in MODULES]
    done = subprocess.run(
        [sys.executable, "-B", "-c", AUDIT, *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["", ""]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_too_long() -> None:
    files = [*MODULES.values(), *(PROJECT / "scripts").rglob("*.py")]
    lengths = {str(file.relative_to(PROJECT)): file.read_bytes().count(b"\n") for file in files}
    assert {name: length for name, length in lengths.items() if length > LINES_LIMIT} == {}
