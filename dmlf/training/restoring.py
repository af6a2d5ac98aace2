"""How a group comes by the state of its run: from those that hold it, from disk, or from the seed.

Commit is a barrier: no rank applies a step before every rank's gradient is in its sum, and none
begins the next one before that. So where a generation ends at any moment, what its ranks hold
differs by one step at most, and each holds exactly the state after some step: `Apply` is the only
place that changes it, and nothing interrupts that. The newest step that is held in full wins. Who
is behind gets its state, and does not do the step again; who was ahead has done it already; so
every step is done once by everybody in the sequence of states that the run is. Which samples a step
takes, and what a model draws at random in it, are functions of seed and step alone. Hence no sample
is lost or used twice, and the bits are those of a run that nothing has disturbed.

None of that speaks of how many ranks there are: a generation may have fewer or more workers than
the last one, who compute the logical shards of a step in other shares. An exact sum does not depend
on the shares, so the bits stay; a float32 sum does.

Where the state is not held in full by those who are left (a server took its part of the optimizer
with it), or is not to be trusted (replicas have diverged), all go back to the newest valid
checkpoint, and do the steps after it again, from the same state, to the same bits. If the run has
saved none, they go back to the start: it is a function of the seed. That replicas have diverged may
be seen here first: before a state is spread, the hashes of all who hold it are compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmlf.checkpoint import load_newest
from dmlf.errors import ConfigError, NoValidCheckpoint
from dmlf.protocol import (
    Holding,
    Kind,
    Member,
    Move,
    Steps,
    agree_holdings,
    moves_to_all,
    newest_sources,
    transfer,
)
from dmlf.training.checkpoints import CheckpointPlan, Run, writer_of
from dmlf.training.packing import Gathered, packed
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Arrays, Replica, make_backend, of_parameters


@dataclass(frozen=True, slots=True)
class Restored:
    """After how many steps a run goes on, with the state of what, and its history so far.

    durable: whether a checkpoint holds that state. history: see `StepRecorder.history`; None where
    it is not known here.
    """

    step: int
    source: str
    durable: bool
    history: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _State:
    """A whole state in the memory of one rank."""

    parameters: Arrays
    optimizer: Arrays
    restored: Restored


def restore(
    replica: Replica,
    member: Member,
    run: Run,
    plan: CheckpointPlan | None,
    own: Holding | None,
    saved: int | None,
) -> Restored:
    """Give every rank the newest state there is; all ranks call it together.

    own: what this rank holds that may be used. saved: the step of the run's last checkpoint, on
    whichever host it is. Raises ReplicaDivergence, before anything is changed, where ranks hold
    other bits of the newest step; NoValidCheckpoint where there are checkpoints and none can be
    used, or there is none, though the run has saved some or was to go on from one; ConfigError
    where it is beyond the run's end.
    """
    holdings: dict[int, Holding] = {}

    def find() -> Steps[None]:
        holdings.update((yield from agree_holdings(member, own)))

    run(find())
    found = newest_sources(holdings, max(1, member.num_servers))
    if found is None:
        return _from_one_rank(replica, member, run, plan, saved)
    step, sources = found
    _spread(replica, member, run, sources, None, step)
    names = ", ".join(f"rank {rank}" for rank in sorted(set(sources)))
    return Restored(step, f"the memory of {names}", False, None)


def _from_one_rank(
    replica: Replica, member: Member, run: Run, plan: CheckpointPlan | None, saved: int | None
) -> Restored:
    """Spread a checkpoint, or the start, from the rank that can read checkpoints."""
    source = writer_of(member)
    state = _load(replica, plan, saved) if member.rank == source else None
    noted = Gathered()
    if state is not None:
        noted.note = asdict(state.restored)
    moves = [
        Move(Kind.NOTE, 0, source, rank) for rank in range(member.group_size) if rank != source
    ]
    run(transfer(member, 0, moves, lambda _: [json.dumps(noted.note).encode()], noted.write))
    restored = Restored(**noted.note)
    _spread(replica, member, run, [source] * max(1, member.num_servers), state, restored.step)
    return restored


def _spread(
    replica: Replica,
    member: Member,
    run: Run,
    sources: Sequence[int],
    state: _State | None,
    step: int,
) -> None:
    """Move each part from its source to all that need it, and take over what came.

    state: what this rank sends of, and takes over itself; None: of its replica.
    """
    came = Gathered()

    def read(move: Move) -> Sequence[Any]:
        if state is None:
            parameters, optimizer = replica.part(move.part)
        else:
            names = replica.names_of(move.part)
            parameters = {name: state.parameters[name] for name in names}
            optimizer = of_parameters(state.optimizer, names)
        return packed(parameters, optimizer if move.kind is Kind.WHOLE else None)

    moves = moves_to_all(member, sources)
    run(transfer(member, step, moves, read, came.write))
    applies = member.rank >= member.world_size or not member.num_servers
    if state is not None:
        replica.load_state(state.parameters, state.optimizer if applies else None, step)
    elif any(move.dst == member.rank for move in moves):
        replica.load_state(came.parameters, came.optimizer if applies else None, step)


def _load(replica: Replica, plan: CheckpointPlan | None, saved: int | None) -> _State:
    """The newest valid checkpoint, or the start; says on standard error why newer ones were not."""
    loaded = None
    if plan is not None:
        loaded = load_newest(Path(plan.folder), replica.config)
        if loaded is None and (plan.resume or saved is not None):
            raise NoValidCheckpoint(plan.folder, [], saved)
    if loaded is None:
        backend = make_backend(replica.config)
        start = Restored(0, "the start, which the seed decides", False, StepRecorder().history())
        return _State(backend.parameters(), backend.optimizer_state(), start)
    for error in loaded.rejected:
        print(f"dmlf: checkpoint not used: {error}", file=sys.stderr, flush=True)
    snapshot, step = loaded.snapshot, loaded.manifest.state.step
    if step > replica.num_steps:
        allowed = f"at least the {step} steps that {loaded.path} has done"
        raise ConfigError("max_steps", replica.num_steps, allowed)
    restored = Restored(step, f"checkpoint {loaded.path}", True, snapshot.state.user)
    return _State(snapshot.parameters, snapshot.optimizer, restored)
