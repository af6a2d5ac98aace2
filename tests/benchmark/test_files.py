"""Files are whole or absent; JSON is read strictly."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dmlf.benchmark import files
from dmlf.benchmark.files import read_json, write_json, write_text
from dmlf.errors import MetricsError


def test_round_trip_keeps_values_and_puts_lists_of_numbers_on_one_line(tmp_path: Path) -> None:
    value = {
        "text": "ü \"quoted\" \n", "none": None, "flag": True, "empty": {}, "nothing": [],
        "numbers": [0.1, 1e-9, 3], "nested": [{"a": [1, 2]}, [3]],
    }  # fmt: skip
    path = tmp_path / "new" / "folder" / "metrics.json"
    write_json(path, value)
    assert read_json(path) == value
    assert '"numbers": [0.1, 1e-09, 3]' in path.read_text()


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1: 2}, {"a": object()}])
def test_what_is_not_json_is_not_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(MetricsError) as caught:
        write_json(path, value)
    assert caught.value.path == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_error_in_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on device")

    if failing == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"new": 2})
    monkeypatch.undo()
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_the_target_is_complete_at_the_moment_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    seen = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        seen.append((target.exists(), json.loads(self.read_text())))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    write_json(path, {"a": [1, 2]})
    assert seen == [(False, {"a": [1, 2]})]


def test_the_file_has_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    umask = os.umask(0o022)
    try:
        write_text(path, "text")
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a": NaN}', "content"),
        ('{"a": -Infinity}', "content"),
        ('{"a": 1e999}', "content"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "content"),
        ('{"a": 1', "content"),
        ('{"a": "tex', "content"),
        ('{"a": 1} {"b": 2}', "content"),
        ("", "content"),
        ('{"a": ' + "9" * 5000 + "}", "content"),
        ("[" * 100_000, "content"),
        ('{"a":' * 100_000, "content"),
        ("\ufeff{}", "content"),
    ],
)
def test_hostile_json_is_refused_by_name(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MetricsError) as caught:
        read_json(path)
    assert (caught.value.path, caught.value.field) == (str(path), field)


def test_truncation_at_every_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": [1.5, True, None], "b": {"c": "tä\\x"}})
    content = path.read_bytes().rstrip()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(MetricsError):
            read_json(path)


def test_what_is_not_a_small_regular_file_of_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b'{"a": "\xff\xfe"}')
    large = tmp_path / "large.json"
    large.write_text("[1, 2, 3]")
    monkeypatch.setattr(files, "MAX_BYTES", 8)
    for path in (fifo, large):
        with pytest.raises(MetricsError):
            read_json(path)
    monkeypatch.undo()
    with pytest.raises(MetricsError):
        read_json(binary)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


def test_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    """Not a device either: a FIFO stands for one."""
    special = tmp_path / "special"
    os.mkfifo(special)
    with pytest.raises(FileExistsError) as refused:
        write_text(special, "a")
    assert refused.value.filename == str(special)
    assert special.is_fifo()
    assert list(tmp_path.iterdir()) == [special]
