"""An older build of piimg in its own virtual environment, for comparison."""

import shutil
import subprocess
import sys
from pathlib import Path

from bench.context import Bench, Failed
from bench.images import TOP, Images, kept_folder, make_cluster
from bench.measure import Words

COMMIT = "2cc0e2a"


def older(bench: Bench) -> Path:
    """Its `piimg`, installed if it is not there. Raises Failed where git does not have that commit."""
    folder = bench.work / f"older-{COMMIT}"
    program = folder / "environment" / "bin" / "piimg"
    if (folder / "installed").exists():
        return program
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "source"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", TOP, "archive", COMMIT], capture_output=True, check=False)
    if archive.returncode:
        raise Failed(f"{COMMIT} is not in this clone: {archive.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    pip: Words = [folder / "environment" / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", source / "requirements.lock"], check=True)
    subprocess.run([*pip, "--no-deps", source], check=True)
    (folder / "installed").touch()
    return program


def older_cluster(bench: Bench, made: Images) -> Images:
    """A cluster folder of the older build, with a cache of its own: the same manifest, the same base image.

    A node of it was built already, so that what that build keeps of a base image is there.
    """
    program = older(bench)

    def make(folder: Path) -> None:
        its = Images(made.base, folder, program)
        make_cluster(its)
        its.piimg("build", "--node", "worker1")
        shutil.rmtree(folder / "build")

    folder = kept_folder(made.base.parent, "older", COMMIT, make)
    return Images(made.base, folder, program, made.used)
