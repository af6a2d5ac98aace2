"""The names of a folder of checkpoints, and the order that they say.

step-0000000123          the checkpoint after step 123
step-0000000123.1        a second one of the same step: nothing that is visible is ever replaced
.step-0000000123.TOKEN.tmp  being written, or being removed
.lock                    held by the one writer
"""

from __future__ import annotations

import re
import secrets

LOCK = ".lock"
MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"
GROUPS = ("parameters", "optimizer")
MAX_STEP = (1 << 53) - 1
_PREFIX = "step-"
_CHECKPOINT = re.compile(r"step-(\d{10,16})(?:\.([1-9]\d{0,8}))?", re.ASCII)
_TEMPORARY = re.compile(r"\.step-\d{10,16}(?:\.\d{1,9})?\.[0-9a-f]{16}\.tmp", re.ASCII)


def checkpoint_name(step: int, attempt: int = 0) -> str:
    """The folder of a step's checkpoint; `attempt` counts those of the same step from 0."""
    return f"{_PREFIX}{step:010d}" + (f".{attempt}" if attempt else "")


def parse_checkpoint_name(name: str) -> tuple[int, int] | None:
    """(step, attempt), by which checkpoints are ordered; None where it is no such name."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None:
        return None
    step, attempt = int(match[1]), int(match[2] or 0)
    return (step, attempt) if checkpoint_name(step, attempt) == name else None


def claims_to_be_checkpoint(name: str) -> bool:
    """Whether an entry must be accounted for, though its name may be damaged."""
    return name.startswith(_PREFIX)


def temporary_name(checkpoint: str) -> str:
    """A fresh name beside `checkpoint` that no reader looks at."""
    return f".{checkpoint}.{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` gave this name."""
    return _TEMPORARY.fullmatch(name) is not None


def tensor_file_name(group: str) -> str:
    """The file that holds a group's tensors."""
    return f"{group}.safetensors"
