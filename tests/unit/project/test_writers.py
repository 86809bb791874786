"""Who writes: what piimg saves goes through system/files.py; every other call that writes is listed here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import imagebuilder

PACKAGE = Path(imagebuilder.__file__).parent
SAVING = "system/files.py"

OTHERS = {
    ("base/cache.py", "Cache.keep"): "renames the image that was unpacked within the user's cache",
    ("base/removal.py", "remove_whole"): "renames a folder of the user's cache that it removes next",
    ("base/cache.py", "Cache.unpacking"): "the cache's own unfinished image, made by O_EXCL",
    ("base/download.py", "_begin"): "the cache's own unfinished download, made by O_EXCL",
    ("base/download.py", "_receive"): "appends to the unfinished download",
    ("base/signature.py", "check"): "a temporary folder for gpgv, ours alone",
    ("base/unpack.py", "unpack"): "into the cache's own unfinished image",
    ("boot/firmware.py", "*"): "the folder of an emulated node, ours alone",
    ("boot/kernel.py", "_apt_options"): "the work folder of the companion kernel",
    ("boot/kernel.py", "_fetch"): "a folder within the user's cache, renamed when it is whole",
    ("boot/kernel.py", "_pack"): "a temporary folder, and the file that files.replacing gave",
    ("base/cache.py", "_opened"): "opens a lock in the user's cache; nothing is written to it",
    ("boot/login.py", "*"): "the folder of an emulated cluster, ours alone",
    ("boot/run.py", "*"): "the folder of an emulated cluster, ours alone",
    ("dressing/apt.py", "*"): "apt's work folder within the user's cache, ours alone",
    ("dressing/archives.py", "make_plain"): "into a temporary folder of the user's cache, ours alone",
    ("dressing/chroot.py", "*"): "the log in the user's cache, and a tmpfs of a namespace of its own",
    ("dressing/downloads.py", "_fetch"): "renames a checked download within the user's cache",
    ("dressing/downloads.py", "_stream"): "memory",
    ("dressing/inside.py", "*"): "a tmpfs of a namespace of its own",
    ("dressing/namespace.py", "run_inside"): "a temporary file without a name",
    ("history/store.py", "*"): "appends to what is opened by O_NOFOLLOW, and must be a plain file",
    ("cli/log.py", "*"): "appends to what is opened by O_NOFOLLOW, and must be a plain file and a log",
    ("cli/commands/init.py", "_lay_out"): "into a new folder, ours alone",
    (
        "cli/commands/init.py",
        "_publish",
    ): "renames that folder, which rename(2) puts in no file's place, or what is in it, into an empty one",
    (
        "requirements/mounting.py",
        "_device",
    ): "opens a device of the host to see if it may, and closes it",
    ("requirements/mounting.py", "_try_to_mount"): "a temporary folder, ours alone",
    ("cli/main.py", "_give_up_unwritable"): "/dev/null in place of a stream that takes nothing",
    ("cli/main.py", "main"): "/dev/null in place of a stream that was closed",
    ("image/build.py", "_lay_changes"): "the unfinished image that files.replacing gave",
    ("image/grow.py", "*"): "the scratch copy of a preparation, ours alone",
    ("card/backup.py", "_add_beside"): "the unfinished files that files.replacing gave",
    ("image/packed.py", "writing"): "the unfinished backup that files.replacing gave",
    ("image/partitions.py", "grow_root"): "the scratch copy of a preparation, ours alone",
    ("image/partitions.py", "*"): "a scratch copy of a partition table",
    ("image/prepare.py", "_scratch_copy"): "within a scratch folder, ours alone",
    ("image/prepare.py", "_store_blocks"): "the unfinished file that files.replacing gave",
    ("image/scratch.py", "_only_metadata"): "the template of a preparation, in a scratch folder, ours alone",
    ("image/tree.py", "*"): "into the node image, by descriptors of its folders and O_NOFOLLOW",
    ("system/blockdev.py", "*"): "the card's own device",
    ("system/emulation.py", "try_arm64"): "a temporary folder, ours alone",
    ("system/journal.py", "*"): "notes in /run/piimg, and private folders, ours alone",
    ("system/loop.py", "*"): "loop devices",
    ("system/mount.py", "*"): "a mount point in /run/piimg, ours alone",
    ("system/process.py", "*"): "what a program in the background says, in a folder of ours alone",
    ("system/scratch.py", "scratch_folder"): "a scratch folder, ours alone",
    ("system/udisks.py", "*"): "the card's own device",
}
"""Module and function ("*": any) of every other writer, and why it is one."""

FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}
READS = {"which", "rmtree", "disk_usage", "get_terminal_size", "gettempdir"}
OF_OS = {"rename", "replace", "renames", "link", "symlink", "mknod", "mkfifo", "truncate"}
OF_PATH = {"write_text", "write_bytes", "touch", "rename", "symlink_to", "hardlink_to"}


def writes(call: ast.Call) -> str:
    """What a call does, if it may open a file for writing or put something in place of it; else empty."""
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    of = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
    used = {one.attr for one in ast.walk(call) if isinstance(one, ast.Attribute)}
    if of == "os" and name in OF_OS:
        return f"os.{name}"
    if of in ("shutil", "tempfile") and name not in READS:
        return f"{of}.{name}"
    if name in OF_PATH and isinstance(called, ast.Attribute):
        return name
    if name == "replace" and isinstance(called, ast.Attribute) and len(call.args) == 1 and not call.keywords:
        return "Path.replace"
    if of == "os" and name == "open":
        return "os.open" if used & FLAGS else ""
    if name in ("open", "fdopen", "ZipFile", "TarFile"):
        words = [*call.args, *(keyword.value for keyword in call.keywords)]
        texts = [
            word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)
        ]
        if any(set(text) <= set("rwxabt+") and set(text) & set("wxa+") for text in texts):
            return f"{of}.{name}"
    return ""


def writers(source: str) -> Iterator[tuple[str, str]]:
    """Every call of a module that writes: the function it stands in, and what it does."""

    def within(tree: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(tree):
            inner = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".removeprefix(".")
            elif isinstance(child, ast.Call) and (what := writes(child)):
                yield function, what
            yield from within(child, inner)

    yield from within(ast.parse(source), "")


def flags_kept(source: str) -> Iterator[str]:
    """Flags for writing that a module names outside of a call: then the call that takes them is not seen."""
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.Attribute) and one.attr in FLAGS:
            yield one.attr


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_what_is_saved_goes_through_one_place(file: Path) -> None:
    module = str(file.relative_to(PACKAGE))
    if module == SAVING:
        return
    found = list(writers(file.read_text()))
    for function, what in found:
        assert (module, function) in OTHERS or (module, "*") in OTHERS, (
            f"{module}: {function} writes by {what}: save it with system/files.py, or say here why not"
        )
    if not found and any(flags_kept(file.read_text())):
        assert (module, "*") in OTHERS, f"{module} has flags for writing: say here what for"


def test_the_list_has_nobody_who_writes_nothing() -> None:
    idle = []
    for module, function in OTHERS:
        source = (PACKAGE / module).read_text()
        found = {one for one, _ in writers(source)}
        if not ((found or any(flags_kept(source))) if function == "*" else function in found):
            idle.append((module, function))
    assert idle == []


@pytest.mark.parametrize(
    "line",
    [
        'Path("x").write_text("y")',
        'path.open("w")',
        'path.open(mode="r+b")',
        'open("x", "ab")',
        'os.open("x", os.O_RDONLY | os.O_CREAT)',
        'os.replace("x", "y")',
        "path.replace(other)",
        "shutil.copyfile(a, b)",
        "tempfile.mkstemp()",
        "os.mknod(path)",
        'zipfile.ZipFile(path, "w")',
    ],
)
def test_a_writer_is_seen(line: str) -> None:
    assert [one for one, _ in writers(f"def f():\n    {line}\n")] == ["f"]


@pytest.mark.parametrize(
    "line", ['path.open("rb")', 'text.replace("a", "b")', 'open("was")', 'os.open("x", os.O_RDONLY)']
)
def test_a_reader_is_none(line: str) -> None:
    assert list(writers(line)) == []
