"""Seeded random plans of faults: a pure function of the seed and of what to spread them over."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from dmlf.config import RunConfig
from dmlf.protocol import registry
from dmlf.runtime.faults import OF_FRAMES, OF_MEMBERSHIP, OF_MESSAGES, FaultKind, FaultSpec

STEPS = 10
EVERY_STEPS = 2
_ENDS = {
    FaultKind.NAN: "NonFiniteGradient",
    FaultKind.RAISE: "RemoteError",
    FaultKind.DISK_FULL: "CheckpointWriteError",
}
"""Kinds that no restart can mend, and the error that such a run must end with."""
_SECOND = 0.25  # of the runs that recover: how many are broken again meanwhile
_IN_RECOVERY = (FaultKind.KILL, FaultKind.STOP, *OF_MESSAGES)
"""Kinds that a recovery can meet: of a process or of a message. The others come in a step."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a campaign is planned from; the first runs are the same however many there are."""

    runs: int
    seed: int
    algorithms: tuple[str, ...]
    transports: tuple[str, ...]

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, in JSON's types."""
        return {
            "runs": self.runs,
            "seed": self.seed,
            "algorithms": list(self.algorithms),
            "transports": list(self.transports),
        }

    def command(self, number: int) -> str:
        """The command that repeats the run of that number."""
        return (
            f"dmlf faults --runs {number + 1} --seed {self.seed} --only {number} "
            f"--algorithms {' '.join(self.algorithms)} --transports {' '.join(self.transports)}"
        )


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run, what is to break in it, and how it must end.

    saves: with checkpoints after every EVERY_STEPS steps. ends: the error that it must end with
    before it is resumed; None: it goes on by itself. recovers: whether it needs a new generation.
    """

    number: int
    config: RunConfig
    faults: tuple[FaultSpec, ...]
    saves: bool
    ends: str | None

    @property
    def recovers(self) -> bool:
        """Whether a generation must end: all but a pause, and what ends the run."""
        return self.ends is None and self.faults[0].kind is not FaultKind.DELAY


def plan_runs(request: Request) -> list[PlannedRun]:
    """Deal kinds of faults over algorithms and transports.

    Each kind comes before any twice, as long as it has a combination left, and each combination
    before any twice.
    """
    choices = random.Random(request.seed)
    deck: list[tuple[FaultKind, str, str]] = []
    planned = []
    for number in range(request.runs):
        if not deck:
            deck = _shuffled(request, choices)
        planned.append(_plan(number, *deck.pop(), choices))
    return planned


def _shuffled(request: Request, choices: random.Random) -> list[tuple[FaultKind, str, str]]:
    """Every combination once; from the end, each kind before any twice."""
    rounds: dict[int, list[tuple[FaultKind, str, str]]] = {}
    for kind in FaultKind:
        own = [
            (kind, algorithm, transport)
            for algorithm in request.algorithms
            for transport in request.transports
            if _makes_sense(kind, algorithm, transport)
        ]
        for turn, combination in enumerate(choices.sample(own, len(own))):
            rounds.setdefault(turn, []).append(combination)
    return [
        combination
        for turn in sorted(rounds, reverse=True)
        for combination in choices.sample(rounds[turn], len(rounds[turn]))
    ]


def _makes_sense(kind: FaultKind, algorithm: str, transport: str) -> bool:
    if kind in OF_MEMBERSHIP:
        return False
    if kind in OF_FRAMES:
        return transport == "tcp"
    # What a server flips all its workers pull: no replica differs from another.
    return kind is not FaultKind.FLIP or not registry()[algorithm].has_servers


def _plan(
    number: int, kind: FaultKind, algorithm: str, transport: str, choices: random.Random
) -> PlannedRun:
    servers = choices.choice((1, 2)) if registry()[algorithm].has_servers else 0
    config = RunConfig(
        task="synthetic",
        task_options={"num_samples": 128, "parameter_dim": 7},  # an epoch is 4 steps
        global_batch_size=32,
        num_shards=4,
        bucket_cap_bytes=4,
        learning_rate=0.05,
        max_steps=STEPS,
        warmup_steps=0,
        algorithm=algorithm,
        transport=transport,
        world_size=choices.choice((2, 3)),
        num_servers=max(1, servers),
        reduction=choices.choice(("float32", "exact")),
        optimizer=choices.choice(("sgd", "adamw")),
        seed=choices.randrange(3),
        timeout_s=3.0,  # beyond what a busy machine may keep a process waiting
    )
    ends = _ENDS.get(kind)
    saves = ends is not None or choices.random() < 0.5
    first = _fault(kind, config, servers, choices)
    planned = PlannedRun(number, config, (first,), saves, ends)
    if kind is FaultKind.FLIP and config.world_size > 2:
        return replace(planned, faults=_flip_and_kill(first.rank, config))
    if not planned.recovers or choices.random() >= _SECOND:
        return planned
    return replace(planned, faults=(first, _second(config, servers, choices)))


def _second(config: RunConfig, servers: int, choices: random.Random) -> FaultSpec:
    """A fault in the first recovery, at one of the agreements in which every rank sends."""
    kinds = [k for k in _IN_RECOVERY if _makes_sense(k, config.algorithm, config.transport)]
    rank = choices.randrange(config.world_size + servers)
    phase = choices.choice(("handshake", "state_agreement"))
    return FaultSpec(choices.choice(kinds), rank, 0, phase, generation=1)


def _flip_and_kill(rank: int, config: RunConfig) -> tuple[FaultSpec, FaultSpec]:
    """A flip, and another rank that dies before replicas are compared, as they are after 8 steps.

    Whoever commits step 7 has every other rank's gradient of it. So both survivors have done step 6
    and not step 7, one of them to other bits: what the recovery would spread must be compared.
    """
    return (
        FaultSpec(FaultKind.FLIP, rank, 6),
        FaultSpec(FaultKind.KILL, (rank + 1) % config.world_size, 7, "commit", 0),
    )


def _fault(kind: FaultKind, config: RunConfig, servers: int, choices: random.Random) -> FaultSpec:
    # Who is at step 5 has done step 4 together with the rank that writes, after which the second
    # save had begun, so that the first one was durable. The last steps show what came of it.
    step = choices.randrange(5, STEPS - 2)
    if kind is FaultKind.DISK_FULL:
        return FaultSpec(kind, config.world_size if servers else 0, step)
    if kind in (FaultKind.NAN, FaultKind.RAISE, FaultKind.FLIP):
        return FaultSpec(kind, choices.randrange(config.world_size), step)
    rank = choices.randrange(config.world_size + servers)
    anywhere = kind in (FaultKind.KILL, FaultKind.STOP, FaultKind.DELAY)
    phase, round_ = choices.choice(places(config, servers, rank, anywhere))
    seconds = 0.2 if kind is FaultKind.DELAY else None
    return FaultSpec(kind, rank, step, phase, round_, seconds=seconds)


def places(
    config: RunConfig, servers: int, rank: int, anywhere: bool
) -> list[tuple[str, int | None]]:
    """Phases and rounds in which `rank` sends; with `anywhere` also where it waits or computes."""
    world_size = config.world_size
    if servers:
        if rank < world_size:
            sends, waits = ["push"], ["commit", "pull"]
        else:
            sends, waits = ["commit", "pull"], ["push", "apply", "applied"]
        found: list[tuple[str, int | None]] = [(phase, None) for phase in sends]
        if anywhere:
            found += [(phase, None) for phase in waits]
        return [*found, ("compute", None)] if anywhere and rank < world_size else found
    found = [("commit", round_) for round_ in range((world_size - 1).bit_length())]
    rounds = {"ring": world_size - 1, "two_shot": 1}.get(config.algorithm, 0)
    found += [
        (phase, round_) for phase in ("reduce_scatter", "all_gather") for round_ in range(rounds)
    ]
    if anywhere:
        found += [("compute", None), ("apply", None), ("applied", None)]
    return found
