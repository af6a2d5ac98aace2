"""What every algorithm must do, on exact mock numbers and at every world size."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from dmlf.conformance.buckets import (
    exact_buckets,
    float32_buckets,
    float32_terms,
    lengths,
    mock_buckets,
    mock_value,
)
from dmlf.conformance.driving import Group, Sent, Step, run_step
from dmlf.errors import (
    BucketMismatch,
    GenerationMismatch,
    NonFiniteGradient,
    PhaseMismatch,
    ProtocolError,
    RoundMismatch,
    SchemaMismatch,
    SourceMismatch,
    StepMismatch,
)
from dmlf.numerics.mock import canonical, leaves
from dmlf.protocol import BucketShape, Message, Phase, Tag, Traffic

WORLD_SIZES = range(1, 10)
ERRORS: dict[str, type[ProtocolError]] = {
    "generation": GenerationMismatch,
    "step": StepMismatch,
    "bucket": BucketMismatch,
    "phase": PhaseMismatch,
    "round": RoundMismatch,
    "src": SourceMismatch,
}
"""The field of a tag that differs, and the error that says so."""

every_world_size = pytest.mark.parametrize("world_size", WORLD_SIZES)


@every_world_size
def test_every_contribution_is_counted_once(group: Group, world_size: int) -> None:
    numels = lengths(world_size)
    run = run_step(group, mock_buckets(group, world_size, numels), step=4, generation=2)
    assert run.outcome.completed(group.size(world_size))
    once = Counter(range(world_size))
    for rank, parameters in enumerate(run.parameters):
        assert sorted(parameters) == group.held(rank, world_size, len(numels))
        for index, total in parameters.items():
            numel = numels[index]
            assert total.values == [
                sum(mock_value(worker, index, i) for worker in range(world_size))
                for i in range(numel)
            ]
            assert all(total.contributions(i) == once for i in range(numel))


@every_world_size
def test_additions_happen_in_the_published_order(group: Group, world_size: int) -> None:
    numels = lengths(world_size)
    run = run_step(group, mock_buckets(group, world_size, numels))
    for index, numel in enumerate(numels):
        plan = group.algorithm.fold(numel, world_size)
        published = [order for chunk, order in plan for _ in range(chunk.stop - chunk.start)]
        assert len(published) == numel
        for parameters in run.parameters:
            if index not in parameters:
                continue
            added = parameters[index].folds
            assert [canonical(fold) for fold in added] == [canonical(fold) for fold in published]


@every_world_size
def test_the_published_order_names_every_rank_once_and_covers_the_bucket(
    group: Group, world_size: int
) -> None:
    for numel in lengths(world_size):
        plan = group.algorithm.fold(numel, world_size)
        covered = [index for chunk, _ in plan for index in range(numel)[chunk]]
        assert covered == list(range(numel))
        assert all(sorted(leaves(order)) == list(range(world_size)) for _, order in plan)


@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_the_order_in_which_ranks_move_changes_nothing(group: Group, world_size: int) -> None:
    size = group.size(world_size)
    generator = np.random.default_rng(world_size)
    expected = run_step(group, mock_buckets(group, world_size, [13, 5])).parameters
    for _ in range(20):
        turns = [int(rank) for rank in generator.integers(0, size, 4 * size)]
        run = run_step(
            group, mock_buckets(group, world_size, [13, 5]), turns=[*turns, *range(size)]
        )
        assert run.outcome.completed(size)
        for mine, reference in zip(run.parameters, expected, strict=True):
            assert mine.keys() == reference.keys()
            for index in reference:
                assert mine[index].values == reference[index].values
                assert mine[index].folds == reference[index].folds


def counted(run: Step) -> Traffic:
    sent = run.outcome.sent
    return Traffic(len(sent), sum(message.payload_bytes for message in sent))


@every_world_size
def test_the_traffic_of_float32_is_its_closed_form(group: Group, world_size: int) -> None:
    for numels in [[numel] for numel in lengths(world_size)] + [lengths(world_size)]:
        terms = [float32_terms(world_size, numel) for numel in numels]
        run = run_step(group, float32_buckets(group, terms))
        shapes = [BucketShape(numel) for numel in numels]
        assert counted(run) == group.algorithm.traffic(shapes, world_size, group.num_servers)


@every_world_size
def test_the_traffic_of_exact_is_its_closed_form(group: Group, world_size: int) -> None:
    for numels in [[numel] for numel in lengths(world_size)] + [lengths(world_size)]:
        shards = [float32_terms(world_size + 3, numel) for numel in numels]
        groups = [[slice(0, numel // 3), slice(numel // 3, numel)] for numel in numels]
        run = run_step(group, exact_buckets(group, world_size, shards, groups))
        shapes = [BucketShape(numel, partial_itemsize=8, scale_bytes=4) for numel in numels]
        assert counted(run) == group.algorithm.traffic(shapes, world_size, group.num_servers)


OTHER = Tag(generation=9, step=8, bucket=7, phase=Phase.HANDSHAKE, round=90, src=91)


@pytest.mark.parametrize("name", Tag._fields)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_message_is_refused_by_the_field_that_differs(
    group: Group, world_size: int, name: str
) -> None:
    def run(tampered: int) -> Step:
        def tamper(index: int, sent: Sent) -> Message:
            if index != tampered:
                return sent.message
            wrong = sent.message.tag._replace(**{name: getattr(OTHER, name)})
            return Message(wrong, sent.message.payload)

        return run_step(group, mock_buckets(group, world_size, [7, 3]), tamper=tamper)

    # Before any is refused, the same messages are sent in the same order in every run.
    for index, sent in enumerate(run(tampered=-1).outcome.sent):
        step = run(tampered=index)
        (rank,) = step.outcome.errors
        error = step.outcome.errors[rank]
        tag = sent.message.tag
        assert type(error) is ERRORS[name]
        assert isinstance(error, ProtocolError)
        assert (rank, error.rank) == (sent.dst, sent.dst)
        assert error.expected == tag
        assert error.received == tag._replace(**{name: getattr(OTHER, name)})
        assert rank not in {applier for applier, _ in step.applied} | step.outcome.finished


def longer(payload: np.ndarray) -> np.ndarray:
    return np.append(payload, payload.dtype.type(0))


def another_dtype(payload: np.ndarray) -> np.ndarray:
    return payload.astype(np.int32 if payload.dtype == np.float32 else np.float64)


def column(payload: np.ndarray) -> np.ndarray:
    return payload.reshape(-1, 1)


def text(payload: np.ndarray) -> Any:
    return payload.tolist()


@pytest.mark.parametrize("damage", [longer, another_dtype, column, text])
@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_a_payload_of_another_schema_is_refused(
    group: Group, reduction: str, damage: object
) -> None:
    world_size = 3

    def run(tampered: int) -> Step:
        def tamper(index: int, sent: Sent) -> Message:
            message = sent.message
            if index != tampered:
                return message
            return Message(message.tag, damage(message.payload))  # type: ignore[operator]

        terms = [float32_terms(world_size, 7), float32_terms(world_size, 4)]
        if reduction == "float32":
            buckets: list[Any] = float32_buckets(group, terms)
        else:
            buckets = exact_buckets(group, world_size, terms)
        return run_step(group, buckets, tamper=tamper)

    for index, sent in enumerate(run(tampered=-1).outcome.sent):
        is_parameters = sent.message.tag.phase is Phase.PULL  # checked by who writes them
        if isinstance(sent.message.payload, bytes) or is_parameters:
            continue
        error = run(tampered=index).outcome.errors[sent.dst]
        assert type(error) is SchemaMismatch
        assert error.rank == sent.dst
        assert error.expected
        assert error.received


@pytest.mark.parametrize("damaged", [b"", b"\x00" * 5, [1, 2]], ids=["empty", "odd", "list"])
def test_a_scale_of_another_schema_is_refused(group: Group, damaged: object) -> None:
    def tamper(index: int, sent: Sent) -> Message:
        message = sent.message
        return Message(message.tag, damaged) if message.tag.phase is Phase.SCALE else message

    run = run_step(group, exact_buckets(group, 3, [float32_terms(3, 7)]), tamper=tamper)
    assert run.outcome.errors
    assert all(type(error) is SchemaMismatch for error in run.outcome.errors.values())
    assert run.applied == []


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_a_gradient_that_is_not_finite_stops_all_ranks_before_anything_is_applied(
    group: Group, world_size: int, reduction: str, poison: float
) -> None:
    size = group.size(world_size)
    for bad_rank in range(world_size):
        for bad_bucket, bad_index in [(0, 0), (0, 12), (1, 3)]:
            terms = [float32_terms(world_size, 13), float32_terms(world_size, 5)]
            terms[bad_bucket][bad_rank, bad_index] = poison
            if reduction == "float32":
                buckets: list[Any] = float32_buckets(group, terms)
            else:
                buckets = exact_buckets(group, world_size, terms)
            run = run_step(group, buckets, step=11)
            assert set(run.outcome.errors) == set(range(size))
            for error in run.outcome.errors.values():
                assert isinstance(error, NonFiniteGradient)
                assert error.step == 11
            assert run.applied == []
            assert run.outcome.num_unread == 0


def test_a_sum_that_leaves_float32_stops_all_ranks(group: Group) -> None:
    largest = np.full((2, 3), np.finfo(np.float32).max, dtype=np.float32)
    for buckets in (
        float32_buckets(group, [largest]),
        exact_buckets(group, 2, [largest]),
    ):
        run = run_step(group, buckets)
        assert len(run.outcome.errors) == group.size(2)
        assert all(isinstance(error, NonFiniteGradient) for error in run.outcome.errors.values())
        assert run.applied == []
