"""Runs whose workers came and went, as their metrics tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmlf.config import RunConfig


def world_sizes(metrics: Mapping[str, Any], config: RunConfig) -> list[int]:
    """How many workers each generation of the run had."""
    if "membership" not in metrics:
        return [config.world_size]
    return [int(entry["world_size"]) for entry in metrics["membership"]["generations"]]


def resized(metrics: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether the run had another number of workers than its configuration, at any time."""
    return any(size != config.world_size for size in world_sizes(metrics, config))
