"""The host's apt resolves and downloads the packages of an image; it never installs anything.

apt gets a configuration of its own: the sources and keys of the image, its list of installed packages,
folders in the cache, and of the host's configuration only what is about connections (``Acquire::http`` and
the like). The image's apt.conf is not used, as it may name programs to run. ``Dir::Bin::dpkg`` is /bin/false:
with another root than the host's, apt-get would otherwise run the host's dpkg on the host (apt 2.6).
"""

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.base.space import check_room
from imagebuilder.dressing import debian
from imagebuilder.dressing.debian import Package, Step
from imagebuilder.dressing.store import Store
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.events import Reporter
from imagebuilder.image.base.opening import Base
from imagebuilder.image.base.reader import BaseReader
from imagebuilder.system import files, journal
from imagebuilder.system.process import ToolError, run, run_until
from imagebuilder.text import did_you_mean, printable

STATUS = "/var/lib/dpkg/status"
_STATUS_LIMIT = 64 << 20  # bytes; that of a desktop has 3 MiB
_ARCHITECTURES = "/var/lib/dpkg/arch"
_LISTS_SPACE = 300 << 20  # bytes for the package lists of one base image
_CONNECTIONS = re.compile(r"Acquire::(https?|ftp|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])\b.*")
_FOLDERS = ("sources.list.d", "trusted.gpg.d", "preferences.d")
_TIMEOUT = 20  # seconds
_SHOWN = 200  # characters of apt's messages
_COMMANDS_AT_ONCE = 500  # packages of one call of apt-cache


@dataclass(frozen=True)
class Resolution:
    """What dpkg is to do, in order; the folder of the package files; the bytes that they take installed.

    ``automatic`` are the new packages that were not asked for.
    """

    steps: tuple[Step, ...]
    archives: Path
    size: int
    automatic: tuple[Package, ...]

    @property
    def unpacked(self) -> tuple[Package, ...]:
        """All packages that are unpacked, in order."""
        return self._all("unpack")

    @property
    def removed(self) -> tuple[Package, ...]:
        """All packages that are removed."""
        return self._all("remove")

    def _all(self, action: debian.Action) -> tuple[Package, ...]:
        return tuple(package for step in self.steps if step.action == action for package in step.packages)


def resolve(
    base: Base, packages: Sequence[str], store: Store, reporter: Reporter, stop: threading.Event
) -> Resolution:
    """Find out what ``packages`` need on ``base``, and download it into the cache.

    Raises Interrupted when ``stop`` is set, UsageError for a package that does not exist, and PiimgError when
    packages exclude each other or cannot be fetched.
    """
    with (
        store.downloading(reporter, stop),
        journal.folder_for_a_while(store.apt, ".") as work,
    ):
        check_room(store.apt, _LISTS_SPACE, "fetch the lists of packages")
        for left in store.apt.glob(".*.partial"):  # of runs that were killed
            if left != work:
                shutil.rmtree(left)
        apt = _Apt(work, store, base, stop)
        apt.update()
        apt.check_names(packages)
        steps = apt.simulate(packages)
        unpacked = [package for step in steps if step.action == "unpack" for package in step.packages]
        size = apt.size_of(unpacked)
        apt.download(packages, unpacked)
        known = {one.name for one in debian.installed(apt.status)}
        automatic = [one for one in unpacked if one.name not in known and one.name not in packages]
    return Resolution(steps, store.archives, size, tuple(automatic))


def read_status(base: Base) -> str:
    """dpkg's list of the packages of a base image. Raises PiimgError if it has none."""
    status = _text(BaseReader(base.file, base.boot, base.root, base.name).read(STATUS, _STATUS_LIMIT))
    if not status:
        raise PiimgError(f"{base.name} has no list of its packages ({STATUS})", "use a Debian base image")
    return status


class _Apt:
    """apt for one base image, with its own files in the folder ``work``."""

    def __init__(self, work: Path, store: Store, base: Base, stop: threading.Event) -> None:
        self.stop = stop
        self.store = store
        self.name = base.name
        self.work = work
        reader = BaseReader(base.file, base.boot, base.root, base.name)
        self.status = read_status(base)
        native = base.info.architecture or debian.architecture_of(self.status)
        listed = _text(reader.read(_ARCHITECTURES)).split()
        self.architectures = list(dict.fromkeys([native, *listed]))
        (work / "status").write_text(self.status)
        sources = self._copy(reader)
        key = hashlib.sha256("\0".join([*self.architectures, sources]).encode()).hexdigest()[:32]
        self.lists = store.apt / key
        (self.lists / "partial").mkdir(parents=True, exist_ok=True)
        files.write(work / "apt.conf", self._configuration(native).encode(), 0o600)

    def _copy(self, reader: BaseReader) -> str:
        """Copy the image's sources and keys; the text of all sources."""
        etc, keys = self.work / "etc", self.work / "keys"
        for folder in (etc, keys, *(etc / name for name in _FOLDERS)):
            folder.mkdir()
        reader.learn_names(f"/etc/apt/{name}" for name in _FOLDERS)
        copied: dict[str, str | None] = {}

        def here(path: str) -> str | None:
            if path not in copied:
                copied[path] = _copy_key(reader, path, keys / str(len(copied)))
            return copied[path]

        texts = []
        for path in _files(reader, "sources.list", "sources.list.d"):
            if path.endswith((".list", ".sources")):
                text = _text(reader.read(f"/etc/apt/{path}"))
                text = debian.with_keys(text, path.endswith(".sources"), here)
                texts.append(text.replace(str(self.work), ""))
                (etc / path).write_text(text)
        if not "".join(texts).strip():
            raise PiimgError(
                f"{self.name} names no source of packages (/etc/apt/sources.list)",
                "install packages on the nodes, by a first-boot script",
            )
        for name in reader.names("/etc/apt/trusted.gpg.d"):
            if name.endswith((".gpg", ".asc", ".pgp")):
                _copy_key(reader, f"/etc/apt/trusted.gpg.d/{name}", etc / "trusted.gpg.d" / f"k-{name[:-4]}")
        for path in _files(reader, "preferences", "preferences.d"):
            if raw := reader.read(f"/etc/apt/{path}"):
                (etc / path).write_bytes(raw)
        return "\0".join(texts)

    def _configuration(self, native: str) -> str:
        work = self.work
        settings: list[tuple[str, str | Path]] = [
            ("APT::Architecture", native),
            *(("APT::Architectures::", name) for name in self.architectures),
            ("APT::Get::Assume-Yes", "true"),
            ("APT::Install-Recommends", "false"),
            ("APT::Sandbox::User", "root"),  # only the user can write to the folders
            ("APT::Cache::AllNames", "false"),
            ("Acquire::Languages", "none"),
            ("Dir::Bin::dpkg", "/bin/false"),
            ("Dir::Cache", work),
            ("Dir::Cache::Archives", self.store.archives),
            ("Dir::Etc", work / "etc"),
            ("Dir::Etc::Main", "/dev/null"),
            ("Dir::Etc::Parts", "/dev/null"),
            ("Dir::Log", work),
            ("Dir::State", work),
            ("Dir::State::Lists", self.lists),
            ("Dir::State::Status", work / "status"),
        ]
        dumped = run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]).stdout.decode(
            "utf-8", "replace"
        )
        connections = [line for line in dumped.splitlines() if _CONNECTIONS.match(line)]
        connections.insert(0, f'Acquire::http::Timeout "{_TIMEOUT}";')  # of a server that does not answer
        return "".join(f"{line}\n" for line in (*connections, *(f'{k} "{v}";' for k, v in settings)))

    def _run(self, *words: str) -> str:
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        env = {**proxies, "APT_CONFIG": str(self.work / "apt.conf")}
        done = run_until(words, self.stop, env=env, cwd=self.work)
        return done.stdout.decode("utf-8", "replace")

    def update(self) -> None:
        """Fetch the lists. Raises PiimgError when one source cannot be fetched or is not signed."""
        try:
            self._run("apt-get", "--error-on=any", "--quiet", "update")
        except ToolError as error:
            raise PiimgError(
                f"the lists of packages cannot be fetched: {self._complaint(error)}",
                "check the connection to this server, which the base image names as a source of packages",
            ) from error

    def check_names(self, packages: Sequence[str]) -> None:
        """Raise UsageError for packages that no source has; apt would read such a name as a pattern."""
        known = frozenset(self._run("apt-cache", "pkgnames").split())
        unknown = [name for name in packages if name not in known]
        if not unknown:
            return
        name = unknown[0]
        more = f" (and {len(unknown) - 1} more: {', '.join(unknown[1:])})" if len(unknown) > 1 else ""
        providers = self._providers(name)
        if providers:
            raise UsageError(
                f"{name} is not a package but a name for several{more}",
                f"name one of them: {', '.join(providers[:10])}",
            )
        near = [other for other in known if other[0] == name[0] and abs(len(other) - len(name)) < 4]
        raise UsageError(
            f"{self.name} has no package {name} in its sources{did_you_mean(name, near)}{more}",
            "packages of other releases and their names: https://packages.debian.org",
        )

    def _providers(self, name: str) -> list[str]:
        try:
            shown = self._run("apt-cache", "showpkg", name)
        except ToolError:
            return []
        found = shown.partition("Reverse Provides:")[2].split("\n")
        return sorted({line.split()[0] for line in found if line.strip()})

    def simulate(self, packages: Sequence[str]) -> tuple[Step, ...]:
        """What dpkg would do. Raises PiimgError when the packages cannot be installed together."""
        try:
            return debian.steps_of(self._run("apt-get", "--simulate", "--no-remove", "install", *packages))
        except ToolError as error:
            refused = error
        if b"Packages need to be removed but remove is disabled" in refused.stderr:
            # Allowed where a package takes the place of another, as chrony that of systemd-timesyncd.
            with contextlib.suppress(ToolError):
                return debian.steps_of(self._run("apt-get", "--simulate", "install", *packages))
        lines = refused.stdout.decode("utf-8", "replace").partition("unmet dependencies:\n")[2].splitlines()
        reason = lines[0].strip() if lines else self._complaint(refused)
        raise PiimgError(
            f"the packages cannot be installed on {self.name}: {printable(reason, _SHOWN)}",
            "remove one of the packages from the manifest or the layer",
        ) from refused

    def size_of(self, packages: Sequence[Package]) -> int:
        """The bytes that ``packages`` take when they are installed."""
        names = [f"{package.name}={package.version}" for package in packages]
        parts = [names[at : at + _COMMANDS_AT_ONCE] for at in range(0, len(names), _COMMANDS_AT_ONCE)]
        return sum(
            debian.installed_size(self._run("apt-cache", "show", "--no-all-versions", *part))
            for part in parts
        )

    def download(self, packages: Sequence[str], wanted: Sequence[Package]) -> None:
        """Download the files of ``wanted``, which ``packages`` need. apt checks them by its signed lists."""
        try:
            self._run("apt-get", "--download-only", "--quiet", "install", *packages)
        except ToolError as error:
            if error.stderr.count(b"don't have enough free space"):
                check_room(self.store.archives, 1 << 62, "download packages")
            raise PiimgError(
                f"packages cannot be fetched: {self._complaint(error)}", "check the connection, and try again"
            ) from error
        for package in wanted:
            if not (self.store.archives / package.archive).is_file():
                raise PiimgError(f"apt-get has not downloaded {package.archive}", "try again")

    def _complaint(self, error: ToolError) -> str:
        """apt's first complaint, which names the cause; the last one is only how it ended."""
        lines = error.stderr.decode("utf-8", "replace").splitlines()
        marks = ("E: ", "W: ", "Error: ", "Warning: ")
        complaints = [line.partition(": ")[2] for line in lines if line.startswith(marks)]
        text = complaints[0] if complaints else error.message
        return printable(re.sub(r"\s+", " ", text.replace(str(self.work), "")), _SHOWN)


def _files(reader: BaseReader, file: str, folder: str) -> list[str]:
    """A file of /etc/apt and those in a folder there that can be copied under the same name."""
    names = [name for name in reader.names(f"/etc/apt/{folder}") if re.fullmatch(r"[A-Za-z0-9_.+-]+", name)]
    return [file, *(f"{folder}/{name}" for name in names if name not in (".", ".."))]


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _copy_key(reader: BaseReader, path: str, target: Path) -> str | None:
    """Copy a key file of the image to ``target`` with the suffix that apt expects; None if there is none."""
    raw = reader.read(path)
    if not raw:
        return None
    copy = target.with_name(f"{target.name}{'.asc' if raw.startswith(b'-----BEGIN') else '.gpg'}")
    copy.write_bytes(raw)
    return str(copy)
