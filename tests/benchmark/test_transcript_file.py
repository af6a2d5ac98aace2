"""A transcript cannot lose or change a line without being found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dmlf.benchmark.diff import compare
from dmlf.benchmark.transcript_file import NAME, read_transcript, write_transcript
from dmlf.config import RunConfig
from dmlf.errors import ReplicaDivergence, TranscriptError
from dmlf.training.transcript import COMPUTED_ONCE, KINDS, Record, merge_records

CONFIG = RunConfig(task="synthetic", reduction="exact")


def records(steps: int = 3, *, change: tuple[int, str] | None = None) -> list[Record]:
    return [
        {
            kind: {
                f"{shard} w" if kind == "gradients" else str(shard): (
                    f"{kind}-{step}-{shard}" + ("!" if change == (step, kind) and shard else "")
                )
                for shard in range(2)
            }
            for kind in KINDS
        }
        for step in range(steps)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_transcript(tmp_path / NAME, CONFIG, "f" * 64, records())
    return tmp_path / NAME


def test_what_was_written_is_read(path: Path) -> None:
    transcript = read_transcript(path.parent)
    assert transcript.config == CONFIG
    assert transcript.records == records()
    assert transcript.final_state_sha256 == "f" * 64


def change_line(index: int, key: str, value: object) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        lines[index] = json.dumps({**json.loads(lines[index]), key: value})
        return lines

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[:2], "cut off"),
        (lambda lines: lines[:1], "cut off"),
        (lambda lines: [*lines[:-1], lines[-1][:5]], "cut off"),
        (lambda lines: [lines[0], *lines[2:]], "2 steps where 3"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "not the record of step 0"),
        (lambda lines: ["[]", *lines[1:]], "cut off"),
        (lambda lines: ['{"a": 1, "a": 2}', *lines[1:]], "stands twice"),
        (lambda lines: [lines[0], "[" * 100_000, *lines[1:]], "nested deeper"),
        (lambda lines: [lines[0], '{"step": NaN}', *lines[1:]], "NaN is not JSON"),
        (change_line(0, "transcript", 2), "version 1"),
        (change_line(0, "final_state_sha256", "0" * 64), "line 1 was altered"),
        (change_line(2, "samples", {"0": "x", "1": "y"}), "step 1 was altered"),
        (change_line(2, "extra", 1), "not the record of step 1"),
        (change_line(4, "chain", "0" * 32), "line 1 was altered"),
    ],
)
def test_damage_is_found(
    path: Path, damage: Callable[[list[str]], list[str]], problem: str
) -> None:
    lines = damage(path.read_text().splitlines())
    path.write_text("\n".join(lines))
    with pytest.raises(TranscriptError, match=problem):
        read_transcript(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_difference_is_named(tmp_path: Path, path: Path, kind: str) -> None:
    ring = replace(CONFIG, algorithm="ring", transport="queue", world_size=2)
    other = tmp_path / "other.jsonl"
    write_transcript(other, ring, "e" * 64, records(change=(1, kind)))
    difference = compare(read_transcript(path), read_transcript(other)).difference
    assert difference is not None
    assert (difference.step, difference.kind) == (1, kind)
    assert difference.name == ("1 w" if kind == "gradients" else "1")


def test_ranks_that_contradict_each_other_are_found() -> None:
    own, other = records(), records(change=(2, "parameters"))

    def computing_nothing(rank: list[Record]) -> list[Record]:
        return [
            {kind: hashes for kind, hashes in record.items() if kind not in COMPUTED_ONCE}
            for record in rank
        ]

    assert merge_records([own, computing_nothing(own)]) == own
    with pytest.raises(ReplicaDivergence, match="after step 2"):
        merge_records([own, computing_nothing(other)])
    with pytest.raises(ReplicaDivergence, match="samples of step 0"):
        merge_records([own, own])  # both have computed the same shards
