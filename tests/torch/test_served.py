"""Parameter servers behind `dmlf.DistributedOptimizer`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import dmlf
from dmlf.errors import ConfigError, RemoteError
from tests.torch import served_programs as programs
from tests.torch import training


@pytest.mark.parametrize(("world_size", "num_servers"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_exact_training_gives_the_bits_of_serial(
    world_size: int, num_servers: int, kind: str
) -> None:
    expected = programs.served_serially(4, kind)
    results = dmlf.launch(programs.served, world_size, ("exact", 4, kind), num_servers=num_servers)
    assert len(results) == world_size
    for state, num_states in results:
        assert training.digest(state) == training.digest(expected)
        assert num_states == 0  # the optimizer's state is on the servers


@pytest.mark.parametrize("transport", ["queue", "tcp"])
def test_float32_training_is_near_serial(transport: str) -> None:
    expected = programs.served_serially(3, "sgd")
    results = dmlf.launch(programs.served, 2, ("float32", 3), num_servers=1, transport=transport)
    assert training.digest(results[0][0]) == training.digest(results[1][0])
    for name, value in results[0][0].items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)


def test_a_step_is_applied_by_all_servers_or_by_none() -> None:
    results = dmlf.launch(programs.served_with_errors, 2, num_servers=2)
    assert results == [["applied", "refused", "applied", "ConfigError"]] * 2


def test_a_failing_worker_ends_the_servers_too() -> None:
    with pytest.raises(RemoteError, match="rank 1 failed: ValueError: on purpose"):
        dmlf.launch(programs.served_and_failing, 2, num_servers=1)


def test_without_servers_the_remedy_is_named() -> None:
    for message in dmlf.launch(programs.without_servers, 2):
        assert "--servers 1" in message


def test_a_server_takes_no_part_in_collectives() -> None:
    with pytest.raises(ConfigError, match="a call by a parameter server"):
        dmlf.launch(programs.server_in_a_collective, 2, num_servers=1)


def test_num_servers_is_checked() -> None:
    with pytest.raises(ConfigError, match="num_servers"):
        dmlf.launch(programs.without_servers, 2, num_servers=-1)


def test_a_learning_rate_that_could_not_reach_the_servers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr of group 0.*a number"):
        dmlf.launch(programs.served_with_a_tensor, 1, num_servers=1)
