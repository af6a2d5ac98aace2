"""Recompute what can be recomputed of a folder of results, and say what does not hold.

For every metrics.json: schema, path against configuration, hash of the configuration, sources,
plug-ins and pinned dependencies against the tree that verifies, the correctness check (serial
replay, or one final hash for all exact runs of a task and seed), and its transcript if any: its
chain, and that every sample was used exactly once per epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf import env
from dmlf.benchmark.checks import ABSENT, CEILING, PASSED
from dmlf.benchmark.files import read_json
from dmlf.benchmark.gather import Expected, judge
from dmlf.benchmark.layout import ResultPath
from dmlf.benchmark.samples import samples_problem
from dmlf.benchmark.table import RunRow
from dmlf.benchmark.transcript_file import NAME, Transcript, read_transcript
from dmlf.config import RunConfig
from dmlf.errors import DatasetError, DependencyMissing, DmlfError, MetricsError
from dmlf.tasks import describe_dataset, resolve_task
from dmlf.training.plugged import plugged_into


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one run: `holds` is False for a fault, None where nothing proves it."""

    path: str
    holds: bool | None
    detail: str


def verify(results: Sequence[Path], constraints: Path | None) -> list[Finding]:
    """Verify every metrics.json below the folders `results`; one finding each, sorted by path.

    constraints: the pinned dependencies to hold results against (None: none are known).
    Raises MetricsError when there is no result at all.
    """
    paths = sorted({path for folder in results for path in folder.rglob("metrics.json")})
    if not paths:
        names = ", ".join(map(str, results))
        raise MetricsError(names, "folder", "holds no metrics.json; run the workflow first")
    findings, plan = [], []
    for path in paths:
        try:
            result = ResultPath.parse(path.as_posix())
        except MetricsError as error:
            findings.append(Finding(str(path), False, f"{error.field}: {error.problem}"))
            continue
        plan.append(Expected(result, _reference(path, result), None))
    sources = env.source_sha256()
    pins = None if constraints is None else env.constraints_sha256(constraints)
    findings += [_finding(row, sources, pins) for row in judge(plan).runs]
    return sorted(findings, key=lambda finding: finding.path)


def _reference(path: Path, result: ResultPath) -> str | None:
    """Where the serial replay of a float32 protocol run lies, if there is one."""
    replay = (
        path.parents[5]
        / f"{result.algorithm}-replay"
        / result.reduction
        / f"world_size={result.world_size}"
        / f"seed={result.seed}"
        / "reference.json"
    )
    return str(replay) if replay.is_file() else None


def _finding(row: RunRow, sources: str, pins: str | None) -> Finding:
    if row.status != "completed":
        return Finding(row.path, False, f"{row.status}: {row.reason}")
    stale = _stale(Path(row.path), sources, pins)
    if stale is not None:
        return Finding(row.path, False, stale)
    if row.check in (ABSENT, CEILING):
        return Finding(row.path, None, row.check_detail)
    return Finding(row.path, row.check == PASSED, row.check_detail)


def _code(plugin: Mapping[str, Any]) -> list[str]:
    """What decides of a plug-in: a new version of the same sources computes the same."""
    return [plugin[key] for key in ("kind", "name", "sha256")]


def _stale(path: Path, sources: str, pins: str | None) -> str | None:
    """What of a valid metrics file does not fit this tree or its own transcript."""
    metrics = read_json(path)
    provenance = metrics["provenance"]
    if provenance["config_sha256"] != RunConfig.from_mapping(metrics["config"]).sha256():
        return "config_sha256 is not the hash of its configuration"
    if provenance["source_sha256"] != sources:
        return "was made by other sources of dmlf than these; run it again"
    there = plugged_into(RunConfig.from_mapping(metrics["config"]))
    if [_code(item) for item in provenance.get("plugins", [])] != [_code(item) for item in there]:
        return "was made by another version of a plug-in than is installed; run it again"
    if pins is not None and provenance["constraints_sha256"] not in (None, pins):
        return "was made with other pinned dependencies than these; run it again"
    if not path.with_name(NAME).exists():
        return None
    try:
        transcript = read_transcript(path.with_name(NAME))
    except DmlfError as error:
        return f"transcript: {error}"
    if (
        transcript.config != RunConfig.from_mapping(metrics["config"])
        or transcript.final_state_sha256 != metrics["final_state_sha256"]
    ):
        return "the transcript beside it is of another run"
    return _samples(transcript)


def _samples(transcript: Transcript) -> str | None:
    """What is wrong with the samples that were used; nothing where this host lacks the data."""
    try:
        dataset = resolve_task(transcript.config).load()
    except (DatasetError, DependencyMissing):
        return None
    description: Any = describe_dataset(transcript.config.task, dataset)
    num_samples = int(description["train"]["samples"])
    problem = samples_problem(transcript.config, num_samples, transcript.records)
    return None if problem is None else f"transcript: {problem}"
