"""Turn a measurement into the content of its JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmlf.benchmark.collective.measure import Measured
from dmlf.benchmark.metrics import provenance
from dmlf.config import split_strategy
from dmlf.env import AFTER_COLLECTIVES
from dmlf.training.plugged import plugged

SCHEMA_VERSION = 1


def build_record(
    measured: Measured, argv: Sequence[str], constraints: str | Path | None
) -> dict[str, Any]:
    """Return the record of a measurement, with every sample and everything it was taken on."""
    from dmlf import env

    environment = dict(env.capture_environment())
    environment["load_before"] = list(measured.load_before)
    environment["load_after"] = list(measured.load_after)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "completed",
        "config": measured.config.as_mapping(),
        "provenance": provenance(
            measured.config,
            argv,
            constraints,
            measured.started_at,
            measured.finished_at,
            AFTER_COLLECTIVES,
            plugins=[item.as_mapping() for item in plugged((), *_used(measured))],
        ),
        "environment": environment,
        "libraries": dict(measured.libraries),
        "timing": {
            "clock": "CLOCK_MONOTONIC",
            "total_s": measured.total_s,
            "lock_wait_s": measured.lock_wait_s,
        },
        "skipped": [
            {
                "contestant": skipped.contestant,
                "world_size": skipped.world_size,
                "reason": skipped.reason,
            }
            for skipped in measured.skipped
        ],
        "cells": [
            {
                "contestant": cell.contestant,
                "world_size": cell.world_size,
                "size_bytes": cell.size_bytes,
                "processes": cell.processes,
                "calls": cell.calls,
                "call_s": list(cell.call_s),
            }
            for cell in measured.cells
        ],
    }


def _used(measured: Measured) -> tuple[list[str], list[str]]:
    """The algorithms and the transports that were measured."""
    pairs = [split_strategy(strategy) for strategy in measured.config.strategies]
    return [algorithm for algorithm, _ in pairs], [transport for _, transport in pairs]
