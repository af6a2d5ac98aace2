"""Overlap changes when a bucket is synchronised, and nothing else."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from dmlf.benchmark.timeline_file import trace
from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.numerics import Float32Accumulator
from dmlf.protocol import Apply, Gradient, Steps
from dmlf.runtime import Driver, NoTransport
from dmlf.training.replica import Replica, make_backend
from dmlf.training.run import train
from dmlf.training.synchronizer import BucketGate, OverlappedSynchronizer, make_synchronizer

TIMEOUT_S = 30.0
NUM_BUCKETS = 3
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="a torch model")


class Rank:
    """Notes what the protocol did, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._changed = threading.Condition()

    def note(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, event: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, TIMEOUT_S), self.events

    def gradient(self, step: int, bucket: int) -> Float32Accumulator:
        self.note(f"gradient {step}.{bucket}")
        assert self.goes_on.wait(TIMEOUT_S)
        return Float32Accumulator(0, np.zeros(2, np.float32))

    def apply(self, step: int) -> None:
        self.note(f"apply {step}")

    def read_parameters(self, bucket: int) -> None: ...

    def write_parameters(self, bucket: int, payload: object) -> None: ...


def rank_step(step: int) -> Steps[None]:
    for bucket in range(NUM_BUCKETS):
        yield Gradient(step, bucket)
    if step == 13:
        raise ValueError("the protocol failed")
    yield Apply(step)


@contextmanager
def overlapped(rank: Rank) -> Iterator[OverlappedSynchronizer]:
    synchronizer = make_synchronizer(
        lambda local: Driver(NoTransport(), local, TIMEOUT_S), rank, NUM_BUCKETS, rank_step, True
    )
    assert isinstance(synchronizer, OverlappedSynchronizer)
    try:
        yield synchronizer
    finally:
        synchronizer.close()
        synchronizer._thread.join(TIMEOUT_S)
        assert not synchronizer._thread.is_alive()


def test_a_complete_bucket_is_synchronised_while_others_are_computed() -> None:
    rank = Rank()
    with overlapped(rank) as synchronizer:
        for step in (0, 1):
            complete = synchronizer.begin(step)
            complete(1)  # out of order: bucket 0 must go first, on every rank
            complete(0)
            rank.wait_for(f"gradient {step}.1")
            assert f"gradient {step}.2" not in rank.events
            times = synchronizer.finish(step)
            assert rank.events[-2:] == [f"gradient {step}.2", f"apply {step}"]
            assert 0.0 <= times.hidden_s <= times.communication_s


def test_what_is_done_before_backward_is_over_is_hidden() -> None:
    rank = Rank()
    with overlapped(rank) as synchronizer:
        rank.goes_on.clear()
        complete = synchronizer.begin(0)
        complete(0)
        rank.wait_for("gradient 0.0")
        threading.Timer(0.3, rank.goes_on.set).start()
        complete(1)
        rank.wait_for("gradient 0.1")
        times = synchronizer.finish(0)
        assert 0.2 < times.hidden_s <= times.communication_s
        rank.goes_on.clear()
        synchronizer.begin(1)
        threading.Timer(0.3, rank.goes_on.set).start()
        times = synchronizer.finish(1)  # nothing was complete before
        assert times.hidden_s < 0.1
        assert times.communication_s > 0.2


def test_nothing_is_applied_before_backward_is_over() -> None:
    """Even with all gradients complete: backward may still read parameters."""
    rank = Rank()
    with overlapped(rank) as synchronizer:
        complete = synchronizer.begin(0)
        for bucket in range(NUM_BUCKETS):
            complete(bucket)
        rank.wait_for("gradient 0.1")
        assert "gradient 0.2" not in rank.events
        synchronizer.finish(0)
    assert rank.events[-1] == "apply 0"


def test_an_error_of_the_protocol_reaches_the_step() -> None:
    with overlapped(Rank()) as synchronizer:
        synchronizer.begin(13)
        with pytest.raises(ValueError, match="the protocol failed"):
            synchronizer.finish(13)


def test_a_step_whose_computation_fails_leaves_no_thread() -> None:
    rank = Rank()
    with overlapped(rank) as synchronizer:
        synchronizer.begin(0)(0)
        rank.wait_for("gradient 0.0")
    assert "apply 0" not in rank.events


def test_time_held_back_is_not_communication() -> None:
    rank = Rank()
    gate = BucketGate(rank, 2)
    gate.shut()
    opener = threading.Timer(0.05, gate.open, [0])
    opener.start()
    gate.gradient(0, 0)
    opener.join(TIMEOUT_S)
    assert gate.waited_s >= 0.04


def config(**changes: object) -> RunConfig:
    small = RunConfig(
        algorithm="ring",
        transport="queue",
        world_size=2,
        num_shards=4,
        hidden_sizes=(64, 48),
        bucket_cap_bytes=1000,
        max_steps=6,
        warmup_steps=0,
        epochs=1,
    )
    return replace(small, **changes)


def final(run: RunConfig) -> str:
    return train(run).final_state().sha256()


@needs_torch
@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize(
    ("algorithm", "transport"), [("ring", "shm"), ("parameter_server", "queue"), ("tree", "shm")]
)
def test_the_bits_are_the_same_with_and_without(
    algorithm: str, transport: str, reduction: str
) -> None:
    run = config(algorithm=algorithm, transport=transport, reduction=reduction)
    assert final(replace(run, overlap=True)) == final(run)


@needs_torch
@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_a_bucket_is_complete_when_all_its_parameters_are(reduction: str) -> None:
    run = config(reduction=reduction, bucket_cap_bytes=14_700)
    replica = Replica(run, make_backend(run), 0, range(2))
    assert [len(bucket.placements) for bucket in replica.buckets] == [5, 1]
    seen: dict[int, list[np.ndarray]] = {}

    def on_complete(bucket: int) -> None:
        assert bucket not in seen
        seen[bucket] = [rows[name].copy() for rows in replica.store.rows for name in names(bucket)]

    def names(bucket: int) -> list[str]:
        return [placed.name for placed in replica.buckets[bucket].placements]

    replica.compute(0, replica.sampler.shards(0), on_complete)
    assert list(seen) == [0, 1]
    for bucket, values in seen.items():
        final_values = [rows[name] for rows in replica.store.rows for name in names(bucket)]
        assert all(value.any() for value in final_values)
        for value, expected in zip(values, final_values, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_a_task_without_hooks_overlaps_nothing_and_is_right() -> None:
    run = config(task="synthetic", learning_rate=0.01, task_options={"num_samples": 512})
    assert final(replace(run, overlap=True)) == final(run)


@needs_torch
def test_communication_is_measured_in_both_parts() -> None:
    result = train(config(overlap=True, hidden_sizes=(256, 256), max_steps=8))
    for rank in result.ranks:
        for communication_s, hidden_s, wait_s, step_s in zip(
            rank.communication_s, rank.hidden_s, rank.wait_s, rank.step_s, strict=True
        ):
            assert 0.0 <= hidden_s <= communication_s
            assert 0.0 <= wait_s <= communication_s + 1e-3
            assert communication_s - hidden_s <= step_s
    assert all(hidden_s == 0.0 for rank in train(config()).ranks for hidden_s in rank.hidden_s)


@pytest.fixture(scope="module", params=[False, True], ids=["sequential", "overlapped"])
def timeline(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    run = config(
        task="synthetic",
        algorithm="parameter_server",
        overlap=request.param,
        task_options={"num_samples": 512},
    )
    events: list[dict[str, object]] = trace(train(run, timeline_steps=3))["traceEvents"]
    return events


def of_kind(events: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [event for event in events if event["ph"] == kind]


def test_a_timeline_has_all_ranks_on_one_clock(timeline: list[dict[str, object]]) -> None:
    spans = of_kind(timeline, "X")
    assert {event["pid"] for event in spans} == {0, 1, 2}
    assert min(float(event["ts"]) for event in spans) == 0.0
    assert all(float(event["dur"]) >= 0.0 for event in spans)
    names = {str(event["name"]) for event in spans}
    assert {
        "draw samples",
        "forward and backward",
        "send push",
        "wait for pull",
        "optimizer",
    } <= names
    assert "evaluate" in names
    # The first three steps alone, each once on each of two workers.
    assert sum(event["name"] == "forward and backward" for event in spans) == 6


def test_every_message_is_an_arrow_from_its_sender_to_its_receiver(
    timeline: list[dict[str, object]],
) -> None:
    starts = {event["id"]: event for event in of_kind(timeline, "s")}
    ends = {event["id"]: event for event in of_kind(timeline, "f")}
    assert len(starts) == len(of_kind(timeline, "s"))
    assert starts.keys() == ends.keys()
    for name, start in starts.items():
        assert start["pid"] != ends[name]["pid"]
        assert float(start["ts"]) <= float(ends[name]["ts"]), name


@pytest.mark.parametrize(
    ("changes", "steps", "key"),
    [({}, -1, "timeline"), ({"algorithm": "ddp", "transport": "gloo"}, 3, "timeline")],
)
def test_a_timeline_that_cannot_be_is_refused(
    changes: dict[str, object], steps: int, key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(config(**changes), timeline_steps=steps)
    assert caught.value.key == key
