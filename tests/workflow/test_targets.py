"""Every run can be asked for by its path, and the named targets ask for what they say."""

from __future__ import annotations

import re
import shutil

import pytest

from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS
from tests.workflow.checkout import REPOSITORY, Checkout, run_path, training

BEFORE_TRAINING = {"sources": 1, "data": 1}


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (run_path("ring-queue", world_size=3), "train_protocol"),
        (run_path("ddp-gloo", rep=99), "train_ddp"),
        (run_path("serial", world_size=1).replace("seed=0", "seed=12345"), "train_serial"),
        (run_path("unsynchronized", world_size=4), "train_unsynchronized"),
    ],
)
def test_a_path_asks_for_one_run_listed_or_not(checkout: Checkout, path: str, rule: str) -> None:
    assert checkout.plan(path) == {**BEFORE_TRAINING, rule: 1}


def test_whatever_is_registered_can_be_asked_for(checkout: Checkout) -> None:
    strategies = [f"{name}-{transport}" for name in registry() for transport in TRANSPORTS]
    in_groups = len(registry())  # over process_group, one strategy per algorithm
    assert len(strategies) > in_groups
    jobs = checkout.plan(*map(run_path, strategies))
    assert jobs == {
        **BEFORE_TRAINING,
        "train_protocol": len(strategies) - in_groups,
        "train_process_group": in_groups,
    }


@pytest.mark.parametrize(
    ("strategy", "launcher", "processes"),
    [
        ("ring-process_group", "python", 2),
        ("parameter_server-process_group", "torchrun --nproc-per-node=$num_processes", 3),
        ("native-process_group", "srun torchrun --nproc-per-node=$((num_processes / nodes))", 2),
    ],
)
def test_the_launcher_of_a_group_can_be_replaced(
    checkout: Checkout, strategy: str, launcher: str, processes: int
) -> None:
    planned = checkout.snakemake(
        "--dry-run",
        "--printshellcmds",
        run_path(strategy),
        *(("--set-resources", f"train_process_group:launcher={launcher}") * (launcher != "python")),
    )
    assert planned.code == 0, planned.text
    assert f"num_processes={processes}; nodes=1;" in planned.text
    assert f"exec {launcher} -m dmlf train --task digits" in planned.text


@pytest.mark.parametrize(
    "path",
    [
        run_path("rign-queue"),
        run_path("ring-queue").replace("world_size=2", "world_size=02"),
        run_path("serial"),  # at world size 2
        run_path("ddp-gloo").replace("float32", "exact"),
        run_path("unsynchronized").replace("float32", "exact"),
        run_path("ring-queue", task="../digits"),
    ],
)
def test_a_path_that_names_no_run_finds_no_rule(checkout: Checkout, path: str) -> None:
    outcome = checkout.snakemake("--dry-run", path)
    assert outcome.code != 0
    assert "MissingRuleException" in outcome.text
    assert path in outcome.text


def test_a_world_size_above_num_shards_is_refused_in_one_line(checkout: Checkout) -> None:
    outcome = checkout.snakemake("--dry-run", run_path("ring-queue", world_size=9))
    assert outcome.code == 1
    last = outcome.text.splitlines()[-1]
    assert "tasks.digits: world_size: 9 is not allowed; expected at most num_shards (8)" in last


def test_named_targets(checkout: Checkout) -> None:
    # digits and synthetic: serial x 2 repeats, ring x 2 repeats, 16 being skipped; and from the
    # second block, ring exact and ddp float32, ring float32 being there already.
    runs = {"train_serial": 4, "train_protocol": 5, "train_ddp": 1}
    everything = checkout.plan()
    figures = everything["plot"]
    assert figures >= 4
    assert training(everything) == runs
    assert everything["replay"] == 2
    assert everything["gather"] == everything["report"] == everything["collective"] == 1
    assert (everything["plot_record"], everything["projection"]) == (2, 1)
    assert everything["timeline"] == everything["plot_step"] == 2
    assert checkout.plan("train") == {"sources": 1, "data": 2, **runs, "train": 1}
    plots = checkout.plan("plots")
    assert (plots["plot"], training(plots), "report" in plots) == (figures, runs, False)
    partial = checkout.plan("partial_report")
    assert training(partial) == {}
    assert partial["plot_partial"] == figures
    assert partial["plot_record_partial"] == 2
    assert "collective" not in partial
    assert checkout.plan("results/collective.json") == {"sources": 1, "collective": 1}
    assert checkout.plan("verify") == {"verify": 1}
    assert training(checkout.plan("equality")) == runs


@pytest.mark.parametrize("name", ["smoke", "mnist", "full", "equality", "speed"])
def test_the_shipped_configurations_are_valid(checkout: Checkout, name: str) -> None:
    shutil.copy(REPOSITORY / "config.yaml", checkout.path / "shipped.yaml")
    files = ("shipped.yaml", f"workflow/config/{name}.yaml")
    assert checkout.plan("train", "--configfile", *files)["train_protocol"] >= 2


def test_a_task_of_the_users_own(checkout: Checkout) -> None:
    (checkout.path / "own.yaml").write_text("tasks: {my_tasks:spirals: {epochs: 2}}")
    path = run_path("ring-queue", task="my_tasks:spirals")
    assert checkout.plan(path, "--configfile", "own.yaml") == {
        **BEFORE_TRAINING,
        "train_protocol": 1,
    }


def test_servers_are_for_the_strategies_that_have_them(checkout: Checkout) -> None:
    """A task's serial and ring runs are what they are beside a parameter server of any size."""
    (checkout.path / "servers.yaml").write_text("tasks: {digits: {num_servers: 3}}")
    flags = {}
    for strategy, world_size in (("parameter_server-queue", 2), ("ring-queue", 2), ("serial", 1)):
        path = run_path(strategy, world_size=world_size)
        planned = checkout.snakemake(
            "--dry-run", "--printshellcmds", path, "--configfile", "servers.yaml"
        )
        assert planned.code == 0, planned.text
        flags[strategy] = re.search(r"train .*--num-servers (\d+)", planned.text)
    assert {strategy: found and found[1] for strategy, found in flags.items()} == {
        "parameter_server-queue": "3",
        "ring-queue": "1",
        "serial": "1",
    }


def test_in_weak_scaling_the_global_batch_grows_with_the_world_size(checkout: Checkout) -> None:
    (checkout.path / "weak.yaml").write_text(
        "tasks: {digits_weak: {task: digits, samples_per_rank: 96}}"
    )
    paths = [
        run_path("serial", task="digits_weak", world_size=1),
        run_path("ring-queue", task="digits_weak", world_size=3),
        REPLAY.replace("digits", "digits_weak"),
    ]
    found = []
    for path in paths:
        planned = checkout.snakemake(
            "--dry-run", "--printshellcmds", path, "--configfile", "weak.yaml"
        )
        assert planned.code == 0, planned.text
        batch = re.search(r"dmlf (train|replay) .*--global-batch-size (\d+)", planned.text)
        found.append(batch and (batch[1], int(batch[2])))
    assert found == [("train", 96), ("train", 288), ("replay", 192)]


def test_faults_are_a_target_of_their_own(checkout: Checkout) -> None:
    assert checkout.plan("faults") == {"sources": 1, "campaign": 1, "overhead": 1, "faults": 1}
    planned = checkout.snakemake("--dry-run", "--printshellcmds", "faults")
    assert "dmlf faults --runs 2 --seed 0 --algorithms ring --transports shm" in planned.text
    assert "dmlf overhead --rounds 1 --steps 300" in planned.text


REPLAY = "results/digits/ring-replay/float32/world_size=2/seed=0/reference.json"


@pytest.mark.parametrize("strategy", ["ring-shm", "parameter_server-tcp"])
def test_a_recorded_step_of_any_protocol_can_be_drawn(checkout: Checkout, strategy: str) -> None:
    path = f"report/figures/step-{strategy}.svg"
    assert checkout.plan(path) == {"sources": 2, "timeline": 1, "plot_step": 1}
    unknown = checkout.snakemake("--dry-run", "report/figures/step-serial.svg")
    assert "MissingRuleException" in unknown.text


def test_whatever_is_measured_or_recorded_holds_the_host_s_lock(checkout: Checkout) -> None:
    planned = checkout.snakemake("--dry-run", "--printshellcmds")
    commands = re.findall(r"-m dmlf (?:train|collective|faults|overhead) .*", planned.text)
    assert len(commands) == 10 + 2 + 1 + 2
    assert [command for command in commands if " --exclusive" not in command] == []
