"""A RunConfig is checked once, on construction; afterwards nobody has to."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from dmlf.config import RunConfig, canonical_json, split_strategy
from dmlf.errors import ConfigError

RING = RunConfig(algorithm="ring", transport="queue", world_size=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "../escape"),
        ("task", ""),
        ("task", 3),
        ("model", "transformer"),
        ("hidden_sizes", (64, 0)),
        ("hidden_sizes", (True,)),
        ("algorithm", "ring all"),
        ("reduction", "float64"),
        ("world_size", 0),
        ("world_size", True),
        ("world_size", 2.0),
        ("world_size", "2"),
        ("world_size", 10**9),
        ("num_servers", 0),
        ("num_servers", 65),
        ("num_servers", True),
        ("num_shards", -1),
        ("global_batch_size", 0),
        ("epochs", 0),
        ("max_steps", 0),
        ("optimizer", "lion"),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 10**400),
        ("learning_rate", -0.1),
        ("learning_rate", "1e-3"),
        ("momentum", 1.5),
        ("bucket_cap_bytes", 3),
        ("seed", -1),
        ("warmup_steps", -1),
        ("overlap", 1),
        ("overlap", "true"),
        ("threads_per_rank", 0),
        ("emulate_latency_s", -1e-6),
        ("emulate_latency_s", float("nan")),
        ("emulate_bandwidth_bits_per_s", -1),
        ("emulate_bandwidth_bits_per_s", "1e9"),
        ("timeout_s", 0),
        ("data_dir", ""),
    ],
)
def test_a_value_that_is_not_allowed_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(RING, **{key: value})
    assert caught.value.key == key
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), True, None, [1]])
def test_task_options_are_numbers_or_text(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"task_options\.size"):
        replace(RING, task_options={"size": value})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"world_size": 9}, "world_size"),
        ({"global_batch_size": 100}, "global_batch_size"),
        ({"algorithm": "serial", "transport": "none"}, "world_size"),
        ({"algorithm": "serial", "world_size": 1}, "transport"),
        ({"algorithm": "ddp"}, "transport"),
        ({"algorithm": "ddp", "transport": "gloo", "reduction": "exact"}, "reduction"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(RING, **changes)
    assert caught.value.key == key


def test_a_mapping_and_back() -> None:
    config = replace(RING, task_options={"b": 1, "a": "x"}, hidden_sizes=[3, 4])
    assert RunConfig.from_mapping(config.as_mapping()) == config
    assert canonical_json(config.as_mapping()) == canonical_json(
        replace(config, task_options={"a": "x", "b": 1}).as_mapping()
    )
    with pytest.raises(ConfigError, match="hidden_size") as caught:
        RunConfig.from_mapping({"hidden_size": 3})
    assert caught.value.key == "hidden_size"


def test_the_hash_covers_what_decides_the_result() -> None:
    assert replace(RING, rep=3, data_dir="x", timeout_s=5.0).sha256() == RING.sha256()
    changed = [{"seed": 1}, {"world_size": 3}, {"learning_rate": 0.2}, {"task_options": {"a": 1}}]
    assert len({RING.sha256(), *(replace(RING, **change).sha256() for change in changed)}) == 5


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        RING.seed = 3  # type: ignore[misc]


def test_strategies() -> None:
    assert RING.strategy == "ring-queue"
    assert RunConfig().strategy == "serial"
    assert split_strategy("parameter_server-shm") == ("parameter_server", "shm")
    assert split_strategy("serial") == ("serial", "none")


def test_the_trajectory_is_what_decides_the_parameters_after_each_step() -> None:
    alike = {
        "epochs": 99, "max_steps": 7, "warmup_steps": 0, "transport": "tcp", "overlap": True,
        "timeout_s": 5.0, "data_dir": "x", "rep": 3, "emulate_latency_s": 0.1,
        "emulate_bandwidth_bits_per_s": 1e9,
    }  # fmt: skip
    decisive = {
        "task": "synthetic", "model": "cnn", "hidden_sizes": (4,), "task_options": {"a": 1},
        "num_shards": 4, "global_batch_size": 64, "optimizer": "adamw", "learning_rate": 0.3,
        "momentum": 0.1, "weight_decay": 0.1, "seed": 1, "threads_per_rank": 2,
    }  # fmt: skip
    order = {"algorithm": "tree", "world_size": 3, "bucket_cap_bytes": 8}
    servers = {"num_servers": 2, "algorithm": "parameter_server"}
    for reduction in ("float32", "exact"):
        run = replace(RING, reduction=reduction)

        def changed(run: RunConfig, changes: dict[str, object]) -> list[str]:
            return [
                name
                for name, value in changes.items()
                if replace(run, **{name: value}).trajectory_sha256() != run.trajectory_sha256()
            ]

        assert changed(run, alike) == []
        assert changed(run, decisive) == list(decisive)
        assert changed(run, order) == (list(order) if reduction == "float32" else [])
        of_servers = replace(run, **servers)
        assert changed(of_servers, {"num_servers": 1}) == []
    assert replace(RING, reduction="exact").trajectory_sha256() != RING.trajectory_sha256()
    named = {"strategy", "config"} | alike.keys() | decisive.keys() | order.keys()
    assert {item.name for item in fields(RunConfig)} <= named | {"reduction", "num_servers"}
