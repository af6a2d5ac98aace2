"""Read a collective record back: only what is whole, valid and free of contradictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from dmlf.benchmark.collective.config import LIMIT, CollectiveConfig
from dmlf.benchmark.collective.measure import Cell, Skipped
from dmlf.benchmark.files import read_json
from dmlf.errors import ConfigError, DependencyMissing, MetricsError


@dataclass(frozen=True, slots=True)
class Collectives:
    """A valid record. `environment` and `provenance` are as in metrics.json."""

    config: CollectiveConfig
    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    libraries: Mapping[str, str]
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def cores(self) -> int:
        """Cores that the ranks could use."""
        return int(self.environment["affinity_cores"])


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a path holds: a record, or None and why."""

    record: Collectives | None
    problem: str


def load(path: str | Path | None) -> Loaded:
    """Read a record for a report, which is written whatever is wrong with it."""
    if path is None:
        return Loaded(None, "no file of results was named")
    try:
        return Loaded(read_record(path), "")
    except FileNotFoundError:
        return Loaded(None, f"{path} does not exist")
    except (MetricsError, OSError) as error:
        return Loaded(None, f"the file is not valid: {error}")


def read_record(path: str | Path) -> Collectives:
    """Read a record strictly. Raises MetricsError, DependencyMissing and OSError."""
    return parse_record(read_json(path), str(path))


def parse_record(record: Any, path: str) -> Collectives:
    """Check a record; `path` is only named in errors. Raises MetricsError with the field."""
    for error in _validator().iter_errors(record):
        field = ".".join(str(part) for part in error.absolute_path) or "document"
        raise MetricsError(path, field, error.message[:200])
    try:
        config = CollectiveConfig.from_mapping(record["config"])
    except (ConfigError, TypeError) as error:
        raise MetricsError(path, "config", str(error)) from error
    cells = tuple(Cell(**(entry | {"call_s": tuple(entry["call_s"])})) for entry in record["cells"])
    skipped = tuple(Skipped(**entry) for entry in record["skipped"])
    if record["provenance"]["config_sha256"] != config.sha256():
        problem = "is not the hash of the configuration in this file"
        raise MetricsError(path, "provenance.config_sha256", problem)
    for field, problem in _contradictions(config, cells, skipped):
        raise MetricsError(path, field, problem)
    return Collectives(
        config, cells, skipped, record["libraries"], record["environment"], record["provenance"]
    )


def _contradictions(
    config: CollectiveConfig, cells: tuple[Cell, ...], skipped: tuple[Skipped, ...]
) -> Iterator[tuple[str, str]]:
    """Cells that are missing, there twice, or have not one sample per round."""
    missing_ones = {(entry.contestant, entry.world_size) for entry in skipped}
    expected = {
        (name, world_size, size)
        for name in (*config.strategies, *config.peers, LIMIT)
        for world_size in config.world_sizes
        for size in config.sizes
        if (name, world_size) not in missing_ones
    }
    found = [(cell.contestant, cell.world_size, cell.size_bytes) for cell in cells]
    if len(set(found)) != len(found):
        yield "cells", "holds a contestant twice at one size and world size"
    for key in sorted(expected ^ set(found)):
        state = "lacks" if key in expected else "holds, against its configuration,"
        yield "cells", f"{state} {key[0]} at world size {key[1]} and {key[2]} bytes"
    for index, cell in enumerate(cells):
        if len(cell.call_s) != config.rounds:
            problem = f"has {len(cell.call_s)} samples for {config.rounds} rounds"
            yield f"cells.{index}.call_s", problem


@cache
def _validator() -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise DependencyMissing("jsonschema", str(error), 'pip install "dmlf"') from error
    schema = resources.files("dmlf.benchmark").joinpath("collective", "collective.schema.json")
    return jsonschema.Draft202012Validator(json.loads(schema.read_text()))
