"""What readiness costs: the samples are real, and the verdict follows them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmlf.benchmark.claims import Outcome
from dmlf.benchmark.faults.overhead import (
    SAMPLES,
    seconds_per_step,
    seconds_per_step_saving,
    validate,
)
from dmlf.benchmark.faults.statements import within
from dmlf.benchmark.statistics import Estimate
from dmlf.cli import main
from dmlf.errors import MetricsError


def result(starts: list[float], samples: list[int], warmup_steps: int) -> Any:
    config = SimpleNamespace(warmup_steps=warmup_steps, global_batch_size=4)
    ranks = [SimpleNamespace(start_s=starts, samples=[n // 2 for n in samples]) for _ in range(2)]
    return SimpleNamespace(config=config, ranks=ranks)


def test_warm_up_and_what_follows_a_smaller_step_is_left_out() -> None:
    starts = [0.0, 90.0, 91.0, 93.0, 193.0, 196.0]
    samples = [4, 4, 4, 2, 4, 4]  # the fourth ends an epoch; comparing and evaluating follow
    assert seconds_per_step(result(starts, samples, 1)) == pytest.approx((1 + 2 + 3) / 3)


def test_steps_from_a_checkpoint_on_are_put_beside_those_after_them() -> None:
    took = [1.0] * 199 + [5.0] + [2.0] * 49 + [3.0] * 50 + [9.0] + [2.0] * 49 + [3.0] * 50
    starts = [0.0]
    for seconds in took:
        starts.append(starts[-1] + seconds)
    # The save after the 200th step is in that step, whose time ends where the next one begins.
    expected = ((5 + 49 * 2) + (9 + 49 * 2)) / 100, 3.0
    shifted = [0.0, *starts[1:]]
    assert seconds_per_step_saving(shifted) == pytest.approx(expected)


def test_the_verb_measures_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="a torch model")
    output = tmp_path / "overhead.json"
    assert main(["overhead", "--rounds", "2", "--steps", "300", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "No statement on the price of restarts: a claim needs 5 rounds" in said
    content = json.loads(output.read_text())
    validate(content, str(output))
    assert [len(content["step_s"][name]) for name in SAMPLES] == [2, 2, 2, 2]
    for change, field in (
        (lambda c: c["step_s"]["plain"].pop(), "step_s"),
        (lambda c: c["step_s"]["plain"].__setitem__(0, -1.0), "step_s.plain.0"),
        (lambda c: c.pop("config"), "document"),
    ):
        wrong = copy.deepcopy(content)
        change(wrong)
        with pytest.raises(MetricsError) as caught:
            validate(wrong, str(output))
        assert caught.value.field == field
    for flags in (["--rounds", "0"], ["--steps", "299"]):
        assert main(["overhead", *flags]) == 2


@pytest.mark.parametrize(
    ("low", "high", "rounds", "outcome"),
    [
        (0.98, 1.03, 5, Outcome.HOLDS),
        (1.031, 1.2, 5, Outcome.DOES_NOT_HOLD),
        (1.03, 1.031, 5, Outcome.NOT_DISTINGUISHABLE),
        (0.98, 1.0, 4, Outcome.NO_DATA),
        (None, None, 1, Outcome.NO_DATA),
    ],
)
def test_an_interval_decides(
    low: float | None, high: float | None, rounds: int, outcome: Outcome
) -> None:
    assert within(Estimate(1.0, low, high, rounds), 1.03) == outcome
