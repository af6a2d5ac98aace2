"""A projection as a file: what was asked for, the rows, and the sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from dmlf.benchmark.files import read_json, write_json
from dmlf.benchmark.projection.rows import Request, Row, as_mapping
from dmlf.benchmark.projection.sensitivity import Sensitivity
from dmlf.errors import MetricsError

SCHEMA_VERSION = 1
KIND = "projection"
Entry = TypeVar("Entry", Row, Sensitivity)


@dataclass(frozen=True, slots=True)
class Projection:
    """What figures are drawn from."""

    request: Mapping[str, Any]
    rows: tuple[Row, ...]
    sensitivities: tuple[Sensitivity, ...]


def make_projection(
    request: Request, link: str, rows: Sequence[Row], sensitivities: Sequence[Sensitivity]
) -> Projection:
    """Bring everything together; link: how the request's link is named."""
    return Projection({**as_mapping(request), "link": link}, tuple(rows), tuple(sensitivities))


def write_projection(path: Path, projection: Projection) -> None:
    """Write the projection as JSON. Raises OSError."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "request": dict(projection.request),
            "rows": [asdict(row) for row in projection.rows],
            "sensitivities": [asdict(point) for point in projection.sensitivities],
        },
    )


def read_projection(path: Path) -> Projection:
    """Read what `write_projection` wrote. Raises MetricsError, OSError."""
    value, name = read_json(path), str(path)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise MetricsError(name, "kind", f"is not {KIND!r}")
    if value.get("schema_version") != SCHEMA_VERSION:
        found = value.get("schema_version")
        raise MetricsError(name, "schema_version", f"is {found!r}, not {SCHEMA_VERSION}")
    if not isinstance(value.get("request"), dict):
        raise MetricsError(name, "request", "is no object")
    return Projection(
        value["request"],
        _entries(name, "rows", value, Row),
        _entries(name, "sensitivities", value, Sensitivity),
    )


def _entries(name: str, key: str, value: Mapping[str, Any], kind: type[Entry]) -> tuple[Entry, ...]:
    """Rebuild entries, each field of the type that the class names."""
    types: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "Scaling": str}
    expected = {item.name: types[str(item.type)] for item in fields(kind)}
    entries = value.get(key)
    if not isinstance(entries, list):
        raise MetricsError(name, key, "is no list")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != set(expected):
            raise MetricsError(name, f"{key}[{index}]", f"needs the keys {', '.join(expected)}")
        for field, allowed in expected.items():
            if not isinstance(entry[field], allowed) or isinstance(entry[field], bool):
                raise MetricsError(name, f"{key}[{index}].{field}", f"is {entry[field]!r}")
    return tuple(kind(**entry) for entry in entries)
