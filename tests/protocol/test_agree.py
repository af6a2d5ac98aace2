"""Agreements: everyone hears everyone, nobody leaves early, everyone gets the same verdict."""

import pytest

from dmlf.conformance.driving import Outcome, drive
from dmlf.errors import NonFiniteGradient, SchemaMismatch
from dmlf.protocol import Member, Phase, Steps, Tag, confirm_equal
from dmlf.protocol.agree import agree, agreement_messages, commit

GROUP_SIZES = range(1, 18)


def gather(ranks: range, absent: int | None = None) -> tuple[Outcome, dict[int, set[int]]]:
    """Let every one of `ranks` (but `absent`) agree on the set of all."""
    heard = {rank: {rank} for rank in ranks}

    def program(rank: int) -> Steps[None]:
        at = Tag(0, 0, 0, Phase.SCALE, 0, rank)
        return agree(
            Member(rank, ranks.stop),
            ranks,
            at,
            lambda: bytes(sorted(heard[rank])),
            heard[rank].update,
        )

    return drive({rank: program(rank) for rank in heard if rank != absent}), heard


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_rank_hears_every_other(group_size: int, first: int) -> None:
    ranks = range(first, first + group_size)
    outcome, heard = gather(ranks)
    assert outcome.finished == set(ranks)
    assert outcome.num_unread == 0
    assert all(others == set(ranks) for others in heard.values())
    assert len(outcome.sent) == agreement_messages(group_size)


@pytest.mark.parametrize("group_size", [2, 3, 5, 8])
def test_no_rank_leaves_before_all_have_entered(group_size: int) -> None:
    for absent in range(group_size):
        outcome, _ = gather(range(group_size), absent)
        assert outcome.finished == set()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_one_rank_that_is_not_finite_stops_all(world_size: int) -> None:
    for bad in range(world_size):
        outcome = drive(
            {
                rank: commit(Member(rank, world_size), step=6, finite=rank != bad)
                for rank in range(world_size)
            }
        )
        assert set(outcome.errors) == set(range(world_size))
        for error in outcome.errors.values():
            assert isinstance(error, NonFiniteGradient)
            assert error.step == 6


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_finite_ranks_commit(world_size: int) -> None:
    outcome = drive(
        {rank: commit(Member(rank, world_size), step=6, finite=True) for rank in range(world_size)}
    )
    assert outcome.completed(world_size)


def confirm(digests: list[bytes], num_servers: int) -> Outcome:
    world_size = len(digests) - num_servers
    return drive(
        {
            rank: confirm_equal(Member(rank, world_size, num_servers), 3, [digest], "initial state")
            for rank, digest in enumerate(digests)
        }
    )


@pytest.mark.parametrize("num_servers", [0, 1])
@pytest.mark.parametrize("group_size", [2, 3, 4, 7])
def test_equal_digests_are_confirmed(group_size: int, num_servers: int) -> None:
    assert confirm([b"\x5a" * 32] * group_size, num_servers).completed(group_size)


@pytest.mark.parametrize("num_servers", [0, 1])
@pytest.mark.parametrize("group_size", [2, 3, 4, 7])
@pytest.mark.parametrize("other", [b"\x00" * 32, b"\xff" * 32], ids=["smaller", "larger"])
def test_one_digest_that_differs_stops_all(group_size: int, num_servers: int, other: bytes) -> None:
    for odd in range(group_size):
        digests = [b"\x5a" * 32] * group_size
        digests[odd] = other
        outcome = confirm(digests, num_servers)
        assert set(outcome.errors) == set(range(group_size))
        for rank, error in outcome.errors.items():
            assert isinstance(error, SchemaMismatch)
            assert "initial state" in error.detail
            assert error.expected == digests[rank].hex()[:16]
            assert error.received != error.expected


def test_three_digests_that_all_differ_stop_all() -> None:
    outcome = confirm([bytes([value]) * 32 for value in (2, 1, 3)], 0)
    assert set(outcome.errors) == {0, 1, 2}
    assert all(isinstance(error, SchemaMismatch) for error in outcome.errors.values())


def confirm_parts(parts: dict[int, list[bytes | None]], num_servers: int) -> Outcome:
    size = len(parts)
    members = [Member(rank, size - num_servers, num_servers) for rank in range(size)]
    return drive({m.rank: confirm_equal(m, 3, parts[m.rank], "parameters") for m in members})


@pytest.mark.parametrize("num_servers", [2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_servers_confirm_the_part_that_they_hold(world_size: int, num_servers: int) -> None:
    whole = [bytes([part + 1]) * 32 for part in range(num_servers)]
    parts: dict[int, list[bytes | None]] = {rank: [*whole] for rank in range(world_size)}
    for server in range(num_servers):
        parts[world_size + server] = [
            digest if part == server else None for part, digest in enumerate(whole)
        ]
    assert confirm_parts(parts, num_servers).completed(len(parts))
    for odd in parts:
        for part, digest in enumerate(parts[odd]):
            if digest is None:
                continue
            wrong = parts | {odd: [*parts[odd][:part], b"\x77" * 32, *parts[odd][part + 1 :]]}
            outcome = confirm_parts(wrong, num_servers)
            assert set(outcome.errors) == set(parts)
            for rank, error in outcome.errors.items():
                assert isinstance(error, SchemaMismatch)
                assert error.expected != error.received
                held = wrong[rank][part]
                assert held is None or error.expected == held.hex()[:16]
