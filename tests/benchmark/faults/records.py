"""Files of campaigns and measurements as a report reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmlf.benchmark.faults.campaign import SCHEMA_VERSION, summarise
from dmlf.benchmark.faults.overhead import RUN
from dmlf.config import RunConfig

SAME, OTHER = "a" * 64, "b" * 64
FRAME: dict[str, Any] = {
    "argv": ["dmlf"],
    "source_sha256": SAME,
    "environment": {},
    "started_at": "2026-01-01T00:00:00.000",
    "finished_at": "2026-01-01T00:00:01.000",
}


def run(number: int, fault: str, **changes: Any) -> dict[str, Any]:
    """A run that recovered from a fault, noticed after 0.5 s and mended 0.25 s later."""
    kind, _, places = fault.partition(":")
    phase = dict(place.split("=") for place in places.split(",")).get("phase")
    values = {
        "number": number,
        "strategy": "ring-shm",
        "reduction": "float32",
        "config": RunConfig(task="synthetic", world_size=2, algorithm="ring").as_mapping(),
        "checkpoints": False,
        "faults": [{"fault": fault, "kind": kind, "phase": phase, "fired": True}],
        "must_end_with": None,
        "ended_with": None,
        "detection_s": 0.5,
        "recoveries": [
            {
                "generation": 0, "rank": 1, "cause": "PeerLost", "detail": "x", "replaced": [1],
                "step": 3, "source": "x", "detected_s": 2.0, "stopping_s": 0.1, "recovery_s": 0.25,
            }
        ],
        "expected_sha256": SAME,
        "final_state_sha256": SAME,
        "seconds": 1.0,
        "problem": None,
        "passed": True,
    }  # fmt: skip
    return values | changes


def campaign(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    request = {"runs": 9, "seed": 7, "algorithms": ["ring"], "transports": ["shm", "tcp"]}
    return {
        "schema_version": SCHEMA_VERSION,
        "request": request,
        **FRAME,
        "resident_bytes": [1 << 20] * len(runs),
        "summary": summarise(runs),
        "runs": list(runs),
    }


def overhead(restarts: Sequence[float], checkpoints: Sequence[float]) -> dict[str, Any]:
    """Samples that are so many times those without."""
    return {
        "schema_version": 2,
        **FRAME,
        "config": RUN.as_mapping(),
        "checkpoint_every": 50,
        "final_state_sha256": SAME,
        "step_s": {
            "plain": [2.0] * len(restarts),
            "restarts": [2.0 * ratio for ratio in restarts],
            "checkpoints": [3.0 * ratio for ratio in checkpoints],
            "between": [3.0] * len(checkpoints),
        },
    }
