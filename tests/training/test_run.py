"""Whole runs in real processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, RemoteError, SchemaMismatch
from dmlf.protocol import registry
from dmlf.training.run import replay_hash, train
from dmlf.training.state import entries_sha256
from tests.transport.every import EVERY_TRANSPORT

SYNTHETIC = RunConfig(
    task="synthetic", max_steps=4, global_batch_size=32, learning_rate=0.05, timeout_s=30.0
)


def final_state(config: RunConfig) -> str:
    return train(config).final_state().sha256()


@pytest.mark.parametrize("transport", EVERY_TRANSPORT)
@pytest.mark.parametrize("algorithm", registry())
def test_processes_give_the_promised_bits(algorithm: str, transport: str) -> None:
    config = replace(SYNTHETIC, algorithm=algorithm, transport=transport, world_size=3)
    assert final_state(config) == replay_hash(config)
    exact = replace(config, reduction="exact")
    serial = replace(exact, algorithm="serial", transport="none", world_size=1)
    assert final_state(exact) == final_state(serial)


def test_every_rank_tells_the_peak_of_its_memory() -> None:
    result = train(replace(SYNTHETIC, algorithm="ring", transport="shm", world_size=2))
    for report in result.ranks:  # an interpreter with numpy, and no data to speak of
        assert report.peak_memory_bytes is not None
        assert 10 << 20 < report.peak_memory_bytes < 1 << 30


@pytest.mark.parametrize("transport", EVERY_TRANSPORT)
@pytest.mark.parametrize("num_servers", [2, 3])
@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_servers_in_processes_share_the_work(
    num_servers: int, transport: str, reduction: str
) -> None:
    """Two tensors in a bucket each: of three servers one owns nothing."""
    one = replace(
        SYNTHETIC, algorithm="parameter_server", transport=transport, world_size=2,
        reduction=reduction, optimizer="adamw", bucket_cap_bytes=4,
    )  # fmt: skip
    result = train(replace(one, num_servers=num_servers))
    serial = replace(one, algorithm="serial", transport="none", world_size=1)
    expected = replay_hash(one) if reduction == "float32" else final_state(serial)
    assert result.final_state().sha256() == expected
    assert [rank.role for rank in result.ranks] == ["worker"] * 2 + ["server"] * num_servers
    assert [len(rank.state.parameters) for rank in result.ranks] == [2, 2, 1, 1, 0][
        : 2 + num_servers
    ]
    sent = sum(rank.messages_sent or 0 for rank in result.ranks)
    payload_bytes = sum(rank.payload_bytes_sent or 0 for rank in result.ranks)
    assert sent == result.ranks[0].theoretical_messages
    assert payload_bytes == result.ranks[0].theoretical_payload_bytes


@pytest.mark.parametrize("algorithm", ["ring", "parameter_server"])
@pytest.mark.parametrize("what", ["value", "shape", "name", "order"])
def test_ranks_whose_models_differ_do_not_begin(what: str, algorithm: str) -> None:
    config = replace(
        SYNTHETIC, task="tests.training.own_task:differs_by_process", task_options={"what": what},
        algorithm=algorithm, transport="shm", world_size=2, global_batch_size=16,
    )  # fmt: skip
    with pytest.raises(SchemaMismatch, match="initial state"):
        train(config)


def test_torch_runs_repeat_in_new_processes() -> None:
    pytest.importorskip("torch", reason="trains a torch model")
    config = RunConfig(hidden_sizes=(16,), max_steps=3, timeout_s=60.0)
    assert final_state(config) == final_state(config)
    ring = replace(config, algorithm="ring", transport="queue", world_size=2)
    assert final_state(ring) == replay_hash(ring)
    assert final_state(replace(config, seed=1)) != final_state(config)


def test_stock_ddp_trains_the_same_task() -> None:
    pytest.importorskip("torch", reason="runs torch DistributedDataParallel")
    config = RunConfig(hidden_sizes=(16,), max_steps=7, timeout_s=60.0)
    ddp = train(replace(config, algorithm="ddp", transport="gloo", world_size=3))
    serial = train(config)
    assert len({rank.state.sha256() for rank in ddp.ranks}) == 1
    together = [sum(losses) for losses in zip(*(rank.loss_sum for rank in ddp.ranks), strict=True)]
    assert together == pytest.approx(serial.ranks[0].loss_sum, rel=1e-4)
    assert sum(rank.samples[0] for rank in ddp.ranks) == config.global_batch_size


@pytest.mark.parametrize("world_size", [1, 2])
def test_unsynchronized_ranks_train_apart(world_size: int) -> None:
    algorithm = {"algorithm": "unsynchronized", "world_size": world_size}
    ranks = train(replace(SYNTHETIC, **algorithm)).ranks
    assert len({rank.initial_state_sha256 for rank in ranks}) == 1
    assert len({entries_sha256(rank.state.parameters) for rank in ranks}) == world_size
    assert [rank.messages_sent for rank in ranks] == [0] * world_size
    assert [rank.samples for rank in ranks] == [[32 // world_size] * 4] * world_size
    assert all(len(rank.step_s) == 4 and not rank.epochs for rank in ranks)
    again = train(replace(SYNTHETIC, **algorithm)).ranks
    assert [rank.state for rank in again] == [rank.state for rank in ranks]
    # Alone, a rank does what serial does.
    assert world_size > 1 or ranks[0].state.sha256() == final_state(SYNTHETIC)


def test_a_users_own_task_is_trained() -> None:
    own = replace(SYNTHETIC, task="tests.training.own_task:two_means", algorithm="ring")
    config = replace(own, transport="queue", world_size=2, global_batch_size=16)
    assert final_state(config) == replay_hash(config)


def test_an_error_in_user_code_is_shown_with_its_traceback() -> None:
    own = replace(SYNTHETIC, task="tests.training.own_task:broken_loss", algorithm="ring")
    with pytest.raises(RemoteError, match="planted in user code") as caught:
        train(replace(own, transport="queue", world_size=2))
    assert "own_task.py" in caught.value.traceback


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"algorithm": "carrier_pigeon", "transport": "queue"}, "algorithm"),
        ({"algorithm": "ring", "transport": "string"}, "transport"),
        ({"algorithm": "ddp", "transport": "gloo"}, "algorithm"),
        ({"task": "nothing"}, "task"),
        ({"num_servers": 2}, "num_servers"),
        ({"algorithm": "ring", "transport": "queue", "num_servers": 2}, "num_servers"),
        ({"algorithm": "ddp", "transport": "gloo", "num_servers": 2}, "num_servers"),
        ({"algorithm": "unsynchronized", "transport": "queue"}, "transport"),
        ({"algorithm": "unsynchronized", "reduction": "exact"}, "reduction"),
    ],
)
def test_what_cannot_run_is_refused_before_any_process(changes: dict[str, str], key: str) -> None:
    def refused() -> None:
        train(replace(SYNTHETIC, **changes))  # some values are refused by the configuration itself

    with pytest.raises(ConfigError) as caught:
        refused()
    assert caught.value.key == key
