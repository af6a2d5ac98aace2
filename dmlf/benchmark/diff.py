"""Where do two runs part? The first step, kind and tensor in which their transcripts differ."""

from __future__ import annotations

from dataclasses import dataclass

from dmlf.benchmark.transcript_file import Transcript
from dmlf.errors import TranscriptError
from dmlf.training.transcript import KINDS

# What two runs that are compared may do differently; in all else they must be the same task.
_MAY_DIFFER = frozenset(
    {
        "algorithm",
        "transport",
        "reduction",
        "world_size",
        "num_servers",
        "bucket_cap_bytes",
        "threads_per_rank",
        "warmup_steps",
        "epochs",
        "max_steps",
        "rep",
        "data_dir",
        "timeout_s",
    }
)
_SUBJECT = {
    "samples": "the samples of shard {name}",
    "gradients": "the gradient of shard {name}",
    "reduced": "the reduced gradient of {name}",
    "parameters": "the parameter {name}",
    "optimizer": "the optimizer's {name}",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two runs part. `name` is `shard tensor` for gradients."""

    step: int
    kind: str
    name: str

    def __str__(self) -> str:
        if self.kind == "gradients":
            shard, _, tensor = self.name.partition(" ")
            return f"step {self.step}: the gradient of shard {shard}, tensor {tensor}"
        return f"step {self.step}: {_SUBJECT[self.kind].format(name=self.name)}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference` is None where all `steps` common steps agree.

    `not_comparable` counts gradients that only one run has by itself, because the other computed
    several shards together.
    """

    steps: int
    difference: Difference | None
    not_comparable: int


def compare(first: Transcript, second: Transcript) -> Comparison:
    """Compare two runs of the same task step by step, cause before effect.

    Raises TranscriptError when the runs are not of the same task, model, data order or optimizer.
    """
    mine, theirs = first.config.as_mapping(), second.config.as_mapping()
    for key, value in mine.items():
        if key not in _MAY_DIFFER and theirs[key] != value:
            raise TranscriptError(
                second.path,
                f"is of another run: {key} is {theirs[key]!r}, but {value!r} in {first.path}",
            )
    not_comparable = 0
    steps = min(len(first.records), len(second.records))
    for step in range(steps):
        ours, others = first.records[step], second.records[step]
        for kind in KINDS:
            common = [name for name in ours[kind] if name in others[kind]]
            not_comparable += len(ours[kind]) - len(common)
            for name in common:
                if ours[kind][name] != others[kind][name]:
                    return Comparison(steps, Difference(step, kind, name), not_comparable)
    return Comparison(steps, None, not_comparable)
