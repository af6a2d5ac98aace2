"""A configuration that is wrong ends in one line that names key, value and what is allowed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmlf.config import RunConfig
from tests.workflow.checkout import CONFIG, REPOSITORY, Checkout

yaml = pytest.importorskip("yaml")

SCHEMA = REPOSITORY / "workflow" / "schemas" / "config.schema.yaml"
VALIDATE = REPOSITORY / "workflow" / "rules" / "validate.smk"


def validated(config: dict[str, Any], *files: Path) -> dict[str, Any]:
    """Run validate.smk, which is plain Python, on a configuration; return what it makes of it."""
    workflow = SimpleNamespace(basedir=REPOSITORY, configfiles=[], overwrite_configfiles=files)
    names = {"config": config, "workflow": workflow}
    exec(compile(VALIDATE.read_text(), VALIDATE, "exec"), names)
    return names["config"]


def changed(*keys: str | int, value: Any) -> dict[str, Any]:
    """The test configuration with one value put in."""
    config = yaml.safe_load(CONFIG)
    place = config
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return config


def refusal(config: dict[str, Any], *files: Path) -> str:
    with pytest.raises(SystemExit) as refused:
        validated(config, *files)
    message = refused.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("keys", "value", "parts"),
    [
        (["run", "warmup"], 3, ["run.warmup:", "unknown key", "did you mean warmup_steps?"]),
        (["tasks", "digits", "learning_rat"], 1, ["tasks.digits.learning_rat", "learning_rate"]),
        (["matrix", 0, "world_sizes"], [2, 0], ["matrix.0.world_sizes.1", "'0'", "from 1"]),
        (["matrix", 0, "world_sizes"], [2.0], ["matrix.0.world_sizes.0", "2.0", "an integer"]),
        (["matrix", 0, "repeats"], True, ["matrix.0.repeats", "true", "an integer"]),
        (["matrix", 0, "seeds"], [1, 1], ["matrix.0.seeds", "twice"]),
        (["matrix", 0, "reductions"], ["float16"], ["reductions.0", "float16", "float32 or exact"]),
        (["tasks", "digits", "learning_rate"], "high", ["learning_rate", "'high'", "a number"]),
        (["tasks", "digits", "learning_rate"], float("nan"), ["learning_rate", "a number"]),
        (["tasks", "digits", "learning_rate"], 10**400, ["learning_rate", "10000", "a number"]),
        (["projection", "compute_s"], 10**400, ["projection.compute_s", "10000", "a number"]),
        (["matrix", 0, "repeats"], "9" * 5000, ["matrix.0.repeats", "99999", "an integer"]),
        (["tasks", "digits", "momentum"], 1.5, ["tasks.digits.momentum", "1.5", "from 0 to 1"]),
        (["tasks", "digits"], None, ["tasks.digits", "null", "a mapping"]),
        (["tasks", "no spaces"], {}, ["tasks", "'no spaces'", "module:function"]),
        (["tasks", 7], {}, ["tasks", "'7'", "module:function"]),
        (["run", "timeout_s"], "", ["run.timeout_s", "''", "an integer from 1"]),
        (["tasks", "digits", "num_servers"], 65, ["num_servers", "'65'", "from 1 to 64"]),
        (["collective", "sizes"], [1022], ["collective.sizes.0", "1022", "multiple of 4"]),
        (["collective", "peers"], ["nccl"], ["collective.peers.0", "nccl", "gloo or openmpi"]),
        (["collective", "round_s"], 0, ["collective.round_s", "0", "from 0.0001 to 60"]),
        (["projection", "compute_s"], 0, ["projection.compute_s", "0", "above 0"]),
        (["projection", "world_sizes"], [0], ["projection.world_sizes.0", "0", "from 1 to 100000"]),
        (["order_seed"], -1, ["order_seed", "-1", "at least 0"]),
        (
            ["colour"],
            "red",
            [
                "colour",
                "unknown key",
                "collective, faults, matrix, order_seed, overhead, projection",
            ],
        ),
    ],
)
def test_a_wrong_value_is_refused(keys: list[str | int], value: Any, parts: list[str]) -> None:
    message = refusal(changed(*keys, value=value))
    for part in parts:
        assert part in message


def test_a_missing_key_is_named() -> None:
    config = yaml.safe_load(CONFIG)
    del config["run"]["timeout_s"]
    message = refusal(config)
    assert "run.timeout_s: is missing; expected an integer from 1 to 86400" in message


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("tasks:\n  digits:\n    epochs: 1\n  digits:\n    epochs: 2\n")
    message = refusal(yaml.safe_load(CONFIG), file)
    assert "tasks.digits: stands twice in" in message
    assert "lines 2 and 4" in message


def test_aliases_that_stand_for_too_much_are_refused(checkout: Checkout) -> None:
    """A billion laughs: 12 lines for more values than there is memory for."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (checkout.path / "laughs.yaml").write_text("\n".join(lines))
    outcome = checkout.snakemake("--dry-run", "train", "--configfile", "laughs.yaml")
    assert outcome.code == 1
    assert "laughs.yaml holds more than 100000 values" in outcome.text.splitlines()[-1]


def test_a_tag_of_python_is_never_obeyed(checkout: Checkout) -> None:
    ran = checkout.path / "ran"
    (checkout.path / "tag.yaml").write_text(
        f"order_seed: !!python/object/apply:os.system ['touch {ran}']"
    )
    outcome = checkout.snakemake("--dry-run", "train", "--configfile", "tag.yaml")
    assert outcome.code == 1
    assert "Config file is not valid" in outcome.text
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tasks: {digits: {data_dir: no}}", ["tasks.digits.data_dir", "false", "path"]),
        ("tasks: {digits: {optimizer: off}}", ["tasks.digits.optimizer", "false", "sgd or adamw"]),
        ("matrix: [{world_sizes: [1000000000]}]", ["matrix.0"]),
        ("tasks: {digits: {learning_rate: .inf}}", ["tasks.digits.learning_rate", "a number"]),
        ("tasks: {../digits: {epochs: 1}}", ["tasks", "../digits", "module:function"]),
    ],
)
def test_what_yaml_reads_in_its_own_way_is_refused(text: str, parts: list[str]) -> None:
    config = yaml.safe_load(CONFIG)
    for key, value in yaml.safe_load(text).items():
        if isinstance(value, list):
            config[key][0] |= value[0]
        else:
            config[key] |= value
    message = refusal(config)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("keys", "text", "number"),
    [
        (["tasks", "digits", "learning_rate"], "1e-3", 0.001),
        (["tasks", "digits", "learning_rate"], "1e3", 1000.0),
        (["tasks", "digits", "learning_rate"], ".5", 0.5),
        (["matrix", 0, "world_sizes", 0], "4", 4),
        (["run", "warmup_steps"], "3", 3),
    ],
)
def test_text_that_is_a_number_becomes_one(keys: list[str | int], text: str, number: float) -> None:
    value: Any = validated(changed(*keys, value=text))
    for key in keys:
        value = value[key]
    assert value == number
    assert type(value) is type(number)


def test_text_stays_text_where_text_is_wanted() -> None:
    config = validated(changed("tasks", "digits", "data_dir", value="2026"))
    assert config["tasks"]["digits"]["data_dir"] == "2026"


def test_every_field_of_a_run_can_be_configured() -> None:
    schema = yaml.safe_load(SCHEMA.read_text())["properties"]
    of_task = set(schema["tasks"]["additionalProperties"]["properties"])
    of_task.remove("samples_per_rank")  # in place of global_batch_size
    of_run = set(schema["run"]["properties"])
    from_path = {"algorithm", "transport", "reduction", "world_size", "seed", "rep"}
    assert of_task | of_run | from_path == {item.name for item in fields(RunConfig)}
    assert not of_task & of_run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config", "order_seed=high"], "order_seed: 'high' is not allowed; expected"),
        (["--config", "run={warmup_steps: 1, warmup: 2}"], "run.warmup: unknown key"),
    ],
)
def test_snakemake_says_one_line(checkout: Checkout, arguments: list[str], line: str) -> None:
    outcome = checkout.snakemake("--dry-run", "train", *arguments)
    assert outcome.code == 1
    # Before it stand Snakemake's own notes on which profile and configuration it read.
    assert outcome.text.splitlines()[-1].startswith(f"configuration: {line}")
    assert "Traceback" not in outcome.text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[serial, ring-queue]", "[serial, ring-quene]", "'ring-quene' is not allowed; expected"),
        ("[digits, synthetic]", "[digits, synthetics]", "'synthetics' is not allowed; expected"),
        ("[ring-queue]\n  peers", "[ring-quene]\n  peers", "collective: strategies: 'ring-quene'"),
        ("epochs: 1", "global_batch_size: 250", "250 is not allowed; expected a multiple"),
    ],
)
def test_values_that_do_not_go_together(
    checkout: Checkout, old: str, new: str, message: str
) -> None:
    assert old in CONFIG
    (checkout.path / "other.yaml").write_text(CONFIG.replace(old, new))
    outcome = checkout.snakemake("--dry-run", "--configfile", "other.yaml")
    assert outcome.code == 1
    assert outcome.text.splitlines()[-1].startswith("configuration: ")
    assert message in outcome.text.splitlines()[-1]


def test_a_batch_of_each_rank_and_a_global_one_are_not_both_given(checkout: Checkout) -> None:
    (checkout.path / "both.yaml").write_text(
        "tasks: {digits: {samples_per_rank: 32, global_batch_size: 64}}"
    )
    outcome = checkout.snakemake("--dry-run", "--configfile", "both.yaml")
    assert outcome.code == 1
    last = outcome.text.splitlines()[-1]
    assert "tasks.digits: has global_batch_size and samples_per_rank; keep one" in last
