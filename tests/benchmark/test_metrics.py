"""From reports of ranks to a metrics file: numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dmlf.benchmark.metrics import build_metrics
from dmlf.benchmark.steps import summarise_steps
from dmlf.config import RunConfig
from dmlf.errors import ConfigError, MetricsError, ReplicaDivergence
from dmlf.training.result import RankReport, RunResult
from dmlf.training.state import RankState
from tests.benchmark.matrix import fixed_environment, metrics_of, run_config, run_result, sha256


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    with fixed_environment():
        yield


STATE = RankState({"a": "1", "b": "2"}, {"a.m": "3", "b.m": "4"})
WITHOUT_OPTIMIZER = RankState(STATE.parameters, None)
SERVERS = {"algorithm": "parameter_server"}


def report(
    rank: int, step_s: Sequence[float], samples: Sequence[int], **changes: Any
) -> RankReport:
    steps = len(step_s)
    values: dict[str, Any] = {
        "rank": rank,
        "role": "worker",
        "initial_state_sha256": sha256("initial"),
        "state": STATE,
        "start_s": [float(step) for step in range(steps)],
        "step_s": list(step_s),
        "samples": list(samples),
        "data_s": [0.001] * steps,
        "forward_backward_s": [0.5 * value for value in step_s],
        "communication_s": [0.25 * value for value in step_s],
        "wait_s": [0.125 * value for value in step_s],
        "hidden_s": [0.0625 * value for value in step_s],
        "optimizer_s": [0.0] * steps,
        "loss_sum": [2.0 * count for count in samples],
        "messages_sent": 10,
        "payload_bytes_sent": 1000,
        "theoretical_messages": 10,
        "theoretical_payload_bytes": 1000,
        "epochs": [],
        "torch_threads": 1,
    }
    return RankReport(**(values | changes))


def result(ranks: Sequence[RankReport], **changes: Any) -> RunResult:
    config = run_config(
        "ring-queue", sum(rank.role == "worker" for rank in ranks), global_batch_size=8,
        num_shards=4, warmup_steps=1,
    )  # fmt: skip
    config = dataclasses.replace(config, **changes)
    return dataclasses.replace(run_result(run_config()), config=config, ranks=list(ranks))


def build(ranks: Sequence[RankReport], **changes: Any) -> dict[str, Any]:
    return build_metrics(result(ranks, **changes), ["dmlf", "train"], None)


# Warm-up 9.0; full-size steps whose slowest workers take 0.2, 0.4, 0.3; a small last step.
TWO_RANKS = (
    report(0, [9.0, 0.2, 0.1, 0.3, 0.01], [4, 4, 4, 4, 1]),
    report(1, [1.0, 0.1, 0.4, 0.2, 0.02], [4, 4, 4, 4, 2]),
)


def test_speed_is_the_global_batch_over_the_median_of_the_slowest_workers_steps() -> None:
    metrics = build(TWO_RANKS)
    assert metrics["step_time_s"] == 0.3
    assert metrics["throughput_samples_per_s"] == pytest.approx(8 / 0.3)
    statistics = metrics["timing"]["step_time_s"]
    assert statistics["mean"] == pytest.approx(0.3)
    assert (statistics["min"], statistics["max"]) == (0.2, 0.4)
    assert statistics["stdev"] == pytest.approx(0.1)
    assert metrics["timing"]["measured_steps"] == 3
    assert metrics["timing"]["training_s"] == pytest.approx(9.61)
    # Every step: a quarter communication, of that a quarter hidden.
    assert metrics["communication"]["exposed_fraction"] == pytest.approx(0.1875)


def test_shares_are_medians_over_the_shares_of_single_steps() -> None:
    """Then waiting, a part of communication in every step, is no larger share than that."""
    steps, full = [9.0, 0.2, 0.1, 0.4], [4, 4, 4, 4]
    slow = report(
        0,
        steps,
        full,
        communication_s=[0.0, 0.1, 0.02, 0.1],
        wait_s=[0.0, 0.04, 0.01, 0.1],
        hidden_s=[0.0] * 4,
    )
    metrics = build((slow, report(1, [value / 2 for value in steps], full)))
    assert metrics["communication"]["exposed_fraction"] == pytest.approx(0.25)
    summary = summarise_steps(
        metrics["timing"]["per_rank"], RunConfig.from_mapping(metrics["config"])
    )
    assert summary is not None
    assert summary.waiting_fraction == pytest.approx(0.2)


def test_ranks_that_wait_for_nobody_count_by_their_mean() -> None:
    strategy = {"algorithm": "unsynchronized", "transport": "none"}
    metrics = build(TWO_RANKS, **strategy)
    # Means of the full-size steps: 0.15, 0.25, 0.25.
    assert metrics["step_time_s"] == pytest.approx(0.25)
    assert metrics["throughput_samples_per_s"] == pytest.approx(8 / 0.25)


def test_left_out_steps_stay_in_the_raw_samples() -> None:
    metrics = build(TWO_RANKS)
    assert metrics["timing"]["per_rank"][0]["step_s"] == [9.0, 0.2, 0.1, 0.3, 0.01]
    assert metrics["timing"]["per_rank"][1]["samples"] == [4, 4, 4, 4, 2]


def test_loss_is_the_mean_over_the_samples_of_all_ranks() -> None:
    ranks = (
        report(0, [0.2, 0.2], [6, 6], loss_sum=[6.0, 12.0]),
        report(1, [0.2, 0.2], [2, 2], loss_sum=[10.0, 4.0]),
    )
    assert build(ranks)["convergence"]["step_loss"] == [2.0, 2.0]


@pytest.mark.parametrize("warmup_steps", [4, 5, 100])
def test_nothing_left_to_measure_is_a_clear_error(warmup_steps: int) -> None:
    with pytest.raises(ConfigError) as caught:
        build(TWO_RANKS, warmup_steps=warmup_steps)
    assert (caught.value.key, caught.value.value) == ("warmup_steps", warmup_steps)


def test_a_server_is_kept_raw_and_never_the_slowest() -> None:
    server = report(
        2, [50.0] * 5, [], role="server", loss_sum=[], messages_sent=20, theoretical_messages=20
    )
    workers = [dataclasses.replace(rank, state=WITHOUT_OPTIMIZER) for rank in TWO_RANKS]
    metrics = build([*workers, server], **SERVERS)
    assert metrics["step_time_s"] == 0.3
    assert metrics["timing"]["processes"] == 3
    assert metrics["communication"]["messages"] == 40
    assert metrics["final_state_sha256"] == STATE.sha256()
    assert metrics["correctness"]["parameters_sha256_by_rank"].keys() == {"0", "1", "2"}


def test_the_final_state_is_put_together_from_the_parts_of_servers() -> None:
    parts = [RankState({"a": "1"}, {"a.m": "3"}), RankState({"b": "2"}, {"b.m": "4"})]
    servers = [
        report(2 + server, [0.1] * 5, [], role="server", loss_sum=[], state=part)
        for server, part in enumerate(parts)
    ]
    workers = [dataclasses.replace(rank, state=WITHOUT_OPTIMIZER) for rank in TWO_RANKS]
    metrics = build([*workers, *servers], **SERVERS, num_servers=2)
    assert metrics["final_state_sha256"] == STATE.sha256()
    assert metrics["correctness"]["parameters_sha256_by_rank"].keys() == {"0", "1"}
    assert metrics["correctness"]["replicas_identical"] is True
    assert metrics["timing"]["processes"] == 4
    assert metrics["timing"]["oversubscribed"] is True
    with pytest.raises(MetricsError) as caught:
        build([*workers, *servers], **SERVERS)
    assert caught.value.field == "timing.per_rank"
    with pytest.raises(ReplicaDivergence, match="no rank has the optimizer"):
        build([*workers, servers[0]], **SERVERS, num_servers=2)


@pytest.mark.parametrize(
    "other",
    [
        RankState({"a": "1", "b": "9"}, {"a.m": "3", "b.m": "4"}),
        RankState({"a": "1", "b": "2"}, {"a.m": "3", "b.m": "9"}),
    ],
)
def test_replicas_that_end_in_different_states_are_refused(other: RankState) -> None:
    with pytest.raises(ReplicaDivergence) as caught:
        build([TWO_RANKS[0], dataclasses.replace(TWO_RANKS[1], state=other)])
    assert caught.value.rank == 1


def test_replicas_that_start_differently_are_recorded() -> None:
    assert build(TWO_RANKS)["correctness"]["replicas_identical"] is True
    changed = dataclasses.replace(TWO_RANKS[1], initial_state_sha256=sha256("other"))
    assert build([TWO_RANKS[0], changed])["correctness"]["replicas_identical"] is False


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        ({}, True),
        ({"messages_sent": 11}, False),
        ({"payload_bytes_sent": 999}, False),
        ({"payload_bytes_sent": None}, None),
        ({"theoretical_messages": None}, None),
    ],
)
def test_traffic_is_compared_with_theory_where_both_are_known(
    changes: dict[str, Any], matches: bool | None
) -> None:
    ranks = [TWO_RANKS[0], dataclasses.replace(TWO_RANKS[1], **changes)]
    assert build(ranks)["correctness"]["traffic_matches_theory"] is matches


def test_warnings_name_what_makes_a_time_doubtful() -> None:
    kinds = {text.partition(":")[0] for text in build(TWO_RANKS)["timing"]["warnings"]}
    assert kinds == {"step times vary"}
    quick = [report(rank, [0.0005] * 3, [2] * 3) for rank in range(4)]
    busy = dataclasses.replace(result(quick), others_cpu_share=0.11)
    metrics = build_metrics(busy, [], None)
    kinds = {text.partition(":")[0] for text in metrics["timing"]["warnings"]}
    assert kinds == {"steps shorter than 1 ms", "beside other work", "oversubscribed"}
    assert metrics["timing"]["oversubscribed"] is True
    calm = [report(rank, [0.2] * 3, [4] * 3) for rank in range(2)]
    quiet = dataclasses.replace(result(calm), load_before=(9.0, 9.0, 9.0), others_cpu_share=0.1)
    metrics = build_metrics(quiet, [], None)
    assert metrics["timing"]["warnings"] == []  # of what ran before it, a load average still tells
    assert metrics["timing"]["others_cpu_share"] == 0.1


def test_threads_count_towards_oversubscription() -> None:
    calm = [report(rank, [0.2] * 3, [4] * 3) for rank in range(2)]
    assert build(calm)["timing"]["oversubscribed"] is False
    assert build(calm, threads_per_rank=2)["timing"]["oversubscribed"] is True


def test_reports_that_do_not_fit_together_are_refused() -> None:
    missing = dataclasses.replace(result(TWO_RANKS), ranks=[TWO_RANKS[1]])
    with pytest.raises(MetricsError) as caught:
        build_metrics(missing, [], None)
    assert caught.value.field == "timing.per_rank"
    with pytest.raises(MetricsError):
        build([TWO_RANKS[0], report(1, [0.1], [4])])
    with pytest.raises(ReplicaDivergence, match="no rank has the optimizer"):
        build([dataclasses.replace(rank, state=WITHOUT_OPTIMIZER) for rank in TWO_RANKS])


def test_provenance_and_calibration() -> None:
    metrics = metrics_of(run_config("ddp-gloo", 2))
    assert metrics["timing"]["phase_source"] == "calibrated"
    assert metrics["communication"]["payload_bytes"] is None
    provenance = metrics["provenance"]
    assert provenance["config_sha256"] == run_config("ddp-gloo", 2).sha256()
    assert provenance["constraints_sha256"] == sha256("constraints")
    started_at = run_result(run_config("ddp-gloo", 2)).started_at
    assert provenance["started_at"] == started_at.isoformat(timespec="milliseconds")
    assert metrics["environment"]["torch_threads"] == 1
    assert metrics_of(run_config("ring-queue", 2))["timing"]["phase_source"] == "measured"
