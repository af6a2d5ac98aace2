"""The command line: what it prints, where it writes, how it fails."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmlf.cli import main, make_parser

SMALL = ["--task", "synthetic", "--max-steps", "8", "--global-batch-size", "32"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["ps", "--world-size", "4", "--num-steps", "5", "--parameter-dim", "40"],
        ["ring", "--world-size", "4", "--num-steps", "6", "--parameter-dim", "8"],
        ["ps", "--world-size", "3", "--num-servers", "3", "--num-steps", "5"],
    ],
)
def test_protocol_checks_print_what_was_verified(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.count("  ok    ") == 7
    assert "FAIL" not in out
    assert "equal to the serial replay" in out


def test_every_word_of_every_verb_is_explained() -> None:
    """And where it may be left out, its default is told."""

    def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb in action.choices.values():
                    yield from parsers(verb)

    every = list(parsers(make_parser()))
    assert len(every) > 20
    for parser in every:
        shown = " ".join(parser.format_help().split())
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action
            default = action.default
            told = isinstance(default, int | float | str) and not isinstance(default, bool)
            if action.option_strings and told and default != argparse.SUPPRESS:
                text = f"{default:g}" if isinstance(default, float) else str(default)
                assert f"(default: {text})" in shown, action


def test_bucket_sizes_are_for_exploring(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "simulate", "ring", "--bucket-numels", "3")
    assert code == 2
    assert "--bucket-numels" in err
    assert "--explore" in err


def test_train_writes_metrics(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "deep" / "metrics.json"
    arguments = ["--algorithm", "ring", "--world-size", "2", "--output", str(output)]
    code, out, _ = run(capsys, "train", *SMALL, *arguments)
    assert code == 0
    metrics = json.loads(output.read_text())
    assert metrics["config"]["transport"] == "queue"
    assert metrics["correctness"]["traffic_matches_theory"] is True
    assert metrics["final_state_sha256"][:16] in out
    assert [path.name for path in output.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "--world-size", "0"], ["world_size", "0", "1 to 4096"]),
        (["train", "--world-size", "2"], ["world_size", "2", "serial", "ring"]),
        (["train", "--task", "cifar"], ["task", "cifar", "digits", "module:function"]),
        (["train", "--algorithm", "ring", "--world-size", "9"], ["world_size", "9", "num_shards"]),
        (["train", "--global-batch-size", "100"], ["global_batch_size", "100", "multiple"]),
        (["train", "--learning-rate", "nan"], ["learning_rate", "nan"]),
        (["train", *SMALL, "--output", "/dev/null/a/m.json"], ["output", "/dev/null"]),
        (["train", *SMALL, "--output", "failure.json"], ["output", "failure.json", "another"]),
        (["train", *SMALL, "--output", "/dev/null"], ["output", "/dev/null", "no regular file"]),
        (["train", "--task", "a.:b"], ["task", "a.:b", "module:function"]),
        (["train", "--task", "a:b:c"], ["task", "a:b:c", "module:function"]),
        (["train", *SMALL, "--transcript"], ["transcript", "--output"]),
        (["train", *SMALL, "--task-option", "dimension"], ["task_option", "KEY=VALUE"]),
        (["train", *SMALL, "--task-option", "shape=3"], ["task_options.shape", "parameter_dim"]),
        (["ps", "--num-steps", "0"], ["num_steps", "0"]),
        (["ps", "--num-servers", "65"], ["num_servers", "65", "1 to 64"]),
        (["train", *SMALL, "--num-servers", "0"], ["num_servers", "0", "1 to 64"]),
        (["train", *SMALL, "--num-servers", "2"], ["num_servers", "2", "serial", "no servers"]),
        (
            ["replay", *SMALL, "--algorithm", "ring", "--num-servers", "2"],
            ["num_servers", "2", "ring", "no servers"],
        ),
        (["simulate", "tree", "--num-servers", "2"], ["num_servers", "2", "tree", "no servers"]),
        (["replay", *SMALL], ["algorithm", "serial"]),
        (["train", *SMALL, "--fault", "kill:rank=9,step=1"], ["fault", "rank=9", "rank below 1"]),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], arguments: list[str], names: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    for name in names:
        assert name in err


def test_a_failed_run_leaves_its_reason_and_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "metrics.json"
    broken = ["--task", "tests.training.own_task:broken_loss", "--output", str(output)]
    code, _, err = run(capsys, "train", *broken)
    assert code == 1
    assert "planted in user code" in err
    assert err.rstrip().splitlines()[-1].startswith("dmlf: rank 0 failed: ValueError")
    assert [path.name for path in tmp_path.iterdir()] == ["failure.json"]
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["status"] == "failed"
    assert failure["error"]["type"] == "RemoteError"

    assert run(capsys, "train", *SMALL, "--output", str(output))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_task_function_that_fails_is_shown_and_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "train", "--task", "tests.training.own_task:leaves")
    assert (code, out) == (2, "")
    assert "own_task.py" in err
    assert err.splitlines()[-1].startswith("dmlf: task: 'tests.training.own_task:leaves'")


def test_servers_are_offered_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ring", "--num-servers", "2"])
    assert ended.value.code == 2
    assert "--num-servers" in capsys.readouterr().err
    code, out, _ = run(
        capsys, "simulate", "parameter_server", "--num-servers", "2", "--seeds", "20"
    )
    assert code == 0
    assert "2 servers" in out


def test_diff_names_where_two_runs_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = {
        "serial": ["--reduction", "exact"],
        "ring": ["--reduction", "exact", "--algorithm", "ring", "--world-size", "3"],
        "servers": [
            "--reduction",
            "exact",
            "--algorithm",
            "parameter_server",
            "--num-servers",
            "2",
            "--bucket-cap-bytes",
            "4",
        ],
        "slower": ["--reduction", "exact", "--learning-rate", "0.05"],
        "float32": ["--algorithm", "ring", "--world-size", "3"],
    }
    for name, arguments in runs.items():
        output = str(tmp_path / name / "metrics.json")
        assert run(capsys, "train", *SMALL, *arguments, "--transcript", "--output", output)[0] == 0
    serial = str(tmp_path / "serial")

    for name in ("ring", "servers"):
        code, out, _ = run(capsys, "diff", serial, str(tmp_path / name))
        assert (code, out.split(",")[0]) == (0, "identical: 8 steps")
    steps = [(tmp_path / name / "transcript.jsonl").read_text().splitlines()[-2] for name in runs]
    chains = [json.loads(step)["chain"] for step in steps]
    assert len(set(chains[:3])) == 1  # serial, ring and servers did the same in every detail
    assert len(set(chains)) == 3
    code, out, _ = run(capsys, "diff", serial, str(tmp_path / "float32"))
    assert code == 1
    assert "first difference: step" in out
    code, _, err = run(capsys, "diff", serial, str(tmp_path / "slower"))
    assert code == 1
    assert "is of another run: learning_rate" in err
    code, _, err = run(capsys, "diff", serial, str(tmp_path))
    assert code == 1
    assert "--transcript" in err


def test_simulate_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "simulate", "ring", "--seeds", "20")
    assert code == 0
    assert "20 schedules passed" in out
    code, out, _ = run(capsys, "simulate", "tree", "--explore", "--world-size", "2")
    assert code == 0
    assert "1 final state" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "--world-size", "two"], "--world-size: invalid int value: 'two'"),
        (["train", "--overlap", "yes"], "unrecognized arguments: yes"),
        (["worker"], "required: --coordinator, --key-file"),
        (["nope"], "invalid choice: 'nope'"),
        ([], "required: VERB"),
    ],
)
def test_a_wrong_command_line_gets_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


def test_a_run_goes_on_and_its_metrics_say_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As many steps as were done here, the whole learning curve, the undisturbed run's hash."""
    whole, part, nothing = (tmp_path / name / "metrics.json" for name in ("whole", "part", "none"))
    common = ["train", "--task", "synthetic", "--task-option", "num_samples=96"]
    common += ["--global-batch-size", "32", "--algorithm", "ring", "--world-size", "2"]
    saving = [*common, "--checkpoint-dir", str(tmp_path / "c"), "--checkpoint-keep", "2"]
    goes_on = [*saving, "--max-steps", "11", "--resume", "--warmup-steps", "2"]
    assert run(capsys, *common, "--max-steps", "11", "--output", str(whole))[0] == 0
    assert run(capsys, *saving, "--max-steps", "4", "--warmup-steps", "1")[0] == 0
    assert run(capsys, *goes_on, "--output", str(part))[0] == 0
    code, out, _ = run(capsys, *goes_on, "--output", str(nothing))
    assert code == 0
    assert "no step measured" in out
    metrics, resumed, ended = (json.loads(path.read_text()) for path in (whole, part, nothing))
    assert metrics["timing"]["first_step"] == 0
    assert resumed["timing"]["first_step"] == 4
    assert resumed["timing"]["measured_steps"] == 5
    assert resumed["final_state_sha256"] == metrics["final_state_sha256"]
    assert resumed["convergence"]["step_loss"] == metrics["convergence"]["step_loss"][4:]
    assert resumed["correctness"]["traffic_matches_theory"] is True
    assert (ended["timing"]["first_step"], ended["timing"]["measured_steps"]) == (11, 0)
    assert ended["throughput_samples_per_s"] is None
    assert ended["final_state_sha256"] == metrics["final_state_sha256"]
    for other in (resumed, ended):
        for mine, theirs in zip(
            other["convergence"]["epochs"], metrics["convergence"]["epochs"], strict=True
        ):
            assert {**mine, "elapsed_s": 0} == {**theirs, "elapsed_s": 0}
        elapsed = [entry["elapsed_s"] for entry in other["convergence"]["epochs"]]
        assert elapsed == sorted(elapsed)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--resume"], ["resume", "--checkpoint-dir"]),
        (["--checkpoint-every", "5"], ["checkpoint_every", "--checkpoint-dir"]),
        (["--checkpoint-every", "0", "--checkpoint-dir", "x"], ["checkpoint_every", "from 1"]),
        (["--checkpoint-keep", "0", "--checkpoint-dir", "x"], ["checkpoint_keep", "at least 1"]),
    ],
)
def test_checkpoint_flags_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], arguments: list[str], names: list[str]
) -> None:
    code, _, err = run(capsys, "train", *SMALL, *arguments)
    assert code == 2
    assert all(name in err for name in names), err
