# Which sources decide which results.
import os
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import dmlf
from dmlf.config import split_strategy
from dmlf.env import AFTER_A_RUN, AFTER_COLLECTIVES, AFTER_FAULTS
from dmlf.training.plugged import plugged

# What comes after a run and cannot change it is named in dmlf/env.py, whose hash of the sources
# leaves out the same; a file forgotten there costs time, not truth.
# tests/workflow/test_sources.py holds these lists against the imports.
SUMMING_UP = ["benchmark/cohorts.py", "benchmark/noise.py", "benchmark/statistics.py"]
DRAWING = ["benchmark/plots/*", "benchmark/recorded_step.py"]
TELLING = [
    "benchmark/claims.py",
    "benchmark/collective/statements.py",
    "benchmark/faults/statements.py",
    "benchmark/report*",
    "benchmark/statements.py",
]
OTHER_VERBS = [
    f"cli/{name}.py"
    for name in (
        "evidence",
        "faults",
        "overhead",
        "plugins",
        "projection",
        "protocol_check",
        "protocols",
        "run_flags",
        "training",
    )
]
FAULTS_ONLY = ["benchmark/faults/*"]
COLLECTIVES_ONLY = ["benchmark/collective/*", "cli/collective.py"]
PROJECTING = [
    "benchmark/cost_model/*",
    "benchmark/plots/projected*",
    "benchmark/projection/*",
    "simulation/*",
]
APART = [
    "conformance/*",
    "benchmark/compare/*",
    "benchmark/diff.py",
    "benchmark/verify.py",
    "cli/compare.py",
    *OTHER_VERBS,
]
SOURCES_LEFT_OUT = {
    "training": AFTER_A_RUN,
    "collective": AFTER_COLLECTIVES,
    "faults": AFTER_FAULTS,
    "gathering": [
        *COLLECTIVES_ONLY,
        *FAULTS_ONLY,
        *SUMMING_UP,
        *DRAWING,
        *TELLING,
        *PROJECTING,
        *APART,
    ],
    "plotting": [*TELLING, *APART],
    "projecting": [
        *TELLING,
        "benchmark/compare/*",
        "cli/compare.py",
        "cli/plugins.py",
        "conformance/*",
    ],
    "reporting": APART,
}


def from_working_folder(path):
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@cache
def package_files():
    """The package's sources, by the names that patterns are held against."""
    package = Path(dmlf.__file__).parent
    return {
        path.relative_to(package).as_posix(): from_working_folder(path)
        for path in sorted(package.rglob("*"))
        if path.suffix in {".py", ".json", ".css"}
    }


def package_sources(wildcards):
    """The files of the package that decide the results of a part of the workflow."""
    left_out = SOURCES_LEFT_OUT[wildcards.part]
    return [
        path
        for name, path in package_files().items()
        if not any(fnmatch(name, pattern) for pattern in left_out)
    ]


def plugin_sources(wildcards):
    """The files of a run's task, algorithm and transport that are not dmlf's own.

    An edit, or another version, of them runs again what uses them.
    """
    names = dict(wildcards.items())
    algorithm, transport = split_strategy(names.get("strategy", names.get("algorithm", "none")))
    tasks = [task_config(names["task"]).task] if "task" in names else []
    return files_of(plugged(tasks, [algorithm], [transport]))


def collective_plugin_sources(wildcards):
    """The same of all strategies that are compared in the collective benchmark."""
    pairs = [split_strategy(strategy) for strategy in config["collective"]["strategies"]]
    return files_of(plugged((), *zip(*pairs))) if pairs else []


def files_of(plugins):
    # Where `dmlf` looks for a user's `module:function` first.
    sys.path.insert(0, os.getcwd())
    try:
        return [from_working_folder(path) for plugin in plugins for path in plugin.origin.files()]
    finally:
        sys.path.remove(os.getcwd())
