"""What being ready for faults costs: steps that could recover beside steps that could not.

The same training is run plain, with `--max-restarts`, and with checkpoints, in turns whose order
rotates, so that the machine's drift meets all three alike. The price of restarts is a ratio within
a round, of two runs that were neighbours in time. Counted is the time from the begin of a step to
that of the next; left out are the warm-up and the smaller step that ends an epoch, after which
replicas are compared and the model is evaluated in both.

Runs are some percent apart without a reason, so the price of checkpoints is a ratio within a run:
one is written every other EVERY_STEPS steps, and the time of those that follow it, saving included,
is put beside that of the next EVERY_STEPS. The first one is left out: it removes no older one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from dmlf import env
from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DependencyMissing, MetricsError, RunInterrupted
from dmlf.runtime.launch import signals
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.runtime.scratch import scratch_folder
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.result import RunResult
from dmlf.training.run import train

SCHEMA_VERSION = 2
EVERY_STEPS = 50
PLAIN, RESTARTS, CHECKPOINTS = "plain", "restarts", "checkpoints"
VARIANTS = (PLAIN, RESTARTS, CHECKPOINTS)
BETWEEN = "between"
"""The steps of runs with checkpoints that the others are put beside."""
SAMPLES = (*VARIANTS, BETWEEN)
_LEAST_STEPS = 6 * EVERY_STEPS
RUN = RunConfig(
    task="digits",
    hidden_sizes=(512, 512),
    global_batch_size=128,
    num_shards=2,
    learning_rate=0.05,
    epochs=1_000_000,  # max_steps ends it
    warmup_steps=5,
    world_size=2,
    algorithm="ring",
    transport="shm",
)


def measure_overhead(
    rounds: int,
    steps: int,
    argv: Sequence[str],
    tell: Callable[[str], None],
    *,
    exclusive: bool = False,
) -> dict[str, Any]:
    """Train every variant once a round; return the content of the measurement's file.

    steps: of each run; 6 * EVERY_STEPS are needed for one checkpoint to be measured. tell:
    takes one line per run. exclusive: hold the host-wide measuring lock meanwhile.
    Raises ConfigError, what ends a run, and MetricsError if one ends in other bits.
    """
    if not 1 <= rounds <= 10_000:
        raise ConfigError("rounds", rounds, "a number from 1 to 10000")
    if not _LEAST_STEPS <= steps <= 1_000_000:
        raise ConfigError("steps", steps, f"a number from {_LEAST_STEPS} to 1000000")
    config = replace(RUN, max_steps=steps)
    samples: dict[str, list[float]] = {name: [] for name in SAMPLES}
    states = set()
    with measuring_lock() if exclusive else nullcontext(), signals(None):
        started_at = datetime.now(UTC)
        train(replace(config, max_steps=config.warmup_steps + 2))  # loads what all will use
        for round_ in range(rounds):
            for place in range(len(VARIANTS)):
                variant = VARIANTS[(round_ + place) % len(VARIANTS)]
                result = _train(config, variant)
                states.add(result.final_state().sha256())
                if variant == CHECKPOINTS:
                    saving, between = seconds_per_step_saving(result.ranks[0].start_s)
                    samples[CHECKPOINTS].append(saving)
                    samples[BETWEEN].append(between)
                else:
                    samples[variant].append(seconds_per_step(result))
                tell(f"{round_:4d}  {variant:11s}  {1e3 * samples[variant][-1]:.3f} ms per step")
    if len(states) != 1:
        raise MetricsError("this measurement", "final state", "differs between its runs")
    content = {
        "schema_version": SCHEMA_VERSION,
        "argv": list(argv),
        "source_sha256": env.source_sha256(env.AFTER_FAULTS),
        "environment": env.capture_environment(),
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "config": config.as_mapping(),
        "checkpoint_every": EVERY_STEPS,
        "final_state_sha256": states.pop(),
        "step_s": samples,
    }
    validate(content, "this measurement")
    return content


def _train(config: RunConfig, variant: str) -> RunResult:
    if variant != CHECKPOINTS:
        return train(config, restarts=RestartPolicy(3) if variant == RESTARTS else None)
    with scratch_folder() as folder:
        try:
            return train(config, checkpoint=CheckpointPlan(str(folder), 2 * EVERY_STEPS, keep=1))
        except RunInterrupted as stopped:
            raise SystemExit(128 + stopped.number) from None


def seconds_per_step(result: RunResult) -> float:
    """The mean time from the begin of a whole step to that of the next, after the warm-up.

    It is rank 0's, which waits for all others in every step.
    """
    starts = result.ranks[0].start_s
    whole = [
        starts[step + 1] - starts[step]
        for step in range(result.config.warmup_steps, len(starts) - 1)
        if sum(rank.samples[step] for rank in result.ranks) == result.config.global_batch_size
    ]
    return math.fsum(whole) / len(whole)


def seconds_per_step_saving(starts: Sequence[float]) -> tuple[float, float]:
    """The mean time of a step of the EVERY_STEPS from each checkpoint on, and of those between.

    starts: of every step on rank 0, which writes; at least 6 * EVERY_STEPS. An epoch's end, with
    its smaller step, falls to either as often, give or take one in three checkpoints.
    """
    saving, between = [], []
    for saved in range(4 * EVERY_STEPS - 1, len(starts) - 2 * EVERY_STEPS, 2 * EVERY_STEPS):
        middle, end = saved + EVERY_STEPS, saved + 2 * EVERY_STEPS
        saving.append((starts[middle] - starts[saved]) / EVERY_STEPS)
        between.append((starts[end] - starts[middle]) / EVERY_STEPS)
    return math.fsum(saving) / len(saving), math.fsum(between) / len(between)


def validate(content: Any, path: str) -> None:
    """Check a measurement's file. Raises MetricsError, and DependencyMissing without jsonschema."""
    for error in _validator().iter_errors(content):
        field = ".".join(str(part) for part in error.absolute_path) or "document"
        raise MetricsError(path, field, error.message[:200])
    if len({len(values) for values in content["step_s"].values()}) != 1:
        raise MetricsError(path, "step_s", "has not one sample of every variant per round")


@cache
def _validator() -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise DependencyMissing("jsonschema", str(error), 'pip install "dmlf"') from error
    text = resources.files(__package__).joinpath("overhead.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))
