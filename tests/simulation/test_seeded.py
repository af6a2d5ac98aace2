"""Seeded fault schedules of every registered algorithm."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.simulation import FaultKind, Reduction, run_seed, scenario_of, simulate

ALGORITHMS = sorted(registry())
REDUCTIONS: list[Reduction] = ["float32", "exact"]
SCHEDULES = 500


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_fault_schedules_pass(name: str, reduction: Reduction) -> None:
    seen: list[int] = []
    summary = simulate(name, 4, 2, SCHEDULES, 0, reduction, seen.append)
    assert summary.schedules == SCHEDULES
    assert seen == [100, 200, 300, 400, 500]
    assert set(summary.fired) == {str(kind) for kind in FaultKind}, "a kind of fault never fired"
    assert min(summary.fired.values()) >= 20
    assert 0 < summary.runs_completed < SCHEDULES
    assert_every_refusal_was_seen(summary.outcomes)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("num_servers", [2, 3])
def test_fault_schedules_pass_with_several_servers(num_servers: int, reduction: Reduction) -> None:
    """Seeds take turns with one and two buckets, so that some servers own nothing."""
    summary = simulate("parameter_server", 3, 2, 400, 0, reduction, num_servers=num_servers)
    assert set(summary.fired) == {str(kind) for kind in FaultKind}
    assert 0 < summary.runs_completed < 400
    assert_every_refusal_was_seen(summary.outcomes)


def assert_every_refusal_was_seen(outcomes: Mapping[str, int]) -> None:
    expected = {"completed", "crashed", "PeerLost", "DeadlineExceeded", "TransportError"}
    expected |= {"GenerationMismatch", "StepMismatch", "BucketMismatch", "PhaseMismatch"}
    expected |= {"RoundMismatch", "SourceMismatch", "NonFiniteGradient"}
    assert expected <= set(outcomes)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_other_world_sizes_pass(name: str, world_size: int) -> None:
    assert simulate(name, world_size, 3, 60, 1_000, "exact").schedules == 60


@pytest.mark.parametrize("name", ALGORITHMS)
def test_same_seed_gives_the_same_trace(name: str) -> None:
    algorithm = registry()[name]
    hashes = []
    for _ in range(2):
        runs = [run_seed(scenario_of(algorithm, 3, 2, "exact", s), s) for s in range(20)]
        hashes.append([run.trace_sha256() for run in runs])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 20


def test_trace_of_a_seed_is_the_same_in_every_process() -> None:
    run = run_seed(scenario_of(registry()["ring"], 2, 1, "float32", 1), 1)
    assert run.trace_sha256() == (
        "b8656362fc5726c39c9bfc0a9471540c602a577e7af707e341172cd3f894baef"
    )


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("algorithm", ("no_such_algorithm", 2, 1, 1, 0, "float32")),
        ("world_size", ("ring", 0, 1, 1, 0, "float32")),
        ("steps", ("ring", 2, 0, 1, 0, "float32")),
        ("seeds", ("ring", 2, 1, 0, 0, "float32")),
        ("reduction", ("ring", 2, 1, 1, 0, "float64")),
    ],
)
def test_values_that_are_not_allowed_are_named(
    key: str, arguments: tuple[str, int, int, int, int, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(*arguments)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("name", "num_servers"), [("ring", 2), ("parameter_server", 0), ("parameter_server", 65)]
)
def test_numbers_of_servers_that_are_not_allowed_are_named(name: str, num_servers: int) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(name, 2, 1, 1, num_servers=num_servers)
    assert caught.value.key == "num_servers"
