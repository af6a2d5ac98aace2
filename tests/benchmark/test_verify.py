"""`verify` recomputes what a folder of results claims, and finds what no longer holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.transcript_file import read_transcript, write_transcript
from dmlf.benchmark.verify import Finding, verify
from dmlf.cli import main
from dmlf.errors import MetricsError

SMALL = ["--task", "synthetic", "--max-steps", "8", "--global-batch-size", "32"]
RUNS = {
    "serial/exact/world_size=1": ["--reduction", "exact"],
    "ring-queue/exact/world_size=3": [
        *("--reduction", "exact", "--algorithm", "ring", "--world-size", "3")
    ],
    "ring-queue/float32/world_size=2": ["--algorithm", "ring", "--world-size", "2"],
    "tree-queue/float32/world_size=2": ["--algorithm", "tree", "--world-size", "2"],
    "ring-shm/exact/world_size=3": [
        *("--reduction", "exact", "--algorithm", "ring", "--transport", "shm"),
        *("--world-size", "3", "--min-workers", "2", "--fault", "leave:rank=1,step=5"),
    ],
    "ring-shm/float32/world_size=3": [
        *("--algorithm", "ring", "--transport", "shm"),
        *("--world-size", "3", "--min-workers", "2", "--fault", "leave:rank=1,step=5"),
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real results: two exact runs, a float32 run with its replay, one without."""
    root = tmp_path_factory.mktemp("trained") / "results"
    for name, flags in RUNS.items():
        output = root / "synthetic" / name / "seed=0" / "rep=0" / "metrics.json"
        assert main(["train", *SMALL, *flags, "--transcript", "--output", str(output)]) == 0
    replay = root / "synthetic/ring-replay/float32/world_size=2/seed=0/reference.json"
    flags = RUNS["ring-queue/float32/world_size=2"]
    assert main(["replay", *SMALL, *flags, "--output", str(replay)]) == 0
    return root


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results"))


def by_run(results: Path, constraints: Path | None = None) -> dict[str, Finding]:
    return {
        "/".join(Path(finding.path).parts[-6:-3]): finding
        for finding in verify([results], constraints)
    }


def test_what_was_trained_holds_and_what_has_no_reference_is_unproved(results: Path) -> None:
    findings = by_run(results)
    assert {name: finding.holds for name, finding in findings.items()} == {
        "serial/exact/world_size=1": True,
        "ring-queue/exact/world_size=3": True,
        "ring-queue/float32/world_size=2": True,
        "tree-queue/float32/world_size=2": None,
        "ring-shm/exact/world_size=3": True,
        "ring-shm/float32/world_size=3": None,
    }
    assert "workers came or went" in findings["ring-shm/float32/world_size=3"].detail


def edit(results: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = results / "synthetic" / name / "seed=0" / "rep=0" / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda m: m.update(final_state_sha256="0" * 64), "transcript beside it is of another"),
        (lambda m: m["config"].update(learning_rate=0.5), "config_sha256"),
        (lambda m: m["provenance"].update(source_sha256="0" * 64), "other sources"),
        (lambda m: m.pop("timing"), "timing"),
        (lambda m: m["correctness"].update(replicas_identical=False), ""),
    ],
)
def test_a_changed_result_is_found(
    results: Path, change: Callable[[dict[str, Any]], None], detail: str
) -> None:
    name = "ring-queue/exact/world_size=3"
    edit(results, name, change)
    findings = by_run(results)
    assert findings[name].holds is False
    assert detail in findings[name].detail


def test_another_final_state_is_found_without_a_transcript(results: Path) -> None:
    name = "ring-queue/exact/world_size=3"
    edit(results, name, lambda metrics: metrics.update(final_state_sha256="0" * 64))
    for transcript in results.rglob("transcript.jsonl"):
        transcript.unlink()
    assert by_run(results)[name].detail == "the final state differs from the serial exact run's"


def test_a_damaged_transcript_is_found(results: Path) -> None:
    name = "serial/exact/world_size=1"
    path = results / "synthetic" / name / "seed=0" / "rep=0" / "transcript.jsonl"
    path.write_text(path.read_text()[:-40])
    assert by_run(results)[name].holds is False


def test_a_sample_that_was_used_twice_is_found(results: Path) -> None:
    name = "ring-shm/exact/world_size=3"
    path = results / "synthetic" / name / "seed=0" / "rep=0" / "transcript.jsonl"
    transcript = read_transcript(path)
    records = [dict(record) for record in transcript.records]
    records[6]["samples"] = records[5]["samples"]
    write_transcript(path, transcript.config, transcript.final_state_sha256, records)
    finding = by_run(results)[name]
    assert finding.holds is False
    assert "step 6: shard 0 had other samples than its own" in finding.detail


def test_other_pinned_dependencies_are_found(results: Path, tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("numpy==0\n")
    for finding in by_run(results, pins).values():
        assert finding.holds is False
        assert "pinned dependencies" in finding.detail


def test_an_empty_folder_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="run the workflow first"):
        verify([tmp_path], None)


def test_the_verb_fails_when_something_does_not_hold(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(results)]) == 0
    assert "6 runs: 0 failed, 2 unproved" in capsys.readouterr().out
    edit(results, "serial/exact/world_size=1", lambda m: m.update(test_accuracy="high"))
    assert main(["verify", str(results)]) == 1
    assert "FAIL" in capsys.readouterr().out
