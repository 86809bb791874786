"""Buffers shared by cards: a piece is read once for all, and a buffer in use is never filled again."""

import hashlib
import threading
from contextlib import ExitStack

import pytest

from imagebuilder.card.shared import SharedPieces
from imagebuilder.card.source import Piece

SIZE = 64


def piece_of(content: bytes) -> Piece:
    return Piece(0, len(content), hashlib.sha256(content).digest())


def test_a_piece_is_read_once_for_cards_that_need_it_at_the_same_time() -> None:
    shared, reads, inside = SharedPieces(2), list[Piece](), threading.Barrier(4)
    content = bytes(range(SIZE))

    def fill(piece: Piece, into: memoryview) -> None:
        reads.append(piece)
        threading.Event().wait(0.05)
        into[:SIZE] = content

    def use() -> None:
        with shared.filled(piece_of(content), fill, memoryview(bytearray(SIZE))) as data:
            inside.wait(5)
            assert data[:SIZE] == content

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(reads) == 1 and inside.n_waiting == 0 and not inside.broken


def test_buffers_in_use_keep_their_content_and_others_get_their_own() -> None:
    shared = SharedPieces(2)
    contents = [bytes([number]) * SIZE for number in range(5)]
    with ExitStack() as stack:
        held = []
        for content in contents:

            def fill(piece: Piece, into: memoryview, content: bytes = content) -> None:
                into[:SIZE] = content

            own = memoryview(bytearray(SIZE))
            data = stack.enter_context(shared.filled(piece_of(content), fill, own))
            held.append((data, content))
            assert (data is own) == (len(held) > 2)
        assert all(data[:SIZE] == content for data, content in held)


def test_an_error_of_one_reader_is_not_that_of_the_next() -> None:
    shared, piece, own = SharedPieces(2), piece_of(b"x" * SIZE), memoryview(bytearray(SIZE))

    def broken(piece: Piece, into: memoryview) -> None:
        into[:SIZE] = b"y" * SIZE
        raise OSError("cannot be read")

    def right(piece: Piece, into: memoryview) -> None:
        into[:SIZE] = b"x" * SIZE

    with pytest.raises(OSError, match="cannot be read"), shared.filled(piece, broken, own):
        pass
    with shared.filled(piece, right, own) as data:
        assert data[:SIZE] == b"x" * SIZE


@pytest.mark.parametrize("shared", [SharedPieces(0), SharedPieces(2)])
def test_without_a_digest_or_without_buffers_each_card_uses_its_own(shared: SharedPieces) -> None:
    own = memoryview(bytearray(SIZE))
    piece = Piece(0, SIZE, b"" if shared.kept else b"d" * 32)

    def fill(piece: Piece, into: memoryview) -> None:
        into[:SIZE] = bytes(SIZE)

    with shared.filled(piece, fill, own) as data:
        assert data is own
