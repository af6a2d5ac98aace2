"""The report's claims and noise verdicts as data, for programs."""

from __future__ import annotations

from typing import Any

from dmlf.benchmark.noise import noise
from dmlf.benchmark.report import faults
from dmlf.benchmark.report.material import Material


def findings(material: Material) -> dict[str, Any]:
    """JSON-ready plain values: what the report says of every point, every claim, and faults."""
    places = material.places
    return {
        "schema_version": 1,
        "points": [
            {
                "task": cohort.task,
                "cohort": cohort.key,
                "experiment": cohort.experiment,
                "strategy": verdict.contestant.strategy,
                "reduction": verdict.contestant.reduction,
                "world_size": verdict.contestant.world_size,
                "runs": verdict.runs,
                "contaminated_runs": verdict.contaminated,
                "relative_interval_width": verdict.spread,
                "others_cpu_share": verdict.others,
                "noticed": list(verdict.noticed),
                "excluded_from": verdict.excluded_from,
            }
            for cohort in material.cohorts
            for verdict in noise(cohort)
        ],
        "claims": [
            {
                "task": cohort.task,
                "cohort": cohort.key,
                "name": item.claim.name,
                "claim": item.claim.tested,
                "outcome": str(item.outcome),
                "reservation": item.finding.reservation,
                "text": item.text,
                "numbers": dict(item.finding.numbers),
                "rebuild": item.command(places.figures, places.report),
            }
            for cohort, claims in material.judged
            for item in claims
        ],
        "faults": faults.data(material.faults),
    }
