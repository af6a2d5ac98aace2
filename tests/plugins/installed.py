"""Distributions put into a folder of their own, and processes that find them there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RELAY = Path(__file__).with_name("relay")
TIMEOUT_S = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


def pip_install(source: Path, target: Path) -> None:
    """Build and install a distribution into `target`; asks no registry for anything."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    # pip builds within the source's folder.
    with_sources = target.with_name(f"{target.name}-sources")
    shutil.copytree(source, with_sources)
    subprocess.run([*command, str(with_sources)], check=True, timeout=TIMEOUT_S)


def write_distribution(target: Path, name: str, entry_points: str, module: str, code: str) -> None:
    """Write what an installer would: one module and its dist-info."""
    (target / f"{module}.py").write_text(code)
    info = target / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def environment(*folders: Path) -> dict[str, str]:
    """The environment of a process that finds dmlf and what is installed in `folders`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*folders, REPOSITORY]))}


def python(folders: list[Path], cwd: Path, *arguments: str) -> Outcome:
    """Run Python with these distributions, elsewhere than in the repository."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(*folders),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def dmlf(folders: list[Path], cwd: Path, *arguments: str) -> Outcome:
    """Run a verb."""
    return python(folders, cwd, "-m", "dmlf", *arguments)
