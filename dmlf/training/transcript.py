"""What a run did, step by step, as hashes: which samples, gradients, sums, parameters, state.

Recorded on request. The ranks' records are merged into one per step, which does not depend on
who computed what: an exact run has the same transcript at any world size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import ReplicaDivergence
from dmlf.training.replica import Replica
from dmlf.training.sampler import SampleIds

Record = dict[str, dict[str, str]]
"""By kind (samples, gradients, reduced, parameters, optimizer), then by name: a hash."""

KINDS = ("samples", "gradients", "reduced", "parameters", "optimizer")
COMPUTED_ONCE = ("samples", "gradients")
"""Kinds whose names belong to one rank of a step each."""


def array_hash(array: npt.NDArray[Any]) -> str:
    """128-bit BLAKE2b over dtype, shape and bytes, in hexadecimal."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _hashes(arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> dict[str, str]:
    return {prefix + name: array_hash(array) for name, array in arrays.items()}


class TranscriptRecorder:
    """Records one rank's part of every step.

    Names of samples are shards (`3`); names of gradients are shards and tensors (`3 2.weight`),
    where shards that were computed together, as float32 does, are a range (`0-3 2.weight`).
    tell: takes (step, part of its record), the first part before anything of the step is sent: so
    a step that was applied has the samples and gradients of all its ranks, whoever died in it.
    """

    def __init__(
        self, replica: Replica, applies: bool, tell: Callable[[int, Record], None]
    ) -> None:
        self._replica = replica
        self._applies = applies
        self._tell = tell

    def before_reduction(self, step: int, shards: Sequence[SampleIds]) -> None:
        """Record this rank's samples and gradients of the step that begins."""
        mine = self._replica.shards
        rows = self._replica.store.rows if len(mine) else []
        names = [str(shard) for shard in mine]
        if len(rows) != len(mine):
            names = [f"{mine[0]}-{mine[-1]}"]
        gradients: dict[str, str] = {}
        for name, row in zip(names, rows, strict=False):
            gradients |= _hashes(row, f"{name} ")
        samples = {str(shard): array_hash(shards[shard]) for shard in mine}
        self._tell(step, {"samples": samples, "gradients": gradients})

    def after_step(self, step: int) -> None:
        """Record what the step led to, where this rank holds it."""
        replica = self._replica
        record = {"parameters": _hashes(replica.backend.parameters())}
        if self._applies:
            record["reduced"] = _hashes(replica.store.reduced)
            record["optimizer"] = _hashes(replica.backend.optimizer_state())
        self._tell(step, record)


class KeptRecords:
    """Takes what a `TranscriptRecorder` tells, and keeps it: one record per step."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, step: int, part: Record) -> None:
        """Keep a part of the record of the latest step."""
        if "samples" in part:
            self.records.append({})
        self.records[-1] |= part


def merge_records(
    by_rank: Sequence[Sequence[Mapping[str, Mapping[str, str]]]],
) -> list[Record]:
    """Join the ranks' records of each step; see `merge_step`."""
    return [
        merge_step(step, enumerate(records))
        for step, records in enumerate(zip(*by_rank, strict=True))
    ]


def merge_step(step: int, parts: Iterable[tuple[int, Mapping[str, Mapping[str, str]]]]) -> Record:
    """Join the ranks' records of one step, or parts of them: (rank, record).

    Raises ReplicaDivergence if two contradict, or if two ranks have computed the same shard.
    """
    whole: Record = {kind: {} for kind in KINDS}
    for rank, record in parts:
        for kind, hashes in record.items():
            for name, value in hashes.items():
                other = whole[kind].get(name)
                if other is not None and kind in COMPUTED_ONCE:
                    detail = f"{kind} of step {step}"
                    raise ReplicaDivergence(rank, "shards of its own", f"{name} again", detail)
                if other not in (None, value):
                    detail = f"{kind} {name} after step {step}"
                    raise ReplicaDivergence(rank, other, value, detail)
                whole[kind][name] = value
    return whole
