"""transcript.jsonl: one line per step, chained by hashes, so that no line can be lost or changed.

line 1    {"transcript": 1, "config": {...}, "final_state_sha256": ...}
a step    {"step": n, "samples": {...}, ..., "chain": BLAKE2b(previous chain, this record)}
last      {"end": number of steps, "chain": BLAKE2b(previous chain, line 1)}

The chain of the steps does not cover line 1, so that runs of different world sizes which did the
same have the same chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf import strict_json
from dmlf.benchmark.files import write_text
from dmlf.config import RunConfig, canonical_json
from dmlf.errors import ConfigError, TranscriptError
from dmlf.training.transcript import KINDS, Record

NAME = "transcript.jsonl"
VERSION = 1
_START = "0" * 32


@dataclass(frozen=True, slots=True)
class Transcript:
    """A verified transcript: its run, its records by step, and the chain's last step value."""

    path: str
    config: RunConfig
    final_state_sha256: str
    records: Sequence[Record]
    chain: str


def _link(previous: str, value: object) -> str:
    digest = hashlib.blake2b(previous.encode() + canonical_json(value), digest_size=16)
    return digest.hexdigest()


def write_transcript(
    path: Path, config: RunConfig, final_state_sha256: str, records: Sequence[Record]
) -> None:
    """Write a transcript, atomically."""
    header = {
        "transcript": VERSION,
        "config": config.as_mapping(),
        "final_state_sha256": final_state_sha256,
    }
    lines: list[Mapping[str, Any]] = [header]
    chain = _START
    for step, record in enumerate(records):
        entry = {"step": step, **record}
        chain = _link(chain, entry)
        lines.append({**entry, "chain": chain})
    lines.append({"end": len(records), "chain": _link(chain, header)})
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_transcript(path: Path) -> Transcript:
    """Read and verify a transcript. Raises TranscriptError: absent, truncated, altered, invalid."""
    if path.is_dir():
        path = path / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        problem = "there is no transcript; train with --transcript to record one"
        raise TranscriptError(str(path), problem) from None
    except OSError as error:
        raise TranscriptError(str(path), f"cannot be read: {error}") from None
    try:
        lines = [strict_json.parse(line) for line in content.splitlines()]
    except ValueError as error:
        problem = f"a line is not valid JSON, cut off or damaged: {error}"
        raise TranscriptError(str(path), problem) from None
    if len(lines) < 2 or not all(isinstance(line, dict) for line in lines):
        raise TranscriptError(str(path), "it is cut off: the last line is missing")
    return _verified(str(path), lines[0], lines[1:-1], lines[-1])


def _verified(
    path: str, header: dict[str, Any], steps: Sequence[dict[str, Any]], end: dict[str, Any]
) -> Transcript:
    if header.get("transcript") != VERSION:
        raise TranscriptError(path, f"line 1 is not that of a transcript of version {VERSION}")
    if "end" not in end:
        raise TranscriptError(path, "it is cut off: the last line is missing")
    if end["end"] != len(steps):
        raise TranscriptError(path, f"it holds {len(steps)} steps where {end['end']} were written")
    chain, records = _START, []
    for step, line in enumerate(steps):
        entry = {key: value for key, value in line.items() if key != "chain"}
        if entry.get("step") != step or set(entry) != {"step", *KINDS}:
            raise TranscriptError(path, f"line {step + 2} is not the record of step {step}")
        chain = _link(chain, entry)
        if line.get("chain") != chain:
            raise TranscriptError(path, f"step {step} was altered: its hash does not fit")
        records.append({kind: entry[kind] for kind in KINDS})
    if end.get("chain") != _link(chain, header):
        raise TranscriptError(path, "line 1 was altered: its hash does not fit")
    try:
        config = RunConfig.from_mapping(header["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise TranscriptError(path, f"line 1 holds no valid configuration: {error}") from None
    return Transcript(path, config, str(header.get("final_state_sha256")), records, chain)
