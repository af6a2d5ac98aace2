"""What a plan left behind becomes rows: good ones, and every kind of bad one by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.cohorts import cohorts, mixtures
from dmlf.benchmark.files import write_json
from dmlf.benchmark.gather import gather
from dmlf.benchmark.table import SPEED_COLUMNS, RunRow, Table, read_table
from dmlf.config import RunConfig
from dmlf.errors import MetricsError
from tests.benchmark.matrix import (
    SAMPLES,
    final_state,
    fixed_environment,
    matrix_configs,
    metrics_of,
    reference_path,
    result_path,
    run_config,
    sha256,
    write_matrix,
    write_run,
)

SMALL = {"reps": 2, "world_sizes": (1, 2), "exact": False, "epochs": 2}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    with fixed_environment():
        return write_matrix(tmp_path, matrix_configs(**SMALL))


def row_of(table: Table, config: RunConfig) -> RunRow:
    wanted = (config.strategy, config.world_size, config.rep)
    (row,) = [row for row in table.runs if (row.strategy, row.world_size, row.rep) == wanted]
    return row


def config(strategy: str, world_size: int, rep: int = 0, **changes: Any) -> RunConfig:
    return run_config(strategy, world_size, rep, epochs=2, **changes)


def gathered(plan: Path) -> Table:
    return gather(plan, plan.parent / "out" / "runs.csv")


def test_a_sound_matrix_is_complete_and_checked(plan: Path) -> None:
    table = gathered(plan)
    assert read_table(plan.parent / "out" / "runs.csv") == table
    assert {row.status for row in table.runs} == {"completed"}
    assert {row.check for row in table.runs} == {"passed"}
    row = row_of(table, config("ring-queue", 2))
    with fixed_environment():
        metrics = metrics_of(config("ring-queue", 2))
    assert row.throughput_samples_per_s == metrics["throughput_samples_per_s"]
    assert row.reference_sha256 == row.final_state_sha256
    assert row.payload_bytes_per_step == row.theoretical_payload_bytes_per_step
    assert row.messages_per_step == metrics["communication"]["messages"] / 12
    assert row.oversubscribed is False
    assert row_of(table, config("parameter_server-queue", 2)).oversubscribed is True
    assert len(table.epochs) == 3 * len(table.runs)
    assert {row.train_samples for row in table.runs} == {SAMPLES}


def test_the_size_of_the_training_set_is_not_known_of_a_run_cut_short(tmp_path: Path) -> None:
    with fixed_environment():
        table = gathered(write_matrix(tmp_path, [config("serial", 1, max_steps=10)]))
    assert table.runs[0].train_samples is None


def test_runs_with_more_servers_are_a_contestant_of_their_own(tmp_path: Path) -> None:
    """Compared with the same serial runs, and never a repeat of a run with another number."""
    strategy, plans = "parameter_server-queue", []
    with fixed_environment():
        for label, num_servers, reps in (("one", 1, (0, 1)), ("two", 2, (2, 3))):
            runs = [
                *(config("serial", 1, rep) for rep in reps),
                *(config(strategy, 2, rep, num_servers=num_servers) for rep in (0, 1, 2)),
            ]
            plan = write_matrix(tmp_path / label, runs)
            plans += json.loads(plan.read_text())
    write_json(tmp_path / "both.json", plans)
    table = gather(tmp_path / "both.json", tmp_path / "runs.csv")
    assert {row.check for row in table.runs} == {"passed"}
    (cohort,) = cohorts(table.runs)
    assert mixtures(table.runs) == []
    sizes = {str(point.contestant): len(point.runs) for point in cohort.points()}
    assert sizes == {"serial": 4, strategy: 3, f"{strategy}, 2 servers": 3}
    processes = {
        (row.strategy, row.num_servers): row.processes
        for row in table.runs
        if row.algorithm == "parameter_server"
    }
    assert processes == {(strategy, 1): 3, (f"{strategy}, 2 servers", 2): 4}
    assert {row.strategy for row in table.epochs} == set(sizes)


def test_a_failed_check_takes_every_speed_with_it(plan: Path) -> None:
    wrong = config("ring-queue", 2)
    with fixed_environment():
        metrics = metrics_of(wrong)
    metrics["final_state_sha256"] = sha256("wrong")
    write_json(result_path(plan.parent, wrong), metrics)
    table = gathered(plan)
    row = row_of(table, wrong)
    assert (row.status, row.check) == ("completed", "failed")
    assert {getattr(row, name) for name in SPEED_COLUMNS} == {None}
    assert {r.elapsed_s for r in table.epochs if r.path == row.path} == {None}
    assert row_of(table, config("ring-queue", 2, 1)).throughput_samples_per_s is not None


def text_damage(old: str, new: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (text_damage('"launch_s": 0.8', '"launch_s": NaN'), "NaN"),
        (text_damage('"launch_s": 0.8', '"launch_s": 1e999'), "finite"),
        (text_damage('"learning_rate": 0.1', f'"learning_rate": 1{"0" * 400}'), "learning_rate"),
        (text_damage('"launch_s"', '"total_s": 1, "launch_s"'), "twice"),
        (text_damage('"launch_s": 0.8', '"launch_s": -1'), "launch_s"),
        (text_damage('"schema_version": 1', '"schema_version": 9'), "schema_version"),
        (text_damage('"rank": 1', '"rank": 3'), "ranks [1]"),
        (lambda path: path.write_text(path.read_text()[:-30]), "not valid JSON"),
        (lambda path: path.write_text("[" * 100_000), "nested"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "UTF-8"),
        (lambda path: (path.unlink(), path.mkdir()), "regular file"),
    ],
)
def test_a_hostile_file_spoils_its_own_row_only(
    plan: Path, damage: Callable[[Path], None], word: str
) -> None:
    damage(result_path(plan.parent, config("ring-queue", 2)))
    table = gathered(plan)
    row = row_of(table, config("ring-queue", 2))
    assert row.status == "invalid"
    assert row.reason is not None
    assert word in row.reason
    others = [other for other in table.runs if other is not row]
    assert {(other.status, other.check) for other in others} == {("completed", "passed")}


def test_a_file_of_another_configuration_is_not_taken_for_this_one(plan: Path) -> None:
    stale = result_path(plan.parent, config("ring-queue", 2, 1))
    stale.write_bytes(result_path(plan.parent, config("ring-queue", 1, 0)).read_bytes())
    row = row_of(gathered(plan), config("ring-queue", 2, 1))
    assert row.status == "invalid"
    assert row.reason is not None
    assert "world_size is 2 in the path and 1 in the file" in row.reason
    assert "rep is 1 in the path and 0 in the file" in row.reason


def test_failed_skipped_and_missing_runs_have_their_reasons(plan: Path) -> None:
    failed, missing = config("ring-queue", 1), config("ring-queue", 2)
    for gone in (failed, missing):
        result_path(plan.parent, gone).unlink()
    write_json(
        result_path(plan.parent, failed, "failure.json"),
        {"schema_version": 1, "status": "failed", "config": {}, "provenance": {},
         "error": {"type": "PeerLost", "message": "rank 1\n| is gone"}},
    )  # fmt: skip
    entries = json.loads(plan.read_text())
    entries[0]["skipped"] = "too large for this machine"
    write_json(plan, entries)
    table = gathered(plan)
    row = row_of(read_table(plan.parent / "out" / "runs.csv"), failed)
    assert (row.status, row.reason) == ("failed", "PeerLost: rank 1 | is gone")
    assert row_of(table, missing).status == "missing"
    assert (table.runs[0].status, table.runs[0].reason) == ("skipped", "too large for this machine")


@pytest.mark.parametrize("content", ["{}", "[]", '{"error": 5}', "{", '{"error": NaN}'])
def test_an_unreadable_failure_is_still_a_failure(plan: Path, content: str) -> None:
    path = result_path(plan.parent, config("ring-queue", 2))
    path.unlink()
    path.with_name("failure.json").write_text(content)
    assert row_of(gathered(plan), config("ring-queue", 2)).status == "failed"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda r: r.update(final_state_sha256="short"), "not a hash"),
        (lambda r: r["config"].update(learning_rate=0.5), "another configuration"),
        (lambda r: r["config"].update(unknown=1), "not valid"),
        (lambda r: r["provenance"].update(source_sha256=sha256("x")), "other sources"),
        (lambda r: r.pop("provenance"), "not valid"),
        (lambda r: r.update(schema_version=2), "schema_version"),
    ],
)
def test_a_replay_that_proves_nothing_is_not_used(
    plan: Path, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    path = reference_path(plan.parent, config("ring-queue", 2))
    reference = json.loads(path.read_text())
    change(reference)
    write_json(path, reference)
    row = row_of(gathered(plan), config("ring-queue", 2))
    assert row.check == "absent"
    assert word in row.check_detail


def test_a_missing_replay_and_one_of_another_transport(plan: Path) -> None:
    path = reference_path(plan.parent, config("ring-queue", 2))
    reference = json.loads(path.read_text())
    reference["config"]["transport"] = "tcp"
    write_json(path, reference)
    assert row_of(gathered(plan), config("ring-queue", 2)).check == "passed"
    path.unlink()
    row = row_of(gathered(plan), config("ring-queue", 2))
    assert (row.check, row.throughput_samples_per_s) == ("absent", None)


def test_runs_of_other_sources_or_configurations_are_kept_apart_and_named(plan: Path) -> None:
    with fixed_environment(source="changed"):
        write_run(plan.parent, config("ddp-gloo", 2))
    with fixed_environment():
        write_run(plan.parent, config("ddp-gloo", 1, learning_rate=0.2))
    table = gathered(plan)
    assert row_of(table, config("ddp-gloo", 2)).check == "absent"
    parts = cohorts(table.runs)
    assert [len(part.completed) for part in parts] == [len(table.runs) - 2, 1, 1]
    assert len({part.label for part in parts}) == 3
    assert [sentence.partition(" (")[0] for sentence in mixtures(table.runs)] == [
        "digits: 2 different configurations",
        "digits: 2 different versions of the sources",
    ]


def test_another_machine_makes_another_cohort(plan: Path) -> None:
    with fixed_environment(cores=8):
        write_run(plan.parent, config("ring-queue", 2))
    table = gathered(plan)
    assert len(cohorts(table.runs)) == 2
    assert ["machines" in sentence for sentence in mixtures(table.runs)] == [True]


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[1]",
        '[{"path": "x"}]',
        '[{"path": 1, "reference": null, "skipped": null, "samples_per_rank": null}]',
        '[{"path": "results/metrics.json", "reference": null, "skipped": null, '
        '"samples_per_rank": null}]',
        '[{"path": "a/s/f/world_size=1/seed=0/rep=0/metrics.json", "reference": 1, "skipped": 0, '
        '"samples_per_rank": null}]',
        '[{"path": "a/s/f/world_size=1/seed=0/rep=0/metrics.json", "reference": null, '
        '"skipped": null, "samples_per_rank": true}]',
        "[",
    ],
)
def test_a_bad_plan_is_an_error_and_writes_nothing(tmp_path: Path, content: str) -> None:
    plan = tmp_path / "expected.json"
    plan.write_text(content)
    with pytest.raises(MetricsError):
        gather(plan, tmp_path / "out" / "runs.csv")
    assert not (tmp_path / "out").exists()


def test_a_plan_names_each_run_once(plan: Path) -> None:
    entries = json.loads(plan.read_text())
    write_json(plan, [*entries, entries[3]])
    with pytest.raises(MetricsError) as caught:
        gathered(plan)
    assert caught.value.path == str(plan)
    with pytest.raises(MetricsError):
        gather(plan.parent / "absent.json", plan.parent / "runs.csv")


def test_an_empty_plan_gives_an_empty_table(tmp_path: Path) -> None:
    plan = tmp_path / "expected.json"
    plan.write_text("[]")
    assert gather(plan, tmp_path / "runs.csv") == Table((), ())


def test_a_task_of_the_user_has_its_path_too(tmp_path: Path) -> None:
    own = run_config("serial", task="my.module:task", epochs=2)
    with fixed_environment():
        plan = write_matrix(tmp_path, [own])
    (row,) = gathered(plan).runs
    assert (row.task, row.status, row.final_state_sha256) == (
        "my.module:task", "completed", final_state(own),
    )  # fmt: skip


def weak_plan(root: Path, per_rank: int) -> Path:
    """Serial, ring and ddp with 128 samples of each rank; the plan says `per_rank`."""
    label = {"num_shards": 8}
    with fixed_environment():
        plan = write_matrix(
            root,
            [
                *(config("serial", 1, rep, global_batch_size=128, **label) for rep in (0, 1)),
                *(config("ring-queue", 2, rep, global_batch_size=256, **label) for rep in (0, 1)),
                *(config("ddp-gloo", 2, rep, global_batch_size=256, **label) for rep in (0, 1)),
            ],
        )
    entries = json.loads(plan.read_text())
    write_json(plan, [entry | {"samples_per_rank": per_rank} for entry in entries])
    return plan


def test_weak_scaling_is_one_cohort_whose_global_batch_grows(tmp_path: Path) -> None:
    table = gathered(weak_plan(tmp_path, 128))
    assert {row.status for row in table.runs} == {"completed"}
    assert {row.check for row in table.runs} == {"passed"}
    ddp = row_of(table, config("ddp-gloo", 2))
    assert "ring-queue that equals its serial replay" in ddp.check_detail
    (cohort,) = cohorts(table.runs)
    assert (cohort.experiment, cohort.label) == ("weak", "digits, weak scaling")
    assert mixtures(table.runs) == []
    assert json.loads(table.runs[0].workload or "")["samples_per_rank"] == 128
    assert {row.target_accuracy for row in table.runs} == {None}


def test_a_run_of_another_batch_than_the_plan_of_weak_scaling_says_is_refused(
    tmp_path: Path,
) -> None:
    table = gathered(weak_plan(tmp_path, 64))
    assert {row.status for row in table.runs} == {"invalid"}
    assert "global_batch_size is 64 by samples_per_rank and 128" in (table.runs[0].reason or "")
    assert {row.experiment for row in table.runs} == {"weak"}


def test_runs_that_overlap_are_gathered_without_their_speed(plan: Path) -> None:
    (first, second) = (config("ring-queue", 2), config("ddp-gloo", 2))
    times = {}
    for item in (first, second):
        path = result_path(plan.parent, item)
        metrics = json.loads(path.read_text())
        times = times or metrics["provenance"]
        for name in ("started_at", "finished_at"):
            metrics["provenance"][name] = times[name]
        write_json(path, metrics)
    table = gathered(plan)
    for item in (first, second):
        row = row_of(table, item)
        assert row.contaminated_by is not None
        assert (row.check, row.throughput_samples_per_s) == ("passed", None)
    assert sum(row.contaminated_by is not None for row in table.runs) == 2
    elapsed = {epoch.elapsed_s for epoch in table.epochs if epoch.path == row.path}
    assert elapsed == {None}
