"""Password hashes and Wi-Fi keys, so that no password or passphrase reaches a card."""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from passlib.hash import sha512_crypt

from imagebuilder.errors import UsageError

NO_PASSWORD = "*"
"""A hash that no password has (shadow(5)): the account accepts keys only and is not locked."""


def wifi_psk(ssid: str, passphrase: str) -> str:
    """The pre-shared key of a WPA network, 64 hex digits (IEEE 802.11i, annex H.4).

    A passphrase has 8 to 63 printable ASCII characters; 64 hex digits are the key itself.
    Raises UsageError for anything else.
    """
    if len(passphrase) == 64 and all(c in "0123456789abcdefABCDEF" for c in passphrase):
        return passphrase.lower()
    if not (8 <= len(passphrase) <= 63 and passphrase.isascii() and passphrase.isprintable()):
        raise UsageError(
            f"the passphrase of the network {ssid} must have 8 to 63 printable ASCII characters",
            "or give the key itself, as 64 hexadecimal digits",
        )
    # The standard requires SHA-1.
    kdf = PBKDF2HMAC(hashes.SHA1(), length=32, salt=ssid.encode(), iterations=4096)
    return kdf.derive(passphrase.encode()).hex()


def password_hash(password: str, salt: str) -> str:
    """The crypt(5) SHA-512 hash of ``password``; the same ``salt`` (1 to 16 characters) gives the same hash.

    Raises UsageError for a password that cannot be typed at a login prompt.
    """
    if not password or len(password) > 1024 or not password.isprintable():
        raise UsageError(
            "the password must have 1 to 1024 characters and no control character", "choose another one"
        )
    return str(sha512_crypt.using(salt=salt, rounds=5000).hash(password))
