"""The handshake, as two state machines linked by nothing but bytes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.errors import AuthenticationError, ConfigError, GenerationMismatch, SchemaMismatch
from dmlf.transport.tcp import auth
from dmlf.transport.tcp.auth import HELLO_BYTES, NONCE_BYTES, Handshake, Identity, Role

KEY = bytes(range(32))
LOW = Identity("mesh", 1, 4, 7)
HIGH = Identity("mesh", 3, 4, 7)


def initiator(
    me: Identity = HIGH, key: bytes = KEY, ranks: Collection[int] = (1,), nonce: int = 1
) -> Handshake:
    return Handshake(Role.INITIATOR, key, me, ranks, "low:1", bytes([nonce]) * NONCE_BYTES)


def acceptor(
    me: Identity = LOW, key: bytes = KEY, ranks: Collection[int] = (2, 3), nonce: int = 2
) -> Handshake:
    return Handshake(Role.ACCEPTOR, key, me, ranks, "high:2", bytes([nonce]) * NONCE_BYTES)


def take(handshake: Handshake) -> bytes:
    data, handshake.outgoing = handshake.outgoing, b""
    return data


def converse(first: Handshake, second: Handshake) -> tuple[Any, Any, list[bytes]]:
    """Let both talk until nobody has anything to say: their errors, and what was said."""
    errors: dict[Handshake, Any] = {first: None, second: None}
    waiting = {first: b"", second: b""}
    said = []
    while True:
        moved = False
        for speaker, listener in ((first, second), (second, first)):
            data = take(speaker)
            if data:
                said.append(data)
                moved = True
            waiting[listener] += data
            while (
                errors[listener] is None
                and listener.wants
                and len(waiting[listener]) >= listener.wants
            ):
                size = listener.wants
                part, waiting[listener] = waiting[listener][:size], waiting[listener][size:]
                try:
                    listener.receive(part)
                except (AuthenticationError, SchemaMismatch, GenerationMismatch) as error:
                    errors[listener] = error
                moved = True
        if not moved:
            return errors[first], errors[second], said


def test_both_learn_who_the_other_is_and_share_seeds() -> None:
    first, second = initiator(), acceptor()
    assert converse(first, second)[:2] == (None, None)
    assert first.session is not None
    assert second.session is not None
    assert (first.session.peer, second.session.peer) == (LOW, HIGH)
    assert first.session.send_seed == second.session.receive_seed
    assert first.session.receive_seed == second.session.send_seed
    assert first.session.send_seed != first.session.receive_seed
    again = initiator(nonce=5)
    converse(again, acceptor())
    assert again.session is not None
    assert again.session.send_seed != first.session.send_seed


def test_nothing_is_wanted_beyond_fixed_sizes() -> None:
    first, second = initiator(), acceptor()
    assert (first.wants, second.wants) == (HELLO_BYTES, HELLO_BYTES)
    _, _, said = converse(first, second)
    assert [len(data) for data in said] == [HELLO_BYTES, HELLO_BYTES + 32, 32, 32]
    for size in (0, HELLO_BYTES - 1, HELLO_BYTES + 1):
        with pytest.raises(ValueError, match="not 72"):
            acceptor().receive(bytes(size))


def test_another_key_is_refused_by_both() -> None:
    for first, second in (
        (initiator(key=KEY[::-1]), acceptor()),
        (initiator(), acceptor(key=KEY[:-1] + b"x")),
    ):
        error, _, said = converse(first, second)
        assert isinstance(error, AuthenticationError)
        assert error.peer == "rank 1 (low:1)"
        assert len(said) == 2  # the initiator says no more, and hangs up
        assert second.session is None
        with pytest.raises(AuthenticationError) as caught:  # and if it went on regardless
            second.receive(bytes(32))
        assert caught.value.peer == "rank 3 (high:2)"


def test_a_replay_is_refused_by_either_side() -> None:
    _, _, said = converse(initiator(), acceptor())
    hello, answer, proof, accepted = said
    victim = acceptor(nonce=9)
    victim.receive(hello)
    with pytest.raises(AuthenticationError):
        victim.receive(proof)
    caller = initiator(nonce=8)
    caller.receive(answer[:HELLO_BYTES])
    with pytest.raises(AuthenticationError):
        caller.receive(answer[HELLO_BYTES:])
    late = initiator()  # the same nonce as in the recording, to get past the answer
    late.receive(answer[:HELLO_BYTES])
    late.receive(answer[HELLO_BYTES:])
    with pytest.raises(AuthenticationError):
        late.receive(proof)  # a proof of the other direction
    assert late.session is None
    assert accepted != proof


def test_a_reflection_is_refused() -> None:
    caller = initiator()
    with pytest.raises(AuthenticationError, match="sent back"):
        caller.receive(take(caller))
    # An attacker lets two initiators, or two acceptors, answer one another.
    first, second = initiator(), initiator(me=LOW, ranks=(3,), nonce=2)
    assert all(isinstance(error, AuthenticationError) for error in converse(first, second)[:2])
    victim = acceptor()
    victim.receive(take(initiator()))
    answer = take(victim)
    with pytest.raises(AuthenticationError):
        victim.receive(answer[HELLO_BYTES:])  # its own proof
    other = acceptor(nonce=3)
    with pytest.raises(AuthenticationError):
        other.receive(answer[:HELLO_BYTES])


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def hear(handshake: Handshake, answer: bytes) -> None:
    handshake.receive(answer[:HELLO_BYTES])
    handshake.receive(answer[HELLO_BYTES:])


def test_nothing_of_an_answer_may_be_altered() -> None:
    for bit in range(8 * (HELLO_BYTES + 32)):
        first, second = initiator(), acceptor()
        second.receive(take(first))
        answer = flipped(take(second), bit)
        with pytest.raises(AuthenticationError):
            hear(first, answer)


def test_nothing_of_a_hello_may_be_altered() -> None:
    for bit in range(8 * HELLO_BYTES):
        first, second = initiator(), acceptor()
        hello = flipped(take(first), bit)
        try:
            second.receive(hello)
        except AuthenticationError:
            continue
        with pytest.raises(AuthenticationError):
            hear(first, take(second))


@pytest.mark.parametrize(
    ("me", "error"),
    [
        (HIGH._replace(group_size=5), SchemaMismatch),
        (HIGH._replace(generation=6), GenerationMismatch),
        (HIGH._replace(purpose="control"), AuthenticationError),
    ],
)
def test_both_see_in_what_they_disagree_and_with_whom(me: Identity, error: type) -> None:
    first, second, _ = converse(initiator(me), acceptor())
    assert type(first) is type(second) is error
    assert "rank 1" in str(first)
    assert "rank 3" in str(second)


def test_another_version_is_named_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    second = acceptor()
    monkeypatch.setattr(auth, "VERSION", 2)
    first = initiator()
    hello = take(first)
    monkeypatch.setattr(auth, "VERSION", 1)
    with pytest.raises(AuthenticationError, match=r"version 2.*this end 1") as caught:
        second.receive(hello)
    assert caught.value.peer == "high:2"
    monkeypatch.setattr(auth, "VERSION", 2)
    with pytest.raises(AuthenticationError, match=r"version 1.*this end 2") as caught:
        first.receive(take(second)[:HELLO_BYTES])
    assert caught.value.peer == "low:1"


@pytest.mark.parametrize("rank", [0, 1, 4, 2**32 - 1])
def test_a_rank_that_is_not_expected_is_refused(rank: int) -> None:
    _, error, _ = converse(initiator(HIGH._replace(rank=rank)), acceptor())
    assert isinstance(error, AuthenticationError)
    error, _, _ = converse(initiator(ranks=(0,)), acceptor())
    assert isinstance(error, AuthenticationError)


@pytest.mark.parametrize("key", [b"", b"password", bytes(15)])
def test_a_short_key_is_refused_without_showing_it(key: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        initiator(key=key)
    assert "password" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=HELLO_BYTES, max_size=HELLO_BYTES), st.booleans())
def test_random_hellos_end_in_the_closed_set(data: bytes, known: bool) -> None:
    for handshake in (initiator(), acceptor()):
        hello = (take(acceptor())[:8] or b"dmlf\x01\x00\x02\x00") + data[8:] if known else data
        try:
            handshake.receive(hello)
            handshake.receive(bytes(32))
        except AuthenticationError:
            assert handshake.session is None
        else:
            pytest.fail("a random hello was let in")
