"""An emulated link: messages come no earlier than it could bring them, and training is the same."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DeadlineExceeded
from dmlf.protocol import Message, Phase, Tag
from dmlf.training.run import train
from dmlf.transport import TRANSPORTS
from dmlf.transport.emulated import (
    _HEADER,
    EmulatedLink,
    EmulatedTransport,
    Schedule,
    emulate,
)

TIMEOUT_S = 30.0
LATENCY_S, BITS_PER_S = 0.02, 8e6  # a byte takes a microsecond


@pytest.fixture(params=["queue", "shm"])
def group(request: pytest.FixtureRequest) -> Iterator[list[EmulatedTransport]]:
    endpoints = TRANSPORTS[request.param](multiprocessing.get_context("spawn"), 3)
    link = EmulatedLink(LATENCY_S, BITS_PER_S)
    transports = [endpoint.connect() for endpoint in emulate(endpoints, link)]
    yield transports
    for transport in transports:
        transport.close()


def message(src: int, num_bytes: int) -> Message:
    values = (np.arange(num_bytes) * (src + 2)).astype(np.uint8)
    return Message(Tag(0, 0, 0, Phase.PUSH, 0, src), values)


def test_a_message_takes_latency_and_its_bytes(group: list[EmulatedTransport]) -> None:
    before = time.monotonic()
    group[0].send(1, message(0, 30_000))
    sent = time.monotonic()
    received = group[1].recv(0, TIMEOUT_S)
    assert time.monotonic() - before >= LATENCY_S + 0.03
    assert sent - before < LATENCY_S + 0.03, "the sender was held up"
    np.testing.assert_array_equal(received.payload, message(0, 30_000).payload)


def test_a_message_of_which_only_the_header_came_ends_at_the_deadline(
    group: list[EmulatedTransport],
) -> None:
    header = _HEADER.pack(time.monotonic() - LATENCY_S, 5)
    group[0]._inner.send(1, message(0, 0)._replace(payload=header))
    with pytest.raises(DeadlineExceeded) as caught:
        group[1].recv(0, 0.05)
    assert (caught.value.rank, caught.value.peer, caught.value.timeout_s) == (1, 0, 0.05)
    group[0]._inner.send(1, message(0, 5))
    np.testing.assert_array_equal(group[1].recv(0, TIMEOUT_S).payload, message(0, 5).payload)


def test_a_port_sends_one_message_at_a_time(group: list[EmulatedTransport]) -> None:
    """To two receivers: their own ports are idle."""
    before = time.monotonic()
    for dst in (1, 2):
        group[0].send(dst, message(0, 30_000))
    group[1].recv(0, TIMEOUT_S)
    group[2].recv(0, TIMEOUT_S)
    assert time.monotonic() - before >= LATENCY_S + 0.06


def test_a_port_receives_one_message_at_a_time(group: list[EmulatedTransport]) -> None:
    """From two senders: their own ports are idle."""
    before = time.monotonic()
    for src in (0, 1):
        group[src].send(2, message(src, 30_000))
    group[2].recv(0, TIMEOUT_S)
    group[2].recv(1, TIMEOUT_S)
    assert time.monotonic() - before >= LATENCY_S + 0.06


def test_a_message_on_its_way_is_late_and_comes_afterwards(
    group: list[EmulatedTransport],
) -> None:
    group[0].send(1, message(0, 300_000))
    with pytest.raises(DeadlineExceeded) as caught:
        group[1].recv(0, 0.05)
    assert (caught.value.rank, caught.value.peer, caught.value.timeout_s) == (1, 0, 0.05)
    received = group[1].recv(0, TIMEOUT_S)
    np.testing.assert_array_equal(received.payload, message(0, 300_000).payload)


def test_idle_time_is_given_to_what_came_in_it() -> None:
    schedule = Schedule()
    assert schedule.reserve(10.0, 2.0) == 12.0
    assert schedule.reserve(11.0, 1.0) == 13.0
    assert schedule.reserve(5.0, 4.0) == 9.0  # asked for later, and there was room
    assert schedule.reserve(6.0, 2.0) == 15.0  # no gap is long enough
    assert schedule.reserve(9.0, 1.0) == 10.0
    assert schedule.reserve(3.0, 0.0) == 3.0


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.001, 5)), min_size=1, max_size=30))
def test_reserved_times_never_meet(wanted: list[tuple[float, float]]) -> None:
    schedule = Schedule()
    taken = []
    for earliest_s, duration_s in wanted:
        end_s = schedule.reserve(earliest_s, duration_s)
        start_s = end_s - duration_s
        assert start_s >= earliest_s - 1e-9
        taken.append((start_s, end_s))
    taken.sort()
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(taken))


SLOW = RunConfig(
    task="synthetic",
    algorithm="ring",
    transport="shm",
    world_size=2,
    num_shards=2,
    global_batch_size=8,
    epochs=2,
    max_steps=3,
    emulate_latency_s=0.005,
    emulate_bandwidth_bits_per_s=1e9,
    warmup_steps=0,
    task_options={"parameter_dim": 40, "num_samples": 16},
)


@pytest.mark.parametrize("algorithm", ["ring", "parameter_server"])
def test_training_over_an_emulated_link_ends_with_the_same_bits(algorithm: str) -> None:
    config = replace(SLOW, algorithm=algorithm)
    fast = replace(config, emulate_latency_s=0.0, emulate_bandwidth_bits_per_s=0.0)
    slow_run, fast_run = train(config), train(fast)
    assert slow_run.final_state().sha256() == fast_run.final_state().sha256()
    # two rounds and a commit at least, or a push, a verdict and a pull
    assert min(step_s for rank in slow_run.ranks[:1] for step_s in rank.step_s) >= 2 * 0.005


@pytest.mark.parametrize("algorithm", ["serial", "ddp", "native"])
@pytest.mark.parametrize("key", ["emulate_latency_s", "emulate_bandwidth_bits_per_s"])
def test_what_dmlf_does_not_carry_cannot_be_slowed(algorithm: str, key: str) -> None:
    transport = {"serial": "none", "ddp": "gloo", "native": "process_group"}[algorithm]
    with pytest.raises(ConfigError) as caught:
        RunConfig(algorithm=algorithm, transport=transport, **{key: 1.0})
    assert caught.value.key == key


def test_hosts_that_share_no_clock_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match="share no clock"):
        train(replace(SLOW, transport="process_group"))
