"""A few of the fuzzer's manifests; `python -m tests.checkpoint.fuzz 1000000` is the whole."""

from __future__ import annotations

from tests.checkpoint.fuzz import WHOLE, check, mutated


def test_mutated_manifests_end_in_the_closed_set() -> None:
    assert check(WHOLE) == "a manifest"
    outcomes = {check(mutated(number)) for number in range(4000)}
    assert "a manifest" in outcomes
    assert len(outcomes) > 10, "the fuzzer reaches little"
