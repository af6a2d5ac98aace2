"""The tables survive any text, and lose no value."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.table import Table, clean_text, read_table, write_table
from dmlf.errors import MetricsError
from tests.benchmark.rows import rows

HOSTILE = 'a,"b"\n=HYPERLINK("x")|`c`\r\n\x00\u2028<script>\ud800 end'


def test_round_trip(tmp_path: Path, matrix_table: Table) -> None:
    path = tmp_path / "runs.csv"
    write_table(path, matrix_table)
    assert read_table(path) == matrix_table


def test_hostile_text_stays_in_its_cell(tmp_path: Path) -> None:
    (row,) = rows("serial", 1, [100.0], reason=HOSTILE, warning_texts="=1+1")
    path = tmp_path / "runs.csv"
    write_table(path, Table((row,), ()))
    with path.open(newline="") as stream:
        lines = list(csv.reader(stream))
    assert len(lines) == 2
    assert {len(line) for line in lines} == {len(dataclasses.fields(row))}
    assert path.read_text().count("\n") == 2
    (found,) = read_table(path).runs
    assert found.reason is not None
    assert found.reason.startswith('a,"b" =HYPERLINK')
    assert found.warning_texts == "'=1+1"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1"])
def test_no_cell_starts_a_formula(text: str) -> None:
    assert clean_text(text).startswith("'")


def test_text_is_bounded() -> None:
    assert len(clean_text("x" * 10**6)) == 1000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace("task", "tusk", 1),
        lambda text: text.replace("\n", "\nextra,", 1),
        lambda text: text.replace("float32,1,", "float32,one,", 1),
        lambda text: text.replace("false", "maybe", 1),
        lambda text: text + '"open',
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "runs.csv"
    write_table(path, Table(tuple(rows("serial", 1, [100.0])), ()))
    assert callable(damage)
    path.write_text(damage(path.read_text()))
    with pytest.raises(MetricsError) as caught:
        read_table(path)
    assert caught.value.path == str(path)


def test_an_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetricsError) as caught:
        read_table(tmp_path / "runs.csv")
    assert caught.value.path.endswith("runs.csv")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"throughput_samples_per_s": float("nan")}, "throughput_samples_per_s: nan"),
        ({"throughput_samples_per_s": -5.0}, "throughput_samples_per_s: -5.0"),
        ({"step_time_s": float("inf")}, "step_time_s: inf"),
        ({"world_size": 0}, "world_size: 0"),
        ({"status": "weird"}, "status: 'weird'"),
        ({}, "is there a second time"),
    ],
)
def test_numbers_that_no_run_has_are_refused_by_line_and_column(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    first, second = rows("serial", 1, [1.0, 2.0])
    spoilt = dataclasses.replace(second, **changes) if changes else first
    write_table(tmp_path / "runs.csv", Table(runs=(first, spoilt), epochs=()))
    with pytest.raises(MetricsError, match="line 3") as refused:
        read_table(tmp_path / "runs.csv")
    assert named in str(refused.value)
