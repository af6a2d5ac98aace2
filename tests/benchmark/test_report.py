"""The report: its order, its honesty, and texts that try to break it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dmlf.benchmark.plots import FIGURES
from dmlf.benchmark.report import write_report
from dmlf.benchmark.report.figures import FIRST
from dmlf.benchmark.report.markdown import code, escape
from dmlf.benchmark.table import RunRow, Table, write_table
from dmlf.errors import MetricsError
from tests.benchmark.rows import rows

HOSTILE = "a | b\n# c <script>alert(1)</script> `d` [e](http://f) </details> ![g](h) *i*"


def report(tmp_path: Path, *groups: list[RunRow]) -> str:
    path = tmp_path / "results" / "runs.csv"
    write_table(path, Table(tuple(row for group in groups for row in group), ()))
    output = tmp_path / "report" / "report.md"
    write_report(path, tmp_path / "report" / "figures", output)
    return output.read_text()


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, flags=re.MULTILINE)


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


SERIAL = rows("serial", 1, [100.0, 101.0, 102.0, 103.0, 104.0])
FAST = [200.0, 201.0, 202.0, 203.0, 204.0]


def test_the_order_is_answer_trust_correctness_speed_and_what_is_looked_up_last(
    matrix_table_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report" / "report.md"
    write_report(matrix_table_path, tmp_path / "report" / "figures", output)
    text = output.read_text()
    first = [FIGURES[name] for name in FIRST]
    assert headings(text) == [
        "The answer", "How far to trust it", "Correctness", *first, "Collectives",
        "Faults survived", *(title for title in FIGURES.values() if title not in first),
        "Cost model", "Projection", "How a step runs", "Validity", "Environment", "All claims",
        "All runs", "How to rebuild it", "Artifact checklist", "Words",
    ]  # fmt: skip
    box = section(text, "How far to trust it")
    assert box.count("\n- ") == 3
    for name in FIGURES:
        assert f"](figures/{name}.svg)" in text
        assert re.search(rf"`snakemake \S*report/figures/{name}\.svg`", text)
    assert len(re.findall(r"^!\[.{40,}\]\(", text, flags=re.MULTILINE)) == len(FIGURES)
    assert "All 85 training runs passed" in section(text, "The answer")
    write_report(matrix_table_path, tmp_path / "report" / "figures", output)
    assert output.read_text() == text


def test_tables_have_one_number_of_columns(matrix_table_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    write_report(matrix_table_path, tmp_path, output)
    for block in re.findall(r"(?:^\|.*\n)+", output.read_text(), flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("throughput", "word"),
    [
        (FAST, "Yes.** `ring-queue` is faster."),
        ([50.0] * 5, "No.** `ring-queue` is slower."),
        ([103.0] * 5, "Not shown.** `ring-queue` is not distinguishable."),
        (FAST[:4], "No statement is made on speed"),
    ],
)
def test_the_answer_says_what_the_data_say(
    tmp_path: Path, throughput: list[float], word: str
) -> None:
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, throughput))
    answer = section(text, "The answer")
    assert word in answer
    assert ("**Faster than serial at 2 workers? " in answer) == ("No statement" not in word)
    assert ("| 2 | `ring-queue` | 1.98 [1.94, 2.02] |" in answer) == (throughput == FAST)
    assert answer.count("samples/s") == ("No statement" not in word)  # the base, once


def test_oversubscribed_points_are_left_out_of_the_answer_and_explained(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, FAST, oversubscribed=True))
    answer = section(text, "The answer")
    assert "is faster" not in answer
    assert "| `ring-queue` |" not in answer
    assert "Oversubscribed points" in answer
    assert "beside other work" not in answer
    assert "take turns" in section(text, "Validity")
    assert "(Oversubscribed.)" in section(text, FIGURES["throughput"])


def test_statements_with_a_reservation_fold_behind_those_without(tmp_path: Path) -> None:
    crowded = rows("ring-shm", 4, FAST, oversubscribed=True)
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, FAST), crowded)
    shown, _, folded = section(text, FIGURES["throughput"]).partition("<details>")
    assert "1 statement with a reservation" in folded
    assert "- ring-queue at world size 2 is faster than serial" in shown
    assert "- ring-shm at world size 4" not in shown
    assert "- ring-shm at world size 4 is faster than serial" in folded
    assert "(Oversubscribed.)" in folded


def test_more_servers_are_another_contestant_in_every_statement(tmp_path: Path) -> None:
    more = "parameter_server-queue, 2 servers"
    one = rows("parameter_server-queue", 2, [50.0, 50.1, 50.2, 50.3, 50.4])
    text = report(tmp_path, SERIAL, one, rows(more, 2, FAST, num_servers=2))
    answer = section(text, "The answer")
    assert f"`{more}` at 2 workers is faster than serial (1.98 [1.94, 2.02] times)" in answer
    assert (
        "`parameter_server-queue` at 2 workers is slower than serial (0.492 [0.483, 0.502] times)"
        in answer
    )
    assert f"`{more}`" in section(text, "Correctness")


def test_a_ceiling_is_shown_as_such_and_as_nothing_else(tmp_path: Path) -> None:
    top = rows("unsynchronized", 2, [250.0] * 5, check="ceiling", test_accuracy=None)
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, FAST), top)
    answer = section(text, "The answer")
    assert "All 10 training runs passed" in answer
    assert "| 2 | `ring-queue` | 1.98 [1.94, 2.02] | 80.8 [80.0, 81.6] |" in answer
    assert "not distinguishable from 80 %" in section(text, FIGURES["throughput"])
    assert "| `unsynchronized` |" not in section(text, "Correctness")
    said = (
        "15 planned runs (10 training runs and 5 ceiling runs): all completed. "
        "Of 10 training runs, 10 passed their correctness check."
    )
    assert said in section(text, "Validity")
    assert said in section(text, "How far to trust it")
    assert "(10 training runs and 5 ceiling runs)" in text.partition("## ")[0]
    assert "(10 training runs and 5 ceiling runs)" in section(text, "Environment")


@pytest.mark.parametrize("check", ["failed", "absent"])
def test_no_speed_of_an_unchecked_run_appears_anywhere(tmp_path: Path, check: str) -> None:
    unchecked = rows(
        "ring-queue", 2, [777.0] * 5, check=check, check_detail="the reason", step_time_s=None
    )
    text = report(tmp_path, SERIAL, unchecked)
    assert f"**{check}**" in section(text, "Correctness")
    assert "the reason" in section(text, "Correctness")
    assert "is faster" not in section(text, "The answer")
    assert "ring-queue at world size 2 has 0 checked runs" in text


def test_without_valid_runs_the_report_says_so_and_claims_nothing(tmp_path: Path) -> None:
    gone = rows("ring-queue", 2, [100.0] * 5, status="failed", check="absent", cohort=None,
                reason="PeerLost: rank 1")  # fmt: skip
    text = report(tmp_path, gone)
    assert "No run completed" in section(text, "Correctness")
    assert "PeerLost: rank 1" in section(text, "Failed, skipped and missing runs")
    assert text.count("there is nothing to show") == len(FIGURES) - 1
    assert not re.search(r"times its throughput|\| (holds|does not hold) \|", text)


def test_an_empty_table_gives_a_report(tmp_path: Path) -> None:
    text = report(tmp_path)
    assert "The table has no runs." in text
    assert "0 planned runs" in text


def test_one_repeat_has_no_interval_and_that_is_said(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL[:1], rows("ring-queue", 2, [200.0]))
    assert "A point with a single run has no interval." in section(text, "Validity")
    assert "nothing is claimed" in section(text, "Validity")
    assert "Noise cannot be judged" in section(text, "Validity")


def test_mixed_runs_are_named_and_not_compared(tmp_path: Path) -> None:
    other = rows("ring-queue", 2, FAST, cohort="ba9876543210", source_sha256="b" * 64)
    text = report(tmp_path, SERIAL, other)
    assert "2 different versions of the sources" in section(text, "Validity")
    assert "is faster" not in section(text, "The answer")


def test_hostile_text_stays_in_its_place(tmp_path: Path) -> None:
    broken = rows("ring-queue", 2, [1.0], status="failed", check="absent", cohort=None,
                  reason=HOSTILE)  # fmt: skip
    noisy = rows("serial", 1, [100.0], cpu_model=HOSTILE, check_detail=HOSTILE,
                 warning_texts=HOSTILE, warnings=1)  # fmt: skip
    text = report(tmp_path, noisy, broken)
    assert "<script>" not in text
    assert "</details> " not in text
    assert "[e](" not in text
    assert "# c" not in headings(text)
    failed = section(text, "Failed, skipped and missing runs")
    (line,) = [line for line in failed.splitlines() if line.startswith("| failed")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 4


def test_escape_and_code() -> None:
    assert escape("a_b|c") == r"a\_b\|c"
    assert escape("<b>") == "&lt;b&gt;"
    assert code("ring-queue") == "`ring-queue`"
    assert code("a`b|c") == r"a\`b\|c"


def test_a_bad_table_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MetricsError):
        write_report(tmp_path / "runs.csv", tmp_path, tmp_path / "report.md")
    assert list(tmp_path.iterdir()) == []


def test_contaminated_runs_are_named_and_in_no_number(tmp_path: Path) -> None:
    beside = "results/digits/other/metrics.json"
    lost = rows("ring-queue", 2, FAST, contaminated_by=beside, throughput_samples_per_s=None)
    text = report(tmp_path, SERIAL, lost)
    validity = section(text, "Validity")
    assert "**Contaminated runs.** 5 runs shared the machine" in validity
    assert f"`{beside}`" in validity
    assert "is faster" not in section(text, "The answer")
    assert "All 10 training runs passed" in section(text, "The answer")
    assert "No two measured runs overlap" in report(tmp_path, SERIAL)


def test_loaded_points_are_left_out_of_the_answer(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, FAST, loaded=True))
    assert "is faster" not in section(text, "The answer")
    assert "1 point measured beside other work" in section(text, "The answer")
    assert "(Loaded.)" in section(text, FIGURES["throughput"])
    assert (
        "**Loaded machine.** In 5 runs other processes took more than 10 % of the cores' time"
        in section(text, "Validity")
    )


def test_unsteady_points_are_counted_in_the_answer(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, [100.0, 150.0, 200.0, 250.0, 300.0]))
    assert "The runs of 1 point differ too much" in section(text, "The answer")
    (line,) = [x for x in section(text, "Validity").splitlines() if "| unsteady |" in x]
    assert line.endswith("| unsteady | claims |")


def test_weak_scaling_says_what_it_is(tmp_path: Path) -> None:
    weak = {"experiment": "weak", "samples_per_rank": 128, "task": "digits_weak"}
    text = report(
        tmp_path, rows("serial", 1, [100.0] * 5, **weak), rows("ring-queue", 2, FAST, **weak)
    )
    answer = section(text, "The answer")
    assert "weak scaling.**" in answer
    assert "Every rank has 128 samples of each step" in answer
    assert "weak-scaling efficiency" in section(text, FIGURES["throughput"])


def test_time_to_target_is_a_table(tmp_path: Path) -> None:
    target = {"target_accuracy": 0.95, "epochs_to_target": 7, "time_to_target_s": 2.0}
    never = rows("ring-queue", 4, FAST, target_accuracy=0.95)
    text = report(
        tmp_path, rows("serial", 1, [100.0] * 5, **target),
        rows("ring-queue", 2, FAST, **(target | {"time_to_target_s": 1.0})), never,
    )  # fmt: skip
    shown = section(text, FIGURES["target"])
    row = (
        "| `ring-queue` | float32 | 2 | 5 | 95.00 % | 7 | 1.00 [1.00, 1.00] | 0.500 [0.500, 0.500]"
    )
    assert row in shown
    assert "| never in 5 runs |" in shown
    assert "converges no slower than serial" in shown
    assert "ring-queue at world size 4 converges slower than serial" in shown


def test_the_findings_are_data(tmp_path: Path) -> None:
    report(tmp_path, SERIAL, rows("ring-queue", 2, FAST, loaded=True))
    found = json.loads((tmp_path / "report" / "findings.json").read_text())
    points = {(p["strategy"], p["world_size"]): p for p in found["points"]}
    assert points["ring-queue", 2]["noticed"] == ["loaded"]
    assert points["ring-queue", 2]["excluded_from"] == "answer"
    claims = {claim["name"]: claim for claim in found["claims"]}
    claim = claims["speed_against_serial/ring-queue/float32/world_size=2"]
    assert (claim["outcome"], claim["reservation"]) == ("holds", "loaded")
    assert claim["numbers"]["ratio"] == "1.98 [1.94, 2.02]"
    assert claim["rebuild"].startswith("snakemake ")


def test_the_parameter_server_is_in_the_answer_with_its_reservation(tmp_path: Path) -> None:
    crowded = rows(
        "parameter_server-queue", 2, [50.0] * 5, oversubscribed=True, processes=3, affinity_cores=2
    )
    peer = rows("ddp-gloo", 2, [60.0] * 5)
    answer = section(
        report(tmp_path, SERIAL, rows("ring-tcp", 2, FAST), crowded, peer), "The answer"
    )
    assert (
        "**Parameter server:** `parameter_server-queue` at 2 workers is slower than serial "
        "(0.490 [0.481, 0.500] times) and slower than `ddp-gloo` (0.833 [0.833, 0.833] times); "
        "oversubscribed: 3 processes, servers included, on 2 cores." in answer
    )
    verdict = (
        "**Faster than serial at 2 workers? Some.** `ring-tcp` is faster; `ddp-gloo` is slower."
    )
    assert verdict in answer
    assert "| 2 | `parameter_server-queue` | 0.490 [0.481, 0.500] |" in answer
    assert answer.count("`ring-tcp` does so too and is the like-for-like comparison") == 1
    assert "ring-shm" not in answer


def test_who_is_left_out_of_the_verdict_on_speed_is_named(tmp_path: Path) -> None:
    loaded = rows("ring-shm", 2, FAST, loaded=True)
    answer = section(report(tmp_path, SERIAL, rows("ring-queue", 2, [50.0] * 5), loaded),
                     "The answer")  # fmt: skip
    assert (
        "**Faster than serial at 2 workers? No.** `ring-queue` is slower; "
        "`ring-shm` is left out (measured beside other work)." in answer
    )


def test_a_failed_check_is_the_first_word_of_the_answer(tmp_path: Path) -> None:
    wrong = rows("ring-queue", 2, FAST, check="failed")
    answer = section(report(tmp_path, SERIAL, wrong), "The answer")
    assert "- **Same result? No.** 5 of 10 training runs failed" in answer
    assert "**Same result? Yes.**" in section(report(tmp_path, SERIAL), "The answer")


def test_the_opening_says_what_was_trained(tmp_path: Path) -> None:
    workload = {"model": "mlp", "hidden_sizes": [512, 256], "global_batch_size": 1024,
                "optimizer": "sgd", "epochs": 12}  # fmt: skip
    known = {"workload": json.dumps(workload), "train_samples": 1437, "affinity_cores": 2}
    text = report(
        tmp_path, rows("serial", 1, [100.0] * 5, measured_steps=55, **known),
        rows("ring-queue", 2, FAST, measured_steps=40, **known),
    ).partition("## ")[0]  # fmt: skip
    assert (
        "- **digits**: model `mlp` (512-256 hidden); 1,437 training samples; steps of 1,024 "
        "samples (the global batch); sgd for 12 epochs; the speed of a run is that of its "
        "40 to 55 measured steps, by their median." in text
    )
    assert "Read ratios, not absolute speed" in text
    assert "on 2 cores" in text


def test_a_final_state_is_one_row_whoever_reached_it(tmp_path: Path) -> None:
    other = rows("ring-shm", 4, FAST, final_state_sha256="b" * 64)
    text = report(tmp_path, SERIAL, rows("ring-queue", 2, FAST), rows("ring-queue", 4, FAST), other)
    lines = [x for x in section(text, "Correctness").splitlines() if x.startswith("| digits")]
    assert len(lines) == 2
    assert "| `aaaaaaaaaaaa` | `serial` (1), `ring-queue` (2, 4) | 15 | passed |" in lines[0]
    assert "| `bbbbbbbbbbbb` | `ring-shm` (4) | 5 | passed |" in lines[1]


def test_statements_that_differ_in_their_subject_alone_are_one(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL, *(rows("ring-queue", size, FAST) for size in (2, 4)),
                  rows("ring-shm", 2, FAST))  # fmt: skip
    shown = section(text, FIGURES["throughput"])
    assert (
        "Each of 2 contestants (ring-queue at world size 2; ring-shm at world size 2) is" in shown
    )
    assert "- ring-queue at world size 4 is faster than serial" in shown  # another efficiency
    accuracy = section(text, FIGURES["convergence"])
    assert "Each of 2 contestants (ring-queue; ring-shm) ends within 0.5" in accuracy


def test_comparisons_without_data_for_one_reason_are_one_line(tmp_path: Path) -> None:
    text = report(tmp_path, SERIAL, *(rows(f"ring-{t}", 2, [1.0]) for t in ("queue", "shm")),
                  rows("ring-tcp", 2, [1.0, 1.0]), rows("ddp-gloo", 2, FAST))  # fmt: skip
    shown = section(text, FIGURES["throughput"])
    assert "6 comparisons without enough data" in shown
    assert (
        "- No statement in 4 comparisons (speed against serial and speed against ddp-gloo; "
        "ring-queue at world size 2; ring-shm at world size 2): each has 1 checked run and a "
        "claim needs 5." in shown
    )
    assert "ring-tcp at world size 2): each has 2 checked runs" in shown
    assert shown.count("\n- No statement") == 2


def test_the_box_names_what_was_noticed_and_explains_it(tmp_path: Path) -> None:
    wide = rows("ring-queue", 2, [100.0, 110.0, 120.0, 130.0, 140.0])
    box = section(report(tmp_path, SERIAL, wide), "How far to trust it")
    assert (
        "Noticed of 2 points (strategy, reduction and world size): wide (1); wide is an interval "
        "of more than 10 % of the median." in box
    )
    calm = section(report(tmp_path, SERIAL), "How far to trust it")
    assert "Noticed of 1 point (strategy, reduction and world size): nothing." in calm
