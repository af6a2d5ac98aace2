"""The promises: float32 equals its serial replay; exact equals serial at any world size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmlf.errors import ConfigError, NonFiniteGradient
from dmlf.protocol import registry
from dmlf.training.replay import replay
from dmlf.training.replica import Replica
from tests.training.cluster import (
    config,
    final_state,
    serial_state,
    states_of,
    train_in_process,
)

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.01},
}
MODELS = {"mlp": {"model": "mlp"}, "cnn": {"model": "cnn"}}

pytest.importorskip("torch", reason="trains torch models")


@pytest.mark.parametrize("algorithm", registry())
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float32_equals_its_serial_replay(algorithm: str, world_size: int, optimizer: str) -> None:
    run = config(algorithm, world_size, **OPTIMIZERS[optimizer])
    assert final_state(train_in_process(run)) == replay(0, run)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_exact_is_one_hash(optimizer: str, model: str) -> None:
    changes = {"reduction": "exact", **OPTIMIZERS[optimizer], **MODELS[model]}
    states = {"serial": serial_state(config("serial", **changes))}
    for algorithm in registry():
        for world_size in (1, 2, 3, 4, 5, 8):
            run = config(algorithm, world_size, **changes)
            states[f"{algorithm} {world_size}"] = final_state(train_in_process(run))
    assert len(set(states.values())) == 1, states


@pytest.mark.parametrize("num_servers", [2, 3, 9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_several_servers_change_no_bit(optimizer: str, num_servers: int) -> None:
    """Also with nine, of which five own nothing: the model has four tensors, each a bucket."""
    for reduction in ("float32", "exact"):
        changes = {"reduction": reduction, "bucket_cap_bytes": 4, **OPTIMIZERS[optimizer]}
        one = config("parameter_server", 3, **changes)
        several = replace(one, num_servers=num_servers)
        expected = (
            replay(0, one) if reduction == "float32" else serial_state(config("serial", **changes))
        )
        assert final_state(train_in_process(one)) == expected
        assert final_state(train_in_process(several)) == expected


def test_a_server_holds_what_it_owns_and_nothing_else() -> None:
    replicas = train_in_process(
        config("parameter_server", 2, num_servers=2, optimizer="adamw", bucket_cap_bytes=4)
    )
    worker, *servers = replicas[1:]
    for server, replica in enumerate(servers):
        owned = [name for bucket in worker.buckets[server::2] for name in bucket.names]
        assert sorted(replica.backend.parameters()) == sorted(owned)
        assert sorted(replica.store.reduced) == sorted(owned)
        assert sorted(replica.store.flat) == list(range(server, len(worker.buckets), 2))
        state = replica.backend.optimizer_state()
        assert sorted(state) == sorted(
            f"{name}.{key}" for name in owned for key in ("exp_avg", "exp_avg_sq", "step")
        )
        assert replica.initial_state_sha256 == worker.initial_state_sha256
        digests = worker.parameter_digests()
        assert replica.parameter_digests() == [
            digest if part == server else None for part, digest in enumerate(digests)
        ]
    assert [state.optimizer is None for state in states_of(replicas)] == [True, True, False, False]


@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize("bad_bucket", [0, 1, 2])
def test_what_is_not_finite_on_one_server_is_applied_on_none(
    bad_bucket: int, reduction: str
) -> None:
    before: list[str] = []
    everyone: list[Replica] = []

    def plant(step: int, replicas: list[Replica]) -> None:
        if step == 2:
            name = replicas[1].buckets[bad_bucket].names[0]
            replicas[1].store.rows[0][name].flat[1] = float("nan")
            before.extend(replica.state().sha256() for replica in replicas)
            everyone.extend(replicas)

    changes = {"reduction": reduction, "num_servers": 2, "bucket_cap_bytes": 4}
    with pytest.raises(NonFiniteGradient) as caught:
        train_in_process(config("parameter_server", 3, **changes), plant)
    assert caught.value.step == 2
    assert len(everyone) == 5
    assert [replica.state().sha256() for replica in everyone] == before


@pytest.mark.parametrize("bucket_cap_bytes", [4, 1000, 1 << 30])
def test_exact_does_not_depend_on_the_buckets(bucket_cap_bytes: int) -> None:
    run = config("ring", 3, reduction="exact")
    cut = replace(run, bucket_cap_bytes=bucket_cap_bytes)
    assert final_state(train_in_process(run)) == final_state(train_in_process(cut))


def test_float32_differs_between_world_sizes() -> None:
    """Else the tests above would prove nothing about order."""
    states = {final_state(train_in_process(config("ring", size))) for size in (1, 2, 3, 4)}
    assert len(states) > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize("algorithm", registry())
def test_a_non_finite_gradient_is_applied_nowhere(
    algorithm: str, reduction: str, value: float
) -> None:
    before: list[str] = []
    everyone: list[Replica] = []

    def plant(step: int, replicas: list[Replica]) -> None:
        if step == 2:
            gradients = replicas[1].store.rows[0]
            next(iter(gradients.values())).flat[1] = value
            before.extend(replica.state().sha256() for replica in replicas)
            everyone.extend(replicas)

    with pytest.raises(NonFiniteGradient) as caught:
        train_in_process(config(algorithm, 3, reduction=reduction), plant)
    assert caught.value.step == 2
    assert [replica.state().sha256() for replica in everyone] == before


def test_the_replay_of_an_exact_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="exact serial run"):
        replay(0, config("ring", 2, reduction="exact"))
