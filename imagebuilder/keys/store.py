"""Key store in the cluster's state folder: keys are generated once and reused (0600, folder 0700).

host-keys/NODE    the private host key of each node; the public key is in NODE.pub
gateway-key       the workers' key for opening the gateway
user-key          a login key, generated only if the user has none
salt              the salt of the password hash
munge-key         the key of munge, if it is installed by `packages`
cards.jsonl       the history of the cards; no key, written by history/store.py
"""

import logging
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import PiimgError
from imagebuilder.keys import ssh
from imagebuilder.keys.missing import MUNGE_KEY, KeyPlace
from imagebuilder.model import KeyPair
from imagebuilder.reading import SMALL, read_regular
from imagebuilder.system import files

_log = logging.getLogger(__name__)

_SALT_CHARACTERS = string.ascii_letters + string.digits + "./"


@dataclass(frozen=True)
class KeyStore:
    """The keys in ``folder``. With ``keep`` False missing keys are generated but not stored.

    The names of the keys are noted for ``place``, to find missing ones later: keys/missing.py.
    """

    folder: Path
    keep: bool = True
    place: KeyPlace | None = None

    @property
    def user_key_file(self) -> Path:
        """The path of the login key generated for the cluster."""
        return self.folder / "user-key"

    def kept(self, name: str, comment: str) -> KeyPair | None:
        """The key in the file ``name``, or None if it does not exist. Generates nothing."""
        file = self.folder / name
        private = _read(file)
        if private is None:
            return None
        try:
            return ssh.parse(private, comment)
        except PiimgError as error:
            raise PiimgError(
                f"{file}: {error.message}",
                "restore the file; or remove it, and generate a new key with --new-keys",
            ) from error

    def key(self, name: str, comment: str) -> KeyPair:
        """The key in the file ``name``; generated and stored if it does not exist."""
        kept = self.kept(name, comment)
        if kept is not None:
            return kept
        file = self.folder / name
        pair = ssh.make(comment)
        self._keep(file, pair.private)
        self._keep(file.with_name(f"{file.name}.pub"), f"{pair.public}\n")
        return pair

    def remember(self, names: Sequence[str]) -> None:
        """Note the ``names`` of the cluster's keys, and munge's if it has one. Raises PiimgError."""
        if self.keep and self.place is not None:
            munge = [MUNGE_KEY] if (self.folder / MUNGE_KEY).exists() else []
            try:
                self.place.remember([*names, *munge])
            except OSError as error:
                raise PiimgError(
                    f"cannot write {self.place.note}: {error.strerror}", "make the cluster folder writable"
                ) from error

    def salt(self) -> str:
        """The salt of password hashes: sixteen characters of crypt(5)'s alphabet, stored like a key."""
        file = self.folder / "salt"
        kept = _read(file)
        if kept is None:
            salt = "".join(secrets.choice(_SALT_CHARACTERS) for _ in range(16))
            self._keep(file, f"{salt}\n")
            return salt
        salt = kept.decode("ascii", "replace").strip()
        if not re.fullmatch(r"[A-Za-z0-9./]{1,16}", salt):
            raise PiimgError(f"{file}: not a salt of crypt(5)", "remove the file to generate a new one")
        return salt

    def random(self, name: str, size: int) -> bytes:
        """``size`` random bytes in the file ``name``, stored like a key."""
        file = self.folder / name
        kept = _read(file)
        if kept is None:
            kept = secrets.token_bytes(size)
            self._keep(file, kept)
        if len(kept) != size:
            raise PiimgError(f"{file} does not have {size} bytes", "remove the file to generate a new one")
        return kept

    def _keep(self, file: Path, content: str | bytes) -> None:
        if not self.keep:
            return
        _log.info("%s: made anew", file)
        try:
            files.make_private(file.parent, self.folder.parent.parent)
            files.write(file, content.encode() if isinstance(content, str) else content, 0o600)
            files.hand_over(file, self.folder.parent.parent)
        except OSError as error:
            raise PiimgError(
                f"cannot store a key in {self.folder}: {error.strerror}",
                "make the cluster folder writable",
            ) from error


def _read(file: Path) -> bytes | None:
    try:
        return read_regular(file, SMALL)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PiimgError(
            f"cannot read {file}: {error.strerror}",
            "run piimg as the owner of the cluster folder, or with sudo",
        ) from error
