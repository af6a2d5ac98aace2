"""Messages put together from pieces, against what multiprocessing itself writes."""

from __future__ import annotations

import multiprocessing
import os
import struct

import pytest

from dmlf.transport.pieces import Pieces

CONTENTS = [b"one", b"", bytes(range(256)), b"\xff"]


def written() -> bytes:
    """The contents as a Connection frames them."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        for content in CONTENTS:
            writer.send_bytes(content)
        return os.read(reader.fileno(), 4096)


def put_together(stream: bytes, largest: int) -> list[bytes]:
    pieces, contents = Pieces(), []
    while stream:
        place = pieces.place
        num_bytes = min(largest, len(place), len(stream))
        assert num_bytes
        place[:num_bytes] = stream[:num_bytes]
        stream = stream[num_bytes:]
        content = pieces.advance(num_bytes)
        if content is not None:
            contents.append(bytes(content))
    return contents


@pytest.mark.parametrize("largest", [1, 2, 3, 5, 1000])
def test_pieces_of_any_size_make_the_same_messages(largest: int) -> None:
    assert put_together(written(), largest) == CONTENTS


@pytest.mark.parametrize("largest", [1, 7, 1000])
def test_a_length_beyond_31_bits_has_a_header_of_its_own(largest: int) -> None:
    stream = struct.pack("!iQ", -1, 5) + b"12345" + struct.pack("!i", 2) + b"67"
    assert put_together(stream, largest) == [b"12345", b"67"]


def test_a_message_in_part_is_none() -> None:
    assert put_together(written()[:-1], 1000) == CONTENTS[:-1]
