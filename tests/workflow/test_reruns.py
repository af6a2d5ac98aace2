"""After a whole run: nothing is done twice, and a change reruns what it affects and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, arguments_of, make_checkout, run_path, training

EVERY_RUN = {"train_serial": 4, "train_protocol": 5, "train_ddp": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the whole workflow has run."""
    checkout = make_checkout(tmp_path_factory.mktemp("done"))
    assert training(checkout.run()) == EVERY_RUN
    return checkout


@pytest.fixture(autouse=True)
def put_back(done: Checkout) -> Iterator[None]:
    """Undo a test's edits, so that each test starts from the finished run."""
    files = [
        path
        for path in done.path.rglob("*")
        if path.suffix in {".py", ".yaml", ".txt"} and ".snakemake" not in path.parts
    ]
    contents = {path: path.read_bytes() for path in files if path.is_file()}
    yield
    for path, content in contents.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def test_a_second_run_has_nothing_to_do(done: Checkout) -> None:
    assert done.run() == {}


def test_touched_sources_rerun_nothing(done: Checkout) -> None:
    for path in (done.path / "dmlf").rglob("*.py"):
        path.touch()
    assert done.plan() == {}


def test_a_tasks_setting_retrains_that_task(done: Checkout) -> None:
    done.edit("config.yaml", "learning_rate: 0.01", "learning_rate: 0.02")
    jobs = done.plan()
    assert training(jobs) == {"train_serial": 2, "train_protocol": 2}
    assert jobs["replay"] == 1
    assert "data" not in jobs


def test_swapping_two_values_is_a_change(done: Checkout) -> None:
    # A run of its own, so that the others stay as they are.
    path = run_path("ring-queue", rep=7)
    done.edit("config.yaml", "epochs: 1", "momentum: 0.5\n    weight_decay: 0.25")
    done.run(path)
    done.edit("config.yaml", "momentum: 0.5", "momentum: 0.25")
    done.edit("config.yaml", "weight_decay: 0.25", "weight_decay: 0.5")
    assert training(done.plan(path)) == {"train_protocol": 1}


def test_the_time_limit_and_the_order_rerun_nothing(done: Checkout) -> None:
    done.edit("config.yaml", "timeout_s: 60", "timeout_s: 600")
    done.edit("config.yaml", "order_seed: 0", "order_seed: 1")
    assert done.plan() == {}


def test_one_more_repeat_runs_the_new_runs_alone(done: Checkout) -> None:
    done.edit("config.yaml", "repeats: 2", "repeats: 3")
    jobs = done.plan()
    assert training(jobs) == {"train_serial": 2, "train_protocol": 2}
    assert (jobs["expected"], jobs["gather"], jobs["report"]) == (1, 1, 1)
    assert "replay" not in jobs


def test_a_skipped_run_more_gathers_again(done: Checkout) -> None:
    done.edit("config.yaml", "world_sizes: [2, 16]", "world_sizes: [2, 16, 32]")
    jobs = done.plan()
    assert training(jobs) == {}
    assert (jobs["expected"], jobs["gather"], jobs["report"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("file", "trains", "collects", "gathers", "plots"),
    [
        ("dmlf/training/sampler.py", True, True, True, True),
        ("constraints.txt", True, True, True, True),
        ("dmlf/benchmark/metrics.py", True, True, True, True),
        ("dmlf/benchmark/collective/timing.py", False, True, False, True),
        ("dmlf/benchmark/collective/summary.py", False, False, False, True),
        ("dmlf/benchmark/collective/statements.py", False, False, False, False),
        ("dmlf/benchmark/gather.py", False, False, True, True),
        ("dmlf/benchmark/statistics.py", False, False, False, True),
        ("dmlf/benchmark/plots/style.py", False, False, False, True),
        ("dmlf/benchmark/claims.py", False, False, False, False),
    ],
)
def test_an_edit_reruns_what_it_decides(
    done: Checkout, file: str, trains: bool, collects: bool, gathers: bool, plots: bool
) -> None:
    with (done.path / file).open("a") as source:
        source.write("\n# edited\n")
    jobs = done.plan()
    assert training(jobs) == (EVERY_RUN if trains else {})
    assert ("collective" in jobs, "gather" in jobs) == (collects, gathers)
    assert ("plot" in jobs, "plot_record" in jobs, "report" in jobs) == (plots, plots, True)


def test_a_setting_of_the_collectives_measures_them_again(done: Checkout) -> None:
    done.edit("config.yaml", "rounds: 1", "rounds: 2")
    jobs = done.plan()
    assert training(jobs) == {}
    assert (jobs["collective"], jobs["plot_record"], jobs["report"]) == (1, 2, 1)
    assert jobs["projection"] == 1  # it is calibrated by them
    assert "plot" not in jobs


def test_a_setting_of_the_faults_breaks_anew_what_it_decides(done: Checkout) -> None:
    done.edit("config.yaml", "runs: 2", "runs: 3")
    jobs = done.plan()
    assert training(jobs) == {}
    assert (jobs["campaign"], jobs["plot_faults"], jobs["report"]) == (1, 1, 1)
    assert not {"overhead", "collective", "plot"} & jobs.keys()


def test_an_edit_of_the_simulator_reruns_nothing_measured(done: Checkout) -> None:
    file = next((done.path / "dmlf" / "simulation").glob("*.py"))
    with file.open("a") as source:
        source.write("\n# edited\n")
    jobs = done.plan()
    assert training(jobs) == {}
    assert "collective" not in jobs
    assert jobs["projection"] == 1  # which it drives


def test_an_edit_of_the_campaign_breaks_runs_anew_and_trains_none(done: Checkout) -> None:
    with (done.path / "dmlf/benchmark/faults/plans.py").open("a") as source:
        source.write("\n# edited\n")
    jobs = done.plan()
    assert training(jobs) == {}
    assert (jobs["campaign"], jobs["overhead"], jobs["report"]) == (1, 1, 1)
    assert "collective" not in jobs


def test_a_new_source_file_retrains(done: Checkout) -> None:
    file = done.path / "dmlf" / "training" / "brand_new.py"
    file.write_text("")
    jobs = done.plan()
    file.unlink()
    assert training(jobs) == EVERY_RUN


def test_an_edit_of_the_users_own_task_retrains_it(done: Checkout) -> None:
    task = done.path / "my_tasks.py"
    task.write_text("def spirals(config): ...\n")
    (done.path / "own.yaml").write_text("tasks: {my_tasks:spirals: {epochs: 2}}")
    target = (run_path("ring-queue", task="my_tasks:spirals"), "--configfile", "own.yaml")
    done.run(*target)
    assert done.plan(*target) == {}
    task.write_text("def spirals(config): return 1\n")
    assert training(done.plan(*target)) == {"train_protocol": 1}


def test_the_plan_lists_every_run_with_reference_or_reason(done: Checkout) -> None:
    plan = json.loads((done.path / "results" / "expected.json").read_text())
    by_path = {entry["path"]: entry for entry in plan}
    assert len(by_path) == len(plan) == 14
    ring = by_path[run_path("ring-queue")]
    assert ring["reference"] == (
        "results/digits/ring-replay/float32/world_size=2/seed=0/reference.json"
    )
    assert (done.path / ring["reference"]).exists()
    assert by_path[run_path("serial", world_size=1)]["reference"] is None
    assert by_path[run_path("ring-queue").replace("float32", "exact")]["reference"] is None
    skipped = by_path[run_path("ring-queue", world_size=16)]
    assert "exceeds num_shards (8)" in skipped["skipped"]
    assert skipped["reference"] is None
    for entry in plan:
        assert (entry["skipped"] is None) == (done.path / entry["path"]).exists()


def test_runs_get_their_whole_configuration_as_flags(done: Checkout) -> None:
    metrics = Path(done.path / run_path("ring-queue", task="synthetic", rep=1))
    given = " ".join(json.loads(metrics.read_text()))
    for flag in (
        "train --task synthetic",
        "--hidden-sizes 512 512",
        "--algorithm ring --transport queue --reduction float32 --world-size 2",
        "--learning-rate 0.01",
        "--rep 1",
        "--timeout-s 60 --exclusive",
    ):
        assert flag in given
    replays = arguments_of(done.calls(), "replay")
    assert all("--rep 0" in " ".join(call) and "--exclusive" not in call for call in replays)
