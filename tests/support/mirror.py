"""A small mirror of Debian packages made by a test: a flat repository, served over HTTP (sources.list(5))."""

import hashlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` during the block; gives the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Mirror:
    """A flat repository in ``folder``."""

    folder: Path

    def add(
        self,
        name: str,
        fields: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        scripts: Mapping[str, str] | None = None,
    ) -> None:
        """Make a package. ``scripts`` are maintainer scripts: postinst, preinst, …"""
        tree = self.folder / f".{name}"
        control = {
            "Package": name,
            "Version": "1.0",
            "Architecture": "all",
            "Maintainer": "piimg <piimg@example.org>",
            "Installed-Size": "8",
            "Description": f"a package of the tests of piimg: {name}",
            **(fields or {}),
        }
        (tree / "DEBIAN").mkdir(parents=True)
        text = "".join(f"{key}: {value}\n" for key, value in control.items())
        (tree / "DEBIAN/control").write_text(text)
        for script, content in (scripts or {}).items():
            (tree / "DEBIAN" / script).write_text(content)
            (tree / "DEBIAN" / script).chmod(0o755)
        for path, content in (files or {}).items():
            file = tree / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        archive = self.folder / f"{name}.deb"
        words = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)]
        subprocess.run(words, check=True, capture_output=True)
        raw = archive.read_bytes()
        text += f"Filename: ./{archive.name}\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
        with (self.folder / "Packages").open("a") as index:
            index.write(f"{text}\n")
