"""The promises: float32 equals its serial replay; exact equals serial at any world size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmlf.errors import ConfigError, NonFiniteGradient
from dmlf.protocol import registry
from dmlf.training.replay import replay
from dmlf.training.replica import Replica
from tests.training.cluster import config, final_state, serial_state, train_in_process

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
            before.extend(replica.state_sha256() for replica in replicas)
            everyone.extend(replicas)

    with pytest.raises(NonFiniteGradient) as caught:
        train_in_process(config(algorithm, 3, reduction=reduction), plant)
    assert caught.value.step == 2
    assert [replica.state_sha256() for replica in everyone] == before


def test_the_replay_of_an_exact_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="exact serial run"):
        replay(0, config("ring", 2, reduction="exact"))
