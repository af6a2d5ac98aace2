"""The profiles for Slurm, on a real Slurm: jobs are submitted, torchrun starts the ranks."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.checkout import REPOSITORY
from tests.workflow.private_slurm import CPUS, PrivateSlurm, missing, private_slurm

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    *(
        pytest.mark.skipif(
            importlib.util.find_spec(module) is None, reason=f"{module}: pip install {package}"
        )
        for module, package in (
            ("torch", ".[torch]"),
            ("snakemake_executor_plugin_slurm", ".[slurm]"),
        )
    ),
]

CONFIG = """\
tasks:
  synthetic:
    max_steps: 3
    global_batch_size: 64
    num_shards: 4
    learning_rate: 0.1
run:
  warmup_steps: 1
"""
TIMEOUT_S = 180


@pytest.fixture(scope="module")
def slurm() -> Iterator[PrivateSlurm]:
    # Paths of sockets have little room, so not in pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        with private_slurm(folder) as running:
            yield running
        assert running.processes() == []
    assert not folder.exists()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is, with a small task laid over its configuration."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("Snakefile", "constraints.txt", "config.yaml"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("workflow", "profiles", "dmlf"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "small.yaml").write_text(CONFIG)
    return folder


def snakemake(slurm: PrivateSlurm, folder: Path, profile: str, target: str) -> str:
    """Submit one target through a profile; return what Snakemake said."""
    # Two cores per node, and no accounting, so that squeue must say how jobs fare.
    flags = f"--cores {CPUS} --max-threads {CPUS} --slurm-status-command squeue --latency-wait 5"
    flags += " --slurm-init-seconds-before-status-checks 1 --printshellcmds --configfile small.yaml"
    call = [sys.executable, "-m", "snakemake", "--workflow-profile", profile, *flags.split()]
    done = subprocess.run(
        [*call, "--", target],
        cwd=folder,
        env={**slurm.environment(), "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    logs = "".join(path.read_text() for path in folder.glob("logs/train/**/*.log"))
    assert done.returncode == 0, done.stdout + logs
    return done.stdout


def serial_hash(folder: Path) -> str:
    """The final state that every run of the small task must reach."""
    flags = "--max-steps 3 --global-batch-size 64 --num-shards 4 --learning-rate 0.1"
    flags += " --warmup-steps 1 --reduction exact --output serial.json"
    subprocess.run(
        [sys.executable, "-m", "dmlf", "train", "--task", "synthetic", *flags.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
    )
    return json.loads((folder / "serial.json").read_text())["final_state_sha256"]


@pytest.mark.parametrize(
    ("profile", "launcher", "strategy", "world_size", "nodes"),
    [
        ("slurm", "torchrun", "parameter_server-process_group", 1, 1),
        ("slurm-nodes", "srun", "ring-process_group", 4, 2),
    ],
)
def test_a_run_is_a_job(
    slurm: PrivateSlurm,
    checkout: Path,
    profile: str,
    launcher: str,
    strategy: str,
    world_size: int,
    nodes: int,
) -> None:
    """Servers are processes of torchrun too; ranks on two nodes find one another."""
    before = slurm.jobs()
    target = f"results/synthetic/{strategy}/exact/world_size={world_size}/seed=0/rep=0/metrics.json"
    told = snakemake(slurm, checkout, profile, target)
    assert told.count("has been submitted with SLURM jobid") == 1, "what is not measured is local"
    assert f"exec {launcher} " in told

    new = {job: count for job, count in slurm.jobs().items() if job not in before}
    assert [job.split()[1] for job in new] == ["COMPLETED"]
    assert list(new.values()) == [nodes]
    metrics = json.loads((checkout / target).read_text())
    assert metrics["config"]["world_size"] == world_size
    assert metrics["final_state_sha256"] == serial_hash(checkout)
    daemons = {"munged", "slurmctld", "slurmd", "slurmscriptd"}
    assert {process.name() for process in slurm.processes()} <= daemons
