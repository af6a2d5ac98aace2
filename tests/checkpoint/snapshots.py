"""Snapshots to save, and what it means that two are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmlf.checkpoint import RunState, SamplerPosition, Snapshot
from dmlf.checkpoint.tensors import DTYPES
from dmlf.config import RunConfig

CONFIG = RunConfig(task="synthetic", optimizer="adamw", seed=3)
STEPS_PER_EPOCH = 4


def position(step: int) -> SamplerPosition:
    return SamplerPosition(*divmod(step, STEPS_PER_EPOCH))


def snapshot(step: int, *, generation: int = 0, config: RunConfig = CONFIG) -> Snapshot:
    """Small, every dtype, odd shapes, values that depend on index and step; NaN with a payload."""
    state = RunState(
        step=step,
        generation=generation,
        config=config,
        sampler=position(step),
        random={"torch": {"seed": 2**63 + step, "state": "00ff"}},
        user={"best": [0.1 + step, None, "ü"]},
    )
    shapes: list[tuple[int, ...]] = [(), (0,), (5,), (2, 3), (2, 0, 3), (1, 2, 3, 2)]
    parameters: dict[str, Any] = {}
    for index, dtype in enumerate(DTYPES):
        if dtype == "|V2":
            continue  # bfloat16, which numpy does not know: see tests/state
        for shape in shapes:
            size = int(np.prod(shape))
            values = (np.arange(size) * 7 + index + step) % 113
            parameters[f"{index}.w{len(shape)}.{size}"] = values.astype(dtype).reshape(shape)
    bits = np.array([0x7FC00001 + step % 1000, 0x80000000, 0x00000001, 0xFF800000], dtype=np.uint32)
    parameters["bits"] = bits.view(np.float32)
    optimizer = {
        "bits.exp_avg": np.arange(12, dtype=np.float32).reshape(3, 4).T + step,  # not contiguous
        "bits.exp_avg_sq": np.arange(4, dtype=np.float64)[::-1] / (1 + step),
        "steps": np.array(step, dtype=np.int64),
    }
    return Snapshot(state, parameters, optimizer)


def bits(value: Snapshot) -> tuple[Any, ...]:
    """Everything a snapshot holds, to the bit, in a form that `==` compares."""
    groups = [
        {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in group.items()}
        for group in (value.parameters, value.optimizer)
    ]
    return value.state, *groups


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Change the manifest and make all file and manifest hashes right again, as a forger would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, entry in manifest["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(manifest)
    seal(folder, json.dumps(manifest).encode())


def seal(folder: Path, manifest: bytes) -> None:
    """Write a manifest and its marker."""
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "COMPLETE").write_text(hashlib.sha256(manifest).hexdigest() + "\n")
