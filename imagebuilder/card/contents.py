"""Cache of verified pieces, keyed by a fast MAC.

The nodes of a cluster are mostly alike: what is read back from six cards is six times the same. So bytes that
had a given sha256 once are recognized by a keyed universal hash, Poly1305 (RFC 8439), whose key is drawn anew
for each run and never leaves it: other bytes of a piece's size pass for them with a chance below 2^-80. It
costs a fifth of sha256. Comparing with the image costs no less: an image may change while cards are written,
so what is read of it must be hashed each time.
"""

import hashlib
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.poly1305 import Poly1305


@dataclass(frozen=True)
class Contents:
    """What the cards of one run were seen to hold. Threads may share it."""

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
