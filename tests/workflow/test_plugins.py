"""What another distribution installs can be configured, asked for and measured as dmlf's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.plugins.installed import RELAY, pip_install, write_distribution
from tests.workflow.checkout import REPOSITORY, Checkout, make_checkout, training

PATH = "results/relay_means/relay-relay/float32/world_size=2/seed=0/rep=0/metrics.json"
CONFIG = """
tasks: {relay_means: {max_steps: 6, global_batch_size: 16}}
matrix:
  - tasks: [relay_means]
    strategies: [serial, relay-relay, ring-queue]
    reductions: [float32, exact]
    world_sizes: [2]
    seeds: [0]
    repeats: 1
collective:
  strategies: [relay-queue]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy with the plug-in beside it, in which its runs are done by dmlf itself."""
    folder = tmp_path_factory.mktemp("plugins")
    pip_install(RELAY, folder / "site")
    (folder / "checkout").mkdir()
    made = make_checkout(folder / "checkout")
    shutil.copytree(REPOSITORY / "dmlf" / "cli", made.path / "dmlf" / "cli", dirs_exist_ok=True)
    (made.path / "relay.yaml").write_text(CONFIG)
    checkout = Checkout(made.path, (folder / "site",))
    jobs = checkout.run("train", "--configfile", "relay.yaml")
    assert training(jobs) == {"train_serial": 2, "train_protocol": 4}
    return checkout


def plan(done: Checkout, *targets: str) -> dict[str, int]:
    return done.plan(*(targets or ("train",)), "--configfile", "relay.yaml")


def test_its_runs_are_of_the_same_bits(done: Checkout) -> None:
    runs = {
        path: json.loads(path.read_text()) for path in (done.path / "results").rglob("metrics.json")
    }
    exact = [run for path, run in runs.items() if "exact" in path.parts]
    assert len(exact) == 3
    assert len({run["final_state_sha256"] for run in exact}) == 1
    done.run(reference := PATH.replace("relay-relay", "relay-replay").replace(
        "rep=0/metrics", "reference"), "--configfile", "relay.yaml")  # fmt: skip
    replay = json.loads((done.path / reference).read_text())
    assert replay["final_state_sha256"] == runs[done.path / PATH]["final_state_sha256"]
    assert {item["name"] for item in replay["provenance"]["plugins"]} == {"relay", "relay_means"}


def test_nothing_is_done_twice(done: Checkout) -> None:
    assert plan(done) == {}


@pytest.mark.parametrize(
    ("file", "expected"),
    [("tasks.py", {"train_serial": 2, "train_protocol": 4}), ("NEWS.md", {})],
)
def test_an_edit_of_it_runs_again_what_uses_it(
    done: Checkout, file: str, expected: dict[str, int]
) -> None:
    path = done.installed[0] / "dmlf_relay" / file
    before = path.read_bytes() if path.exists() else None
    try:
        with path.open("a") as source:
            source.write("\n# edited\n")
        assert training(plan(done)) == expected
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_an_edit_does_not_run_again_what_does_not_use_it(done: Checkout) -> None:
    config = (
        "tasks: {synthetic: {max_steps: 6}}\n"
        + CONFIG.partition("matrix")[1]
        + CONFIG.partition("matrix")[2].replace("relay_means", "synthetic")
    )
    (done.path / "mixed.yaml").write_text(config)
    target = ("train", "--configfile", "mixed.yaml")
    done.run(*target)
    path = done.installed[0] / "dmlf_relay" / "protocol.py"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"\n# edited\n")
        assert training(done.plan(*target)) == {"train_protocol": 2}  # of relay, not of ring
        assert "collective" in done.plan("results/collective.json", *target[1:])
    finally:
        path.write_bytes(before)


def test_a_broken_one_that_is_asked_for_is_refused_in_one_line(
    done: Checkout, tmp_path: Path
) -> None:
    entry_points = "[dmlf.algorithms]\nbroken = broken_module\n"
    write_distribution(tmp_path, "breaker", entry_points, "broken_module", "raise ValueError(3)")
    checkout = Checkout(done.path, (*done.installed, tmp_path))
    assert plan(checkout) == {}
    path = PATH.replace("relay-relay", "broken-queue")
    outcome = checkout.snakemake("--dry-run", path, "--configfile", "relay.yaml")
    assert outcome.code != 0
    assert "'broken' of breaker" in outcome.text
    assert "Traceback" not in outcome.text
