"""A metrics file that contradicts its schema or itself is refused, with the field's name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from dmlf.benchmark.schema import validate
from dmlf.errors import MetricsError
from tests.benchmark.matrix import fixed_environment, metrics_of, run_config, sha256

Metrics = dict[str, Any]


@pytest.fixture(scope="module")
def sound() -> Metrics:
    with fixed_environment():
        return metrics_of(run_config("parameter_server-queue", 2))


def rank(metrics: Metrics, index: int) -> Metrics:
    entry: Metrics = metrics["timing"]["per_rank"][index]
    return entry


def without_rank_1(metrics: Metrics) -> None:
    del metrics["timing"]["per_rank"][1]


def rank_0_twice(metrics: Metrics) -> None:
    rank(metrics, 1)["rank"] = 0


def other_seed(metrics: Metrics) -> None:
    metrics["seeds"]["seed"] = 1


def faster_than_measured(metrics: Metrics) -> None:
    metrics["throughput_samples_per_s"] *= 2


def changed_sample(metrics: Metrics) -> None:
    for index in (0, 1):
        rank(metrics, index)["step_s"] = [0.001] * 60


def speed_is_null(metrics: Metrics) -> None:
    metrics["step_time_s"] = None


def nothing_measured_from_the_start(metrics: Metrics) -> None:
    for index in (0, 1):
        rank(metrics, index)["samples"] = [1] * 60


def speed_of_nothing(metrics: Metrics) -> None:
    nothing_measured_from_the_start(metrics)
    metrics["timing"]["first_step"] = 9


def changed_configuration(metrics: Metrics) -> None:
    metrics["config"]["learning_rate"] = 0.2


def configuration_without_key(metrics: Metrics) -> None:
    del metrics["config"]["weight_decay"]


def claims_equal_replicas(metrics: Metrics) -> None:
    metrics["correctness"]["parameters_sha256_by_rank"]["1"] = sha256("other")


def claims_theory(metrics: Metrics) -> None:
    metrics["communication"]["messages"] += 1


BROKEN: list[tuple[Callable[[Metrics], object], str]] = [
    (lambda m: m.update(schema_version=2), "schema_version"),
    (lambda m: m.update(status="failed"), "status"),
    (lambda m: m.pop("timing"), "document"),
    (lambda m: m.update(step_time_s=-1.0), "step_time_s"),
    (lambda m: m.update(step_time_s=0.0), "step_time_s"),
    (lambda m: m.update(test_accuracy=1.5), "test_accuracy"),
    (lambda m: m.update(final_state_sha256="x"), "final_state_sha256"),
    (lambda m: m["timing"].update(launch_s=-0.1), "timing.launch_s"),
    (lambda m: m["timing"].update(launch_s=True), "timing.launch_s"),
    (lambda m: m["timing"].update(surprise=1), "timing"),
    (
        lambda m: rank(m, 0)["step_s"].__setitem__(7, -0.1),
        "timing.per_rank.0.step_s.7",
    ),
    (
        lambda m: rank(m, 0)["phases"]["wait_s"].__setitem__(3, "1"),
        "timing.per_rank.0.phases.wait_s.3",
    ),
    (lambda m: rank(m, 0)["samples"].__setitem__(3, 10**30), "timing.per_rank.0.samples.3"),
    (lambda m: rank(m, 0)["samples"].__setitem__(3, True), "timing.per_rank.0.samples.3"),
    (lambda m: rank(m, 0)["step_s"].pop(), "timing.per_rank[rank 0].step_s"),
    (lambda m: rank(m, 1)["phases"]["wait_s"].pop(), "timing.per_rank[rank 1].wait_s"),
    (without_rank_1, "timing.per_rank"),
    (rank_0_twice, "timing.per_rank"),
    (lambda m: rank(m, 2).update(rank=1), "timing.per_rank"),
    (lambda m: m["timing"].update(processes=2), "timing.processes"),
    (lambda m: m["timing"].update(measured_steps=7), "timing.measured_steps"),
    (lambda m: m["timing"].update(warmup_steps=7), "timing.warmup_steps"),
    (other_seed, "seeds.seed"),
    (faster_than_measured, "throughput_samples_per_s"),
    (changed_sample, "timing.step_time_s.mean"),
    (speed_is_null, "step_time_s"),
    (nothing_measured_from_the_start, "timing.per_rank"),
    (speed_of_nothing, "timing.measured_steps"),
    (changed_configuration, "provenance.config_sha256"),
    (configuration_without_key, "config"),
    (lambda m: m["config"].update(world_size=0), "config"),
    (lambda m: m["config"].update(unknown=0), "config"),
    (lambda m: m["config"].update(learning_rate=10**400), "config"),
    (lambda m: m["config"].update(task_options={"noise": 10**400}), "config"),
    (lambda m: m.update(throughput_samples_per_s=10**400), "throughput_samples_per_s"),
    (lambda m: m["timing"].update(launch_s=10**400), "timing.launch_s"),
    (lambda m: m["config"].update(task_options=5), "config"),
    (claims_equal_replicas, "correctness.replicas_identical"),
    (
        lambda m: m["correctness"]["parameters_sha256_by_rank"].pop("1"),
        "correctness.parameters_sha256_by_rank",
    ),
    (claims_theory, "correctness.traffic_matches_theory"),
    (lambda m: m["convergence"]["epochs"].reverse(), "convergence.epochs"),
]


@pytest.mark.parametrize(("damage", "field"), BROKEN)
def test_damage_is_named(sound: Metrics, damage: Callable[[Metrics], object], field: str) -> None:
    metrics = copy.deepcopy(sound)
    damage(metrics)
    with pytest.raises(MetricsError) as caught:
        validate(metrics, "results/metrics.json")
    assert (caught.value.path, caught.value.field) == ("results/metrics.json", field)


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_other_documents_are_refused(document: object) -> None:
    with pytest.raises(MetricsError):
        validate(document, "metrics.json")


def test_a_sound_file_gives_its_configuration(sound: Metrics) -> None:
    assert validate(sound, "metrics.json") == run_config("parameter_server-queue", 2)


def test_more_is_welcome_at_the_top_and_in_the_environment(sound: Metrics) -> None:
    metrics = copy.deepcopy(sound)
    metrics["history"] = [1, 2]
    metrics["environment"]["compiler"] = "gcc"
    validate(metrics, "metrics.json")
