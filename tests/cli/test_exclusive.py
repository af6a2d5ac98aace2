"""Runs that want the machine for themselves get it, one after the other, whoever started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--task", "synthetic", "--algorithm", "ring", "--world-size", "2", "--exclusive"]


def measured(output: Path) -> tuple[datetime, datetime]:
    metrics: dict[str, Any] = json.loads(output.read_text())
    assert 0.0 <= metrics["timing"]["others_cpu_share"] <= 1.0
    times = [
        datetime.fromisoformat(metrics["provenance"][n]) for n in ("started_at", "finished_at")
    ]
    return times[0] + timedelta(seconds=metrics["timing"]["lock_wait_s"]), times[1]


def test_three_runs_started_together_are_measured_apart(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    outputs = [tmp_path / name / "metrics.json" for name in "abc"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "dmlf", "train", *ARGUMENTS, "--output", str(output)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for output in outputs
    ]
    try:
        assert [process.wait(timeout=90) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    first, second, third = sorted(map(measured, outputs))
    assert first[1] <= second[0] + timedelta(milliseconds=50)
    assert second[1] <= third[0] + timedelta(milliseconds=50)
