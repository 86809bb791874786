"""A stream: pieces come back in order, the first failure ends it, and the job sees a thread that hangs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imagebuilder.card.source import Piece
from imagebuilder.card.streams import Step, Stream, Taken, ahead, flow
from imagebuilder.card.workers import IN_FLIGHT, CardWorkers, running
from imagebuilder.errors import PiimgError

PIECES = [Piece(at, at + 1) for at in range(50)]


@contextmanager
def started(step: Step, pieces: list[Piece] = PIECES) -> Iterator[Stream]:
    stream = Stream(iter(pieces), step)
    data = memoryview(bytearray(1))
    threads = [threading.Thread(target=stream.work, args=(data,)) for _ in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    try:
        yield stream
    finally:
        stream.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def finished(stream: Stream) -> list[Piece]:
    done = []
    while stream.ready(5) and (taken := stream.next()) is not None:
        done.append(taken.piece)
    return done


def taken_from(stream: Stream) -> Taken:
    taken = stream.next()
    assert taken is not None
    return taken


def test_pieces_are_in_order_whoever_finishes_first() -> None:
    def step(piece: Piece, data: memoryview) -> bool:
        threading.Event().wait(0.002 * (piece.start % 3))
        return True

    with started(step) as stream:
        assert finished(stream) == PIECES
    assert not stream.failed


@pytest.mark.parametrize("fault", [OSError(5, "broken"), ValueError("no"), None])
def test_the_first_failure_ends_it_and_nothing_is_in_flight(fault: Exception | None) -> None:
    busy = threading.Semaphore(0)

    def step(piece: Piece, data: memoryview) -> bool:
        if piece.start == 10:
            if fault is not None:
                raise fault
            return False
        if piece.start > 10:
            threading.Event().wait(0.05)
            busy.release()
        return True

    with started(step) as stream:
        for at in range(10):
            assert stream.ready(5)
            assert taken_from(stream).piece.start == at
        assert stream.ready(5)
        later = len(stream.taken) - 1
        assert later <= 1 and all(busy.acquire(blocking=False) for _ in range(later))
        assert stream.taken[0].right is False and stream.taken[0].error is fault
    assert stream.failed
    assert next(stream.pieces).start == 11 + later


def test_a_thread_that_hangs_is_noticed_although_the_other_goes_on() -> None:
    answered = threading.Event()

    def step(piece: Piece, data: memoryview) -> bool:
        return piece.start != 3 or answered.wait(5)

    with started(step) as stream:
        for _ in range(3):
            assert stream.ready(5)
            taken_from(stream)
        assert not stream.ready(0.3)
        assert stream.taken[0].piece.start == 3
        answered.set()
        assert stream.ready(5) and stream.taken[0].right


def test_it_ends_when_it_is_closed() -> None:
    endless = (Piece(at, at + 1) for at in iter(int, 1))
    stream = Stream(endless, lambda piece, data: True)
    thread = threading.Thread(target=stream.work, args=(memoryview(b""),))
    thread.start()
    stream.close()
    thread.join(5)
    assert not thread.is_alive()


def test_the_threads_do_not_run_far_ahead_of_the_job() -> None:
    with started(lambda piece, data: True) as stream:
        assert stream.ready(5)
        threading.Event().wait(0.2)
        ahead = len(stream.taken)
        assert ahead < len(PIECES) / 2
        assert finished(stream) == PIECES


@contextmanager
def threads_of_a_card(patience: float = 5) -> Iterator[CardWorkers]:
    workers = CardWorkers(patience, lambda: None)
    with running(workers, "sdz"):
        yield workers


BUFFERS = [memoryview(bytearray(1)) for _ in range(IN_FLIGHT)]


def test_after_a_failure_the_rest_goes_on_and_meanwhile_the_threads_are_free() -> None:
    def step(piece: Piece, data: memoryview) -> bool:
        if piece.start == 7:
            raise OSError(5, "broken")
        return piece.start not in (11, 12, 49)

    both = threading.Barrier(IN_FLIGHT, timeout=5)

    def meet() -> None:
        both.wait()

    with threads_of_a_card() as workers:
        seen = []
        for taken in flow(workers, BUFFERS, PIECES, step):
            if not taken.right:  # both threads take another operation at once
                meanwhile = [workers.begin(meet) for _ in range(IN_FLIGHT)]
                assert [workers.outcome(one) for one in meanwhile] == [None] * IN_FLIGHT
            seen.append((taken.piece, taken.right, taken.error is None))
    bad = {7: False, 11: True, 12: True, 49: True}
    assert seen == [(piece, piece.start not in bad, bad.get(piece.start, True)) for piece in PIECES]


def test_a_piece_that_exceeds_the_time_limit_is_the_last() -> None:
    answered = threading.Event()

    def step(piece: Piece, data: memoryview) -> bool:
        return piece.start != 5 or answered.wait(10)

    with threads_of_a_card(patience=0.5) as workers:
        seen = list(flow(workers, BUFFERS, PIECES, step))
        assert workers.stalled
        answered.set()
    assert [taken.piece.start for taken in seen] == list(range(6))
    assert isinstance(seen[-1].error, TimeoutError) and not seen[-1].right
    with threads_of_a_card() as workers:
        workers.stalled = True
        (taken,) = flow(workers, BUFFERS, PIECES, step)
        assert isinstance(taken.error, TimeoutError)


def test_another_exception_is_raised_and_the_threads_end() -> None:
    def step(piece: Piece, data: memoryview) -> bool:
        if piece.start == 5:
            raise PiimgError("the image changed", "build it again")
        return True

    with threads_of_a_card() as workers:
        with pytest.raises(PiimgError, match="the image changed"):
            list(flow(workers, BUFFERS, PIECES, step))
        assert workers.outcome(workers.begin(lambda: None)) is None


def test_a_job_that_stops_waits_for_what_is_in_flight() -> None:
    busy = threading.Semaphore(0)

    def step(piece: Piece, data: memoryview) -> bool:
        busy.release()
        threading.Event().wait(0.02)
        busy.acquire()
        return True

    with threads_of_a_card() as workers:
        steps = flow(workers, BUFFERS, PIECES, step)
        next(steps)
        steps.close()
        assert not busy.acquire(blocking=False)


def test_tasks_ahead_are_in_order_and_each_has_its_own_buffer_until_the_next() -> None:
    buffers = [memoryview(bytearray(1)) for _ in range(IN_FLIGHT)]

    def operation(number: int, data: memoryview) -> None:
        threading.Event().wait(0.002 * (number % 3))
        data[0] = number
        if number == 4:
            raise OSError(5, "broken")

    with threads_of_a_card() as workers:
        seen = []
        for number, data, error in ahead(workers, buffers, range(20), operation):
            threading.Event().wait(0.002)
            seen.append((number, data[0], error is None))
    assert seen == [(number, number, number != 4) for number in range(20)]


def test_what_is_ahead_is_waited_for_when_the_job_stops() -> None:
    begun, ended = list[int](), list[int]()

    def operation(number: int, data: memoryview) -> None:
        begun.append(number)
        threading.Event().wait(0.1 * number)
        ended.append(number)

    with threads_of_a_card() as workers:
        steps = ahead(workers, BUFFERS, range(20), operation)
        next(steps)
        steps.close()
        assert sorted(begun) == sorted(ended) == [0, 1]
