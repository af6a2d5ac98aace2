"""A record that is broken or contradicts itself is refused, with the field's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.collective.load import load, parse_record, read_record
from dmlf.benchmark.files import write_json
from dmlf.errors import MetricsError
from tests.benchmark.collective.records import changed, record

Record = dict[str, Any]

BROKEN: list[tuple[Callable[[Record], object], str]] = [
    (lambda r: r.update(schema_version=2), "schema_version"),
    (lambda r: r.update(status="failed"), "status"),
    (lambda r: r.update(surprise=1), "document"),
    (lambda r: r.pop("cells"), "document"),
    (lambda r: r["cells"].pop(), "cells"),
    (lambda r: r["cells"].append(r["cells"][0]), "cells"),
    (lambda r: r["cells"][0].update(size_bytes=2048), "cells"),
    (lambda r: r["cells"][2]["call_s"].pop(), "cells.2.call_s"),
    (lambda r: r["cells"][2]["call_s"].__setitem__(1, 0.0), "cells.2.call_s.1"),
    (lambda r: r["cells"][2]["call_s"].__setitem__(1, "1"), "cells.2.call_s.1"),
    (lambda r: r["cells"][2].update(more=1), "cells.2"),
    (lambda r: r["config"].update(seed=1), "provenance.config_sha256"),
    (lambda r: r["config"].update(rounds=0), "config"),
    (lambda r: r["config"].update(round_s=10**400), "config"),
    (lambda r: r["config"].pop("seed"), "config"),
    (lambda r: r["config"].update(colour="red"), "config"),
    (lambda r: r["config"].update(strategies=5), "config"),
    (lambda r: r["environment"].pop("affinity_cores"), "environment"),
    (lambda r: r["environment"].update(host="name"), "environment"),
    (lambda r: r["skipped"].append({"contestant": "gloo"}), "skipped.0"),
]


@pytest.mark.parametrize(("change", "field"), BROKEN)
def test_damage_is_named(change: Callable[[Record], object], field: str) -> None:
    with pytest.raises(MetricsError) as caught:
        parse_record(changed(change), "collective.json")
    assert (caught.value.path, caught.value.field) == ("collective.json", field)


@pytest.mark.parametrize("document", [None, [], "text", {}])
def test_other_documents_are_refused(document: object) -> None:
    with pytest.raises(MetricsError):
        parse_record(document, "collective.json")


def test_a_sound_file_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "collective.json"
    write_json(path, record())
    read = read_record(path)
    assert len(read.cells) == 5 * 2 * 2
    assert read.cells[5].call_s == pytest.approx((1.0e-3, 1.1e-3, 0.9e-3, 1.0e-3, 1.05e-3))
    assert load(path).record == read


def test_a_skipped_contestant_lacks_no_cell() -> None:
    times = {name: [1.0] * 5 for name in ("ring-shm", "gloo", "limit")}
    read = parse_record(record(times, {"openmpi": "mpirun is not installed"}), "collective.json")
    assert {entry.contestant for entry in read.skipped} == {"openmpi"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        ("{", "not valid JSON"),
        ('{"schema_version": NaN}', "not JSON"),
        ("[]", "document"),
    ],
)
def test_a_report_is_told_what_is_wrong(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "collective.json"
    if content is not None:
        path.write_text(content)
    loaded = load(path)
    assert loaded.record is None
    assert problem in loaded.problem
    assert str(path) in loaded.problem


def test_no_file_was_named() -> None:
    assert "no file" in load(None).problem
