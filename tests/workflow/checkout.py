"""A copy of the repository in which the workflow runs with stand-ins for dmlf's verbs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 90
# Small, but with everything in it: two tasks, a skipped world size, repeats.
CONFIG = """\
tasks:
  digits:
    epochs: 1
  synthetic:
    learning_rate: 0.01
matrix:
  - tasks: [digits, synthetic]
    strategies: [serial, ring-queue]
    reductions: [float32]
    world_sizes: [2, 16]
    seeds: [0]
    repeats: 2
  - tasks: [digits]
    strategies: [ring-queue, ddp-gloo]
    reductions: [exact, float32]
    world_sizes: [2]
    seeds: [0]
    repeats: 1
collective:
  strategies: [ring-queue]
  peers: [gloo]
  world_sizes: [2]
  sizes: [1024]
  rounds: 1
  round_s: 0.001
  bucket_bytes: 4194304
  seed: 0
faults:
  runs: 2
  seed: 0
  algorithms: [ring]
  transports: [shm]
overhead:
  rounds: 1
  steps: 300
projection:
  parameters: 1000
  compute_s: 0.1
  samples_per_rank: 4
  link: ethernet-10g
  num_servers: [1]
  world_sizes: [2]
run:
  warmup_steps: 1
  threads_per_rank: 1
  timeout_s: 60
order_seed: 0
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How Snakemake ended and what it said."""

    code: int
    text: str

    @property
    def jobs(self) -> dict[str, int]:
        """Number of jobs by rule; empty when there was nothing to do."""
        stats = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)^total ", self.text, re.M | re.S)
        if stats is None:
            assert "Nothing to be done" in self.text, self.text
            return {}
        counts = dict(line.split() for line in stats[1].splitlines())
        return {rule: int(count) for rule, count in counts.items()}


@dataclass(frozen=True, slots=True)
class Checkout:
    """A working copy to run Snakemake in."""

    path: Path
    installed: tuple[Path, ...] = ()  # folders of distributions beside dmlf

    def snakemake(self, *arguments: str) -> Outcome:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [self.path, *self.installed])),
            "XDG_CACHE_HOME": str(self.path / ".cache"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def plan(self, *targets: str) -> dict[str, int]:
        """Jobs that a run for these targets would have."""
        outcome = self.snakemake("--dry-run", *targets)
        assert outcome.code == 0, outcome.text
        return outcome.jobs

    def run(self, *arguments: str) -> dict[str, int]:
        outcome = self.snakemake(*arguments)
        assert outcome.code == 0, outcome.text
        return outcome.jobs

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def calls(self) -> list[dict[str, Any]]:
        """What the stand-in was called with, in order of its ends."""
        return [json.loads(line) for line in (self.path / "calls.jsonl").read_text().splitlines()]


def make_checkout(path: Path) -> Checkout:
    pytest.importorskip("snakemake")
    for name in ("Snakefile", "constraints.txt"):
        shutil.copy(REPOSITORY / name, path / name)
    ignored = shutil.ignore_patterns("__pycache__", "cli")
    for name in ("workflow", "profiles", "dmlf"):
        shutil.copytree(REPOSITORY / name, path / name, ignore=ignored)
    (path / "dmlf" / "cli").mkdir()
    shutil.copy(Path(__file__).with_name("stand_in.py"), path / "dmlf" / "cli" / "__init__.py")
    (path / "config.yaml").write_text(CONFIG)
    return Checkout(path)


def run_path(strategy: str, *, task: str = "digits", world_size: int = 2, rep: int = 0) -> str:
    folder = f"results/{task}/{strategy}/float32/world_size={world_size}/seed=0/rep={rep}"
    return f"{folder}/metrics.json"


def training(jobs: dict[str, int]) -> dict[str, int]:
    """The training jobs among others."""
    return {rule: count for rule, count in jobs.items() if rule.startswith("train_")}


def arguments_of(calls: Sequence[dict[str, Any]], verb: str) -> list[list[str]]:
    return [call["arguments"] for call in calls if call["arguments"][0] == verb]
