"""The ring of a stage link: a message overwrites only what was consumed, and both ends agree where it lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.parallel.copy_link import Ring


@given(st.integers(1, 5000), st.data())
def test_both_ends_place_a_message_alike(nbytes: int, data: st.DataObject) -> None:
    sender, receiver = Ring(nbytes), Ring(nbytes)
    for size in data.draw(st.lists(st.integers(0, sender.nbytes), max_size=60)):
        offset, consumed = sender.place(size)
        assert receiver.place(size)[0] == offset
        assert offset + size <= sender.nbytes
        assert consumed < sender.count == receiver.count


@given(st.integers(1, 5000), st.data())
def test_a_reader_that_consumes_as_late_as_it_may_reads_what_was_written(nbytes: int, data: st.DataObject) -> None:
    ring = Ring(nbytes)
    memory = [0] * ring.nbytes
    unread: list[tuple[int, int, int]] = []
    read = 0
    for number, size in enumerate(data.draw(st.lists(st.integers(0, ring.nbytes), max_size=60)), start=1):
        offset, consumed = ring.place(size)
        while read < consumed:
            wanted, begin, length = unread.pop(0)
            assert memory[begin : begin + length] == [wanted] * length
            read += 1
        memory[offset : offset + size] = [number] * size
        unread.append((number, offset, size))
    for wanted, begin, length in unread:
        assert memory[begin : begin + length] == [wanted] * length


@given(st.integers(1, 5000), st.integers(1, 5), st.data())
def test_a_sender_never_waits_while_the_ring_has_room_for_the_unread_and_one_more(
    nbytes: int, most_unread: int, data: st.DataObject
) -> None:
    ring = Ring(nbytes, messages=most_unread + 1)
    sizes = data.draw(st.lists(st.integers(1, nbytes), max_size=60))
    for number, size in enumerate(sizes, start=1):
        # With this message `most_unread` are unread, so the reader has consumed the one `most_unread` before it.
        assert ring.place(size)[1] <= max(number - most_unread, 0)


def test_small_messages_do_not_wait_until_the_ring_is_full() -> None:
    ring = Ring(1024)
    assert [ring.place(256)[1] for _ in range(6)] == [0, 0, 0, 0, 1, 2]


def test_a_message_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="300 bytes does not fit a ring of 256"):
        Ring(256).place(300)
