"""A fault that goes unseen for too long, or a group that will not stop, is named."""

from __future__ import annotations

import pytest

from dmlf.benchmark.faults.bounds import AT_ONCE_S, MARGIN_S, SLACK_S, too_late
from dmlf.runtime.faults import parse_fault

TIMEOUT_S, GRACE_S = 5.0, 0.5
PATIENCE_S = TIMEOUT_S + MARGIN_S + SLACK_S


def judged(fault: str, detected_s: float, stopping_s: float = 0.0) -> str | None:
    event = {"generation": 0, "detected_s": 100.0 + detected_s, "stopping_s": stopping_s}
    return too_late([parse_fault(fault)], {0: 100.0}, [event], TIMEOUT_S, GRACE_S)


@pytest.mark.parametrize(
    ("fault", "allowed_s"),
    [
        ("kill:rank=1,step=3", AT_ONCE_S),
        ("corrupt:rank=1,step=3,phase=push", AT_ONCE_S),
        ("cut:rank=1,step=3,phase=push", AT_ONCE_S),
        ("duplicate:rank=1,step=3,phase=push", AT_ONCE_S),
        ("misdirect:rank=1,step=3,phase=push", AT_ONCE_S),
        ("stop:rank=1,step=3", PATIENCE_S),
        ("delay:rank=1,step=3,seconds=600", PATIENCE_S),
        ("drop:rank=1,step=3,phase=push", PATIENCE_S),
        ("mute:rank=1,step=3,phase=push", PATIENCE_S),
    ],
)
def test_each_kind_has_its_time(fault: str, allowed_s: float) -> None:
    assert judged(fault, allowed_s) is None
    late = judged(fault, allowed_s + 0.01)
    assert late is not None
    assert fault in late
    assert judged(fault, 0.0, allowed_s) is None
    assert judged(fault, 0.0, allowed_s + 0.01) is not None
    assert allowed_s < 2 * TIMEOUT_S  # a wait for one timeout after the other is too long


def test_a_flipped_bit_shows_when_replicas_are_compared() -> None:
    assert judged("flip:rank=1,step=3", 1000.0) is None


def test_a_fault_is_held_against_the_end_of_its_own_generation() -> None:
    faults = [parse_fault("kill:rank=1,step=3"), parse_fault("kill:rank=0,step=0,generation=1")]
    first = {"generation": 0, "detected_s": 1.0, "stopping_s": 0.1}
    second = {"generation": 1, "detected_s": 9.0, "stopping_s": 0.1}
    assert too_late(faults, {0: 0.9, 1: 8.9}, [first, second], TIMEOUT_S, GRACE_S) is None
    late = too_late(faults, {0: 0.9, 1: 2.0}, [first, second], TIMEOUT_S, GRACE_S)
    assert late is not None
    assert "generation=1" in late
