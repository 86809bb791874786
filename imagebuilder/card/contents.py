"""Cache of verified pieces, keyed by a fast MAC.

The nodes of a cluster have mostly the same content, so six cards return mostly the same pieces. Once a piece
was checked by its sha256, later copies are checked with a keyed universal hash, Poly1305 (RFC 8439). Its
random key is created for each run and never leaves the process: different bytes of the same size are accepted
with a probability below 2^-80. Poly1305 takes a fifth of the time of sha256. Comparing with the image would
not be faster: an image may change while cards are written, so its bytes must be hashed on each read.
"""

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.poly1305 import Poly1305


@dataclass(frozen=True)
class Contents:
    """The verified pieces of one run. Safe from any thread."""

    _key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    _tags: dict[bytes, bytes] = field(default_factory=dict, repr=False)

    def has(self, data: memoryview, digest: bytes) -> bool:
        """Whether ``digest`` is the sha256 of ``data``."""
        tag = self._tags.get(digest)
        if tag is not None:
            return tag == Poly1305.generate_tag(self._key, data)
        if hashlib.sha256(data).digest() != digest:
            return False
        self._tags[digest] = Poly1305.generate_tag(self._key, data)
        return True
