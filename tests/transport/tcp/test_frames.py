"""The frame parser against whatever bytes may come."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.errors import ChecksumMismatch, FrameError, SourceMismatch
from dmlf.protocol import Phase, Tag
from dmlf.transport.tcp.frames import (
    _DTYPES,
    HEADER_BYTES,
    PIECE_BYTES,
    FrameParser,
    Kind,
    Rules,
    checksum,
    encode_control,
    encode_data,
    payload_bytes,
)
from tests.transport.tcp import fuzz

CAP = 1 << 20
SEED = 0x1234_5678_9ABC_DEF0
RULES = Rules(Kind.DATA, "rank 2", SEED, CAP, rank=1, peer_rank=2, group_size=4)
SENDING = Rules(Kind.DATA, "rank 1", SEED, CAP, rank=2, peer_rank=1, group_size=4)
CONTROL = Rules(Kind.CONTROL, "client", SEED, 100)
TAG = Tag(3, 5, 7, Phase.REDUCE_SCATTER, 11, 2)
LAYOUT = struct.Struct("<4s4BQQ4IQQ")
FIELDS = (
    *("magic", "version", "kind", "phase", "dtype", "generation", "step"),
    *("bucket", "round", "src", "dst", "length", "checksum"),
)
FLOAT32 = 11


def values(length: int, dtype: Any = np.float32) -> Any:
    return (np.arange(length) * 3 + 1).astype(dtype)


def frame(payload: Any, tag: Tag = TAG, dst: int = 1) -> bytes:
    content, dtype = payload_bytes(payload, "rank 1")
    return encode_data(tag, dst, content, dtype, SENDING) + bytes(content)


def forged(payload: bytes = b"", seed: int = SEED, **changes: Any) -> bytes:
    """A frame with valid checksums, whatever its fields say."""
    fields = dict(zip(FIELDS, LAYOUT.unpack_from(frame(values(3))), strict=True))
    fields |= {"length": len(payload), "checksum": checksum(payload, seed)} | changes
    head = LAYOUT.pack(*fields.values())
    return head + struct.pack("<Q", checksum(head, seed)) + payload


def received(parser: FrameParser, data: bytes) -> list[tuple[Any, Any]]:
    return [
        (item.tag, item.payload if isinstance(item.payload, bytes) else item.payload.copy())
        for item in parser.feed(data)
    ]


def refusal(data: bytes, rules: Rules = RULES) -> Any:
    """The error that `data` ends a parser with; it took no memory, and stays ended."""
    parser = FrameParser(rules)
    with pytest.raises((FrameError, ChecksumMismatch, SourceMismatch)) as caught:
        received(parser, data)
    assert parser.memory_bytes <= max(0, len(data) - HEADER_BYTES)
    for again in (parser.wants, lambda: parser.advance(1), lambda: received(parser, frame(b""))):
        with pytest.raises(type(caught.value)) as repeated:
            again()
        assert repeated.value is caught.value
    return caught.value


DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 7, 1009])
def test_numbers_come_back_bit_for_bit(dtype: str, length: int) -> None:
    ((tag, payload),) = received(FrameParser(RULES), frame(values(length, dtype)))
    assert (tag, payload.dtype) == (TAG, np.dtype(dtype))
    assert payload.tobytes() == values(length, dtype).tobytes()


@pytest.mark.parametrize("payload", [b"", b"\0", bytes(range(256)) * 3])
def test_bytes_come_back_as_bytes(payload: bytes) -> None:
    assert received(FrameParser(RULES), frame(payload)) == [(TAG, payload)]


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_and_the_largest_fields_fit(phase: Phase) -> None:
    tag = Tag(2**64 - 1, 2**64 - 1, 2**32 - 1, phase, 2**32 - 1, 2)
    ((back, _),) = received(FrameParser(RULES), frame(b"x", tag))
    assert back == tag
    assert back.phase is phase


def test_a_payload_is_read_only_and_memory_is_used_again() -> None:
    parser = FrameParser(RULES)
    (first,) = parser.feed(frame(values(1000)))
    assert not first.payload.flags.writeable
    received(parser, frame(values(900)))
    assert parser.memory_bytes == 4000


def test_strided_and_many_dimensional_arrays_travel_flat() -> None:
    table = values(24).reshape(4, 6)
    for payload in (table, table[:, ::2], table.T):
        ((_, back),) = received(FrameParser(RULES), frame(payload))
        np.testing.assert_array_equal(back, payload.reshape(-1))


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 1000])
def test_frames_may_come_split_and_joined(size: int) -> None:
    payloads = [values(5), b"", b"abc", values(100, np.int64), values(0), b"z" * 130]
    stream = b"".join(frame(item, TAG._replace(round=index)) for index, item in enumerate(payloads))
    parser, got = FrameParser(RULES), []
    for start in range(0, len(stream), size):
        got += received(parser, stream[start : start + size])
    assert parser.between_frames
    for index, ((tag, back), sent) in enumerate(zip(got, payloads, strict=True)):
        assert tag.round == index
        np.testing.assert_array_equal(back, sent)


def test_a_long_payload_is_checked_piece_by_piece() -> None:
    rules = Rules(Kind.DATA, "rank 2", SEED, 1 << 22, rank=1, peer_rank=2, group_size=4)
    sent = values(3 * PIECE_BYTES // 4 + 1, np.float32)
    content, dtype = payload_bytes(sent, "rank 1")
    stream = bytearray(encode_data(TAG, 1, content, dtype, rules) + bytes(content))
    ((_, back),) = received(FrameParser(rules), bytes(stream))
    np.testing.assert_array_equal(back, sent)
    stream[-1] ^= 1
    with pytest.raises(ChecksumMismatch):
        received(FrameParser(rules), bytes(stream))


def test_truncation_at_every_byte_is_not_a_frame() -> None:
    stream = frame(values(9))
    for end in range(len(stream)):
        parser = FrameParser(RULES)
        assert received(parser, stream[:end]) == []
        assert parser.between_frames == (end == 0)
        assert len(received(parser, stream[end:])) == 1


def test_every_flipped_bit_is_found() -> None:
    stream = frame(values(5))
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        error = refusal(bytes(damaged))
        assert isinstance(error, ChecksumMismatch)
        assert error.peer == "rank 2"
        assert error.part == ("header" if bit < 8 * HEADER_BYTES else "payload")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"magic": b"HTTP"}, "magic"),
        ({"version": 0}, "version"),
        ({"version": 2}, "version"),
        ({"kind": 0}, "kind"),
        ({"kind": 2}, "kind"),
        ({"kind": 255}, "kind"),
        ({"phase": 0}, "phase"),
        ({"phase": len(Phase) + 1}, "phase"),
        ({"dtype": 15}, "dtype"),
        ({"dtype": 255}, "dtype"),
        ({"src": 1}, "src"),
        ({"src": 4}, "src"),
        ({"src": 2**32 - 1}, "src"),
        ({"dst": 0}, "dst"),
        ({"dst": 2}, "dst"),
        ({"dst": 4}, "dst"),
        ({"length": 2**32 - 1, "dtype": 0}, "length"),
        ({"length": 2**63, "dtype": 0}, "length"),
        ({"length": 2**64 - 1, "dtype": 0}, "length"),
        ({"length": CAP + 1, "dtype": 0}, "length"),
        ({"length": CAP + 4, "dtype": FLOAT32}, "length"),
        ({"length": 5, "dtype": FLOAT32}, "length"),
        ({"length": 2, "dtype": FLOAT32}, "length"),
    ],
)
def test_a_well_made_frame_with_a_wrong_field_is_refused(
    changes: dict[str, Any], field: str
) -> None:
    error = refusal(forged(**changes))
    assert isinstance(error, FrameError)
    assert (error.peer, error.field, error.value) == ("rank 2", field, changes[field])


def test_another_ranks_frame_is_refused_by_its_source() -> None:
    error = refusal(forged(src=3))
    assert isinstance(error, SourceMismatch)
    assert (error.rank, error.expected.src, error.received.src) == (1, 2, 3)


def test_the_longest_allowed_payload_passes() -> None:
    ((_, payload),) = received(FrameParser(RULES), frame(bytes(CAP)))
    assert len(payload) == CAP


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(range(64)),
        bytes(HEADER_BYTES),
        b"\xff" * HEADER_BYTES,
        np.random.default_rng(3).bytes(4096),
        frame(b"first") + b"trailing bytes that are no frame" * 3,
        forged(seed=SEED + 1),  # of another connection
    ],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    assert isinstance(refusal(data), ChecksumMismatch)


def test_control_frames_are_capped_and_carry_no_tag() -> None:
    content = b'{"a": 1}'
    stream = encode_control(content, CONTROL) + content
    assert received(FrameParser(CONTROL), stream) == [(None, content)]
    assert refusal(stream, RULES).field == "kind"
    assert refusal(frame(b"x"), CONTROL).field == "kind"
    with pytest.raises(FrameError):
        encode_control(bytes(101), CONTROL)
    zeros = dict.fromkeys(("phase", "dtype", "generation", "step", "bucket", "round", "src"), 0)
    for field in (*zeros, "dst"):
        error = refusal(forged(**(zeros | {"kind": 2, "dst": 0, field: 1})), CONTROL)
        assert error.field == "tag"


@pytest.mark.parametrize(
    "change",
    [{"generation": -1}, {"step": 2**64}, {"bucket": 2**32}, {"round": -1}, {"src": 2**32}],
)
def test_a_tag_that_does_not_fit_is_not_sent(change: dict[str, int]) -> None:
    with pytest.raises(FrameError) as caught:
        frame(b"", TAG._replace(**change))
    assert caught.value.field == "tag"


def test_what_cannot_travel_is_not_sent() -> None:
    for dtype in ("O", "U3", "datetime64[s]", ">f4"):
        with pytest.raises(FrameError):
            frame(np.zeros(2, dtype=dtype))
    with pytest.raises(FrameError) as caught:
        frame(bytes(CAP + 1))
    assert caught.value.field == "length"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_streams_end_in_the_closed_set(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    splits = data.draw(st.lists(st.integers(1, 200), max_size=20))
    fuzz.check(fuzz.mutated(np.random.default_rng(seed)), splits)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_end_in_the_closed_set(data: bytes) -> None:
    fuzz.check(data, [])


def test_the_page_tells_the_codes_of_all_phases_and_dtypes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tcp.md").read_text(encoding="utf-8")
    assert f"| phase | DATA: 1 to {len(Phase)}, in the order of `Phase`" in page
    assert f"| dtype | 0 bytes; 1 to {len(_DTYPES)}: " in page
