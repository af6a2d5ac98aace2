"""Read a campaign and a measurement of its price back, for a report that is written anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.benchmark.faults import campaign, overhead
from dmlf.benchmark.files import read_json
from dmlf.errors import MetricsError


@dataclass(frozen=True, slots=True)
class Faults:
    """The contents of both files; where one is None, `..._problem` says why."""

    campaign: Mapping[str, Any] | None = None
    campaign_problem: str = "no file of results was named"
    overhead: Mapping[str, Any] | None = None
    overhead_problem: str = "no file of results was named"


def load(campaign_path: str | Path | None, overhead_path: str | Path | None) -> Faults:
    """Read what is there and valid. Raises DependencyMissing without jsonschema."""
    return Faults(
        *_read(campaign_path, campaign.validate), *_read(overhead_path, overhead.validate)
    )


def _read(
    path: str | Path | None, validate: Callable[[Any, str], None]
) -> tuple[Mapping[str, Any] | None, str]:
    if path is None:
        return None, "no file of results was named"
    try:
        content = read_json(path)
        validate(content, str(path))
    except FileNotFoundError:
        return None, f"{path} does not exist"
    except (MetricsError, OSError) as error:
        return None, f"the file is not valid: {error}"
    return content, ""
