"""What being ready for faults costs: steps that could recover beside steps that could not.

The same training is run plain, with `--max-restarts`, and with a checkpoint every EVERY_STEPS
steps, in turns whose order rotates, so that the machine's drift meets all three alike. A ratio is
taken within a round, of runs that were neighbours in time. Counted is the time from the begin of
a step to that of the next, saving included; left out are the warm-up and the smaller step that
ends an epoch, after which replicas are compared and the model is evaluated in all three.
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

SCHEMA_VERSION = 1
EVERY_STEPS = 50
PLAIN, RESTARTS, CHECKPOINTS = "plain", "restarts", "checkpoints"
VARIANTS = (PLAIN, RESTARTS, CHECKPOINTS)
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

    steps: of each run; more than EVERY_STEPS, so that some are followed by a checkpoint. tell:
    takes one line per run. exclusive: hold the host-wide measuring lock meanwhile.
    Raises ConfigError, what ends a run, and MetricsError if one ends in other bits.
    """
    if not 1 <= rounds <= 10_000:
        raise ConfigError("rounds", rounds, "a number from 1 to 10000")
    if not EVERY_STEPS < steps <= 1_000_000:
        raise ConfigError("steps", steps, f"a number from {EVERY_STEPS + 1} to 1000000")
    config = replace(RUN, max_steps=steps)
    samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    states = set()
    with measuring_lock() if exclusive else nullcontext(), signals(None):
        started_at = datetime.now(UTC)
        train(replace(config, max_steps=config.warmup_steps + 2))  # loads what all will use
        for round_ in range(rounds):
            for place in range(len(VARIANTS)):
                variant = VARIANTS[(round_ + place) % len(VARIANTS)]
                result = _train(config, variant)
                states.add(result.final_state().sha256())
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
            return train(config, checkpoint=CheckpointPlan(str(folder), EVERY_STEPS))
        except RunInterrupted as stopped:
            raise SystemExit(128 + stopped.number) from None


def seconds_per_step(result: RunResult) -> float:
    """The mean time from the begin of a whole step to that of the next, after the warm-up.

    It is rank 0's, which waits for all others in every step, and writes the checkpoints.
    """
    starts = result.ranks[0].start_s
    whole = [
        starts[step + 1] - starts[step]
        for step in range(result.config.warmup_steps, len(starts) - 1)
        if sum(rank.samples[step] for rank in result.ranks) == result.config.global_batch_size
    ]
    return math.fsum(whole) / len(whole)


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
