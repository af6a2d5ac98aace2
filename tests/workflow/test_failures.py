"""One failing run costs neither the others nor the report on them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.workflow.checkout import TIMEOUT_S, make_checkout, run_path, training


def test_a_failing_run(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (tmp_path / "fail").write_text("--algorithm ddp")

    outcome = checkout.snakemake()
    assert outcome.code != 0
    assert "dmlf: the reason of the failure" in outcome.text, "the log reaches the user"
    assert "snakemake partial_report" in outcome.text
    assert not (tmp_path / run_path("ddp-gloo")).exists()
    assert (tmp_path / run_path("ring-queue", rep=1)).exists()
    assert not (tmp_path / "report" / "report.md").exists()

    assert training(checkout.run("partial_report")) == {}
    assert (tmp_path / "report" / "partial" / "report.md").exists()
    step = tmp_path / "report" / "partial" / "figures" / "step-ring-shm.svg"
    timeline = "results/timelines/ring-shm/timeline.json"
    assert timeline in json.loads(step.read_text()), "the recorded steps too"
    assert checkout.plan("partial_report") == {}

    failure = (tmp_path / run_path("ddp-gloo")).with_name("failure.json")
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text("{}")
    assert checkout.plan("partial_report")["gather_partial"] == 1

    (tmp_path / "fail").unlink()
    assert training(checkout.run()) == {"train_ddp": 1}
    assert checkout.plan("partial_report")["gather_partial"] == 1
    assert checkout.plan() == {}


def test_a_campaign_with_failures_is_reported_and_one_that_broke_off_is_not(
    tmp_path: Path,
) -> None:
    checkout = make_checkout(tmp_path)
    (checkout.path / "fail").write_text("faults --runs")
    broken = checkout.snakemake("results/faults.json")
    assert broken.code == 1
    assert not (checkout.path / "results/faults.json").exists()
    (checkout.path / "fail").write_text("nothing")
    (checkout.path / "fail_after").write_text("faults --runs")
    assert checkout.snakemake("results/faults.json").code == 0
    assert (checkout.path / "results/faults.json").exists()


def test_a_killed_workflow_leaves_no_half_file_and_ends_the_same(tmp_path: Path) -> None:
    """Snakemake and all of its jobs are killed while one of them writes its output."""
    checkout = make_checkout(tmp_path)
    (tmp_path / "hang").write_text("--algorithm ring")
    command = [sys.executable, "-m", "snakemake", "train"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    workflow = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT_S
    half: list[Path] = []
    while not half:
        assert workflow.poll() is None
        assert time.monotonic() < deadline
        half = [p for p in tmp_path.glob("results/**/metrics.json") if p.read_text() == "half of"]
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    (tmp_path / "hang").unlink()

    jobs = checkout.run("train")
    assert jobs["train_protocol"] == 5, "the half one too"
    written = [path.read_text() for path in tmp_path.glob("results/**/metrics.json")]
    assert len(written) == 10
    assert all(json.loads(text)[0] == "train" for text in written)
    assert training(checkout.plan("train")) == {}


def test_the_lock_of_a_killed_snakemake_is_no_obstacle(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    target = run_path("serial", world_size=1)
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    stale = locks / "0.output.lock"
    stale.write_text(target + "\n")

    # While a Snakemake lives, it holds the kernel's lock, and its lock file stands.
    with (tmp_path / ".snakemake" / "alive").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        outcome = checkout.snakemake(target)
        assert outcome.code != 0
        assert "cannot be locked" in outcome.text
        assert stale.exists()

    assert training(checkout.run(target)) == {"train_serial": 1}
