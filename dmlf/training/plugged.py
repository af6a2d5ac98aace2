"""Which plug-ins a run uses, and the hash of their sources, for provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dmlf.config import RunConfig, canonical_json
from dmlf.plugins import Origin, Registry
from dmlf.protocol import registry
from dmlf.tasks import task_origin
from dmlf.transport import TRANSPORTS


@dataclass(frozen=True, slots=True)
class Plugged:
    """One thing of a run that is not dmlf's own, and where it comes from."""

    kind: str
    name: str
    origin: Origin

    def as_mapping(self) -> dict[str, Any]:
        """JSON-ready; the distribution is null where none is installed. Hashes the sources."""
        return {
            "kind": self.kind,
            "name": self.name,
            "distribution": self.origin.distribution,
            "version": self.origin.version,
            "sha256": self.origin.sha256(),
        }


def plugged(
    tasks: Iterable[str] = (), algorithms: Iterable[str] = (), transports: Iterable[str] = ()
) -> list[Plugged]:
    """What of these names is not dmlf's own; imports none of it."""
    found = []
    for name in tasks:
        try:
            found.append(Plugged("task", name, task_origin(name)))
        except KeyError:
            continue  # whoever wants to run it says so
    kinds: tuple[tuple[Registry[Any], Iterable[str]], ...] = (
        (registry(), algorithms),
        (TRANSPORTS, transports),
    )
    for known, names in kinds:
        found += [Plugged(known.kind, name, known.origin(name)) for name in names if name in known]
    return [item for item in dict.fromkeys(found) if not item.origin.is_own]


def plugged_into(config: RunConfig) -> list[dict[str, Any]]:
    """The plug-ins of one run, as its provenance keeps them."""
    found = plugged([config.task], [config.algorithm], [config.transport])
    return [item.as_mapping() for item in found]


def plugged_text(config: RunConfig) -> str:
    """One text that is the same on all hosts with the same plug-ins; empty without any."""
    found = plugged_into(config)
    return canonical_json(found).decode() if found else ""
