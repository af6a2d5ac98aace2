"""Runs with faults in them, each held against the run that nothing has happened to."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from dmlf import env
from dmlf.benchmark.faults.bounds import too_late
from dmlf.benchmark.faults.left import drafts, mark_processes, resident_bytes, traces
from dmlf.benchmark.faults.plans import EVERY_STEPS, PlannedRun, Request
from dmlf.config import RunConfig
from dmlf.errors import DependencyMissing, DmlfError, MetricsError, RunInterrupted
from dmlf.runtime.launch import signals
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.runtime.scratch import scratch_folder
from dmlf.runtime.semaphores import name_semaphores
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.result import RunResult
from dmlf.training.run import train

SCHEMA_VERSION = 2
POLICY = RestartPolicy(4, grace_s=1.0)


class Campaign:
    """Carries out planned runs. Undisturbed runs are trained once for each configuration."""

    def __init__(self) -> None:
        self._expected: dict[str, str] = {}
        self.resident_bytes: list[int] = []
        """Of this process, after each run."""

    def run(self, planned: PlannedRun) -> dict[str, Any]:
        """Carry out one run; return its entry of `runs` in the campaign's file."""
        expected = self._undisturbed(planned.config)
        before, begun = traces(), time.monotonic()
        struck: dict[int, float] = {}
        result: RunResult | None = None
        ended: DmlfError | None = None
        refused: DmlfError | None = None
        with scratch_folder() as folder:
            plan = CheckpointPlan(str(folder), EVERY_STEPS) if planned.saves else None
            try:
                result = train(
                    planned.config,
                    checkpoint=plan,
                    restarts=POLICY,
                    faults=planned.faults,
                    struck=struck,
                )
            except RunInterrupted as stopped:  # somebody stops the campaign, and not its run
                raise SystemExit(128 + stopped.number) from None
            except DmlfError as error:
                ended = error.with_traceback(None)  # which would hold on to all that the run had
                if planned.ends == type(error).__name__:
                    plan = CheckpointPlan(str(folder), EVERY_STEPS, resume=True)
                    result, refused = _resumed(planned.config, plan)
            unfinished = drafts(str(folder))
        final = None if result is None else result.final_state().sha256()
        recoveries = [] if result is None or ended is not None else list(result.recoveries)
        problem = _problem(planned, struck, ended, recoveries, final == expected)
        if refused is not None:
            problem = f"cannot be resumed: {refused}"
        gc.collect()
        after = traces()
        self.resident_bytes.append(resident_bytes())
        if problem is None and (more := unfinished or after.more_than(before)):
            problem = f"left behind: {more}"
        return {
            "number": planned.number,
            "strategy": planned.config.strategy,
            "reduction": planned.config.reduction,
            "config": planned.config.as_mapping(),
            "checkpoints": planned.saves,
            "faults": [
                {
                    "fault": str(spec),
                    "kind": spec.kind.value,
                    "phase": spec.phase,
                    "fired": number in struck,
                }
                for number, spec in enumerate(planned.faults)
            ],
            "must_end_with": planned.ends,
            "ended_with": None if ended is None else f"{type(ended).__name__}: {ended}",
            # From the first fault to the first sign of it.
            "detection_s": recoveries[0]["detected_s"] - struck[0]
            if recoveries and 0 in struck
            else None,
            "recoveries": recoveries,
            "expected_sha256": expected,
            "final_state_sha256": final,
            "seconds": time.monotonic() - begun,
            "problem": problem,
            "passed": problem is None,
        }

    def _undisturbed(self, config: RunConfig) -> str:
        key = config.sha256()
        if key not in self._expected:
            self._expected[key] = train(config).final_state().sha256()
        return self._expected[key]


def _resumed(config: RunConfig, plan: CheckpointPlan) -> tuple[RunResult | None, DmlfError | None]:
    try:
        return train(config, checkpoint=plan), None
    except RunInterrupted as stopped:
        raise SystemExit(128 + stopped.number) from None
    except DmlfError as error:
        return None, error.with_traceback(None)


def _problem(
    planned: PlannedRun,
    struck: Mapping[int, float],
    ended: DmlfError | None,
    recoveries: Sequence[Mapping[str, Any]],
    equal: bool,
) -> str | None:
    """Why a run has failed the campaign; None if it has not."""
    silent = [str(spec) for number, spec in enumerate(planned.faults) if number not in struck]
    if silent:
        before = "" if struck or not recoveries else f"; before it: {recoveries[0]['detail']}"
        return f"did not fire: {'; '.join(silent)}{before}"
    name = None if ended is None else type(ended).__name__
    if name != planned.ends:
        return f"ended with {name or 'success'} instead of {planned.ends or 'success'}"
    if planned.recovers and not recoveries:
        return "the fault had no consequence, so it was not seen"
    if not equal:
        return "the final state is not that of the undisturbed run"
    return too_late(planned.faults, struck, recoveries, planned.config.timeout_s, POLICY.grace_s)


def run_campaign(
    planned: Sequence[PlannedRun],
    request: Request,
    argv: Sequence[str],
    tell: Callable[[str], None],
    *,
    exclusive: bool = False,
) -> dict[str, Any]:
    """Carry out all runs, one after the other; return the content of the campaign's file.

    request: what they were planned from. tell: takes one line per run. exclusive: hold the
    host-wide measuring lock meanwhile: what is timed here should not be disturbed either.
    Raises MetricsError if the content does not fit its schema, which would be a bug.
    """
    name_semaphores()
    mark_processes()
    campaign, runs = Campaign(), []
    with measuring_lock() if exclusive else nullcontext(), signals(None):
        started_at = datetime.now(UTC)
        for one in planned:
            entry = campaign.run(one)
            runs.append(entry)
            tell(_line(entry))
    content = {
        "schema_version": SCHEMA_VERSION,
        "request": request.as_mapping(),
        "argv": list(argv),
        "source_sha256": env.source_sha256(env.AFTER_FAULTS),
        "environment": env.capture_environment(),
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "resident_bytes": campaign.resident_bytes,
        "summary": summarise(runs),
        "runs": runs,
    }
    validate(content, "the campaign")
    return content


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, and medians and maxima of the times; null where there are none."""
    detection_s = [run["detection_s"] for run in runs if run["detection_s"] is not None]
    recovery_s = [event["recovery_s"] for run in runs for event in run["recoveries"]]
    by_kind: dict[str, dict[str, int]] = {}
    for run in runs:
        for fault in run["faults"]:
            counts = by_kind.setdefault(fault["kind"], {"injected": 0, "fired": 0})
            counts["injected"] += 1
            counts["fired"] += fault["fired"]
    return {
        "runs": len(runs),
        "passed": sum(run["passed"] for run in runs),
        "by_kind": dict(sorted(by_kind.items())),
        "recoveries": len(recovery_s),
        "detection_median_s": statistics.median(detection_s) if detection_s else None,
        "detection_max_s": max(detection_s, default=None),
        "recovery_median_s": statistics.median(recovery_s) if recovery_s else None,
        "recovery_max_s": max(recovery_s, default=None),
    }


def validate(content: Any, path: str) -> None:
    """Check a campaign's file. Raises MetricsError, and DependencyMissing without jsonschema."""
    for error in _validator().iter_errors(content):
        field = ".".join(str(part) for part in error.absolute_path) or "document"
        raise MetricsError(path, field, error.message[:200])
    if content["summary"] != summarise(content["runs"]):
        raise MetricsError(path, "summary", "is not what the runs give")


@cache
def _validator() -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise DependencyMissing("jsonschema", str(error), 'pip install "dmlf"') from error
    import json

    text = resources.files(__package__).joinpath("campaign.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def _line(entry: Mapping[str, Any]) -> str:
    config = entry["config"]
    faults = " ".join(fault["fault"] for fault in entry["faults"])
    if entry["problem"] is not None:
        outcome = f"FAILED: {entry['problem']}"
    elif entry["ended_with"] is not None:
        outcome = f"ended with {entry['must_end_with']}, resumed"
    elif entry["recoveries"]:
        recovery_s = sum(event["recovery_s"] for event in entry["recoveries"])
        outcome = f"seen after {entry['detection_s']:.2f} s, recovered in {recovery_s:.2f} s"
    else:
        outcome = "went on"
    return (
        f"{entry['number']:4d}  {entry['strategy']} {entry['reduction']} "
        f"world_size={config['world_size']}  {faults}  {outcome}"
    )
