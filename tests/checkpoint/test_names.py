"""Names say one thing only, and order as they should."""

from __future__ import annotations

import pytest

from dmlf.checkpoint.names import (
    MAX_STEP,
    checkpoint_name,
    claims_to_be_checkpoint,
    is_temporary,
    parse_checkpoint_name,
    temporary_name,
)


@pytest.mark.parametrize("step", [0, 1, 10**10 - 1, 10**10, MAX_STEP])
@pytest.mark.parametrize("attempt", [0, 1, 10, 123])
def test_a_checkpoint_name_comes_back(step: int, attempt: int) -> None:
    name = checkpoint_name(step, attempt)
    assert parse_checkpoint_name(name) == (step, attempt)
    assert claims_to_be_checkpoint(name)
    assert not is_temporary(name)
    temporary = temporary_name(name)
    assert is_temporary(temporary)
    assert not claims_to_be_checkpoint(temporary)
    assert temporary != temporary_name(name)


@pytest.mark.parametrize(
    "name",
    ["step-1", "step-00000000001", "step-0000000001.0", "step-0000000001.01", "step-0000000001.",
     "step-0000000001\n", "step-" + "\u0661" * 10, "step--000000001", "step-+000000001",
     "Step-0000000001", "step-0000000001.tmp", ""],
)  # fmt: skip
def test_no_other_name_is_one(name: str) -> None:
    assert parse_checkpoint_name(name) is None
