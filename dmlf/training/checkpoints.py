"""Checkpoints in the step loop: when they are taken, who writes them, and how a run goes on.

One rank writes: the first server where there are servers, else rank 0. The other servers send it
their parts; nobody else waits for anything but that. It copies its arrays, which is what the step
loop waits for, and a thread writes the copies while training goes on.

Going on is exact. A checkpoint holds parameters and optimizer after its step to the bit, and all
else (which samples, what a model draws at random) is a function of seed and step; so the steps
after it are those that a run without interruption would have done.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.checkpoint import CheckpointStore, RunState, SamplerPosition, Snapshot, load_newest
from dmlf.checkpoint.load import candidates
from dmlf.errors import ConfigError, NoValidCheckpoint
from dmlf.protocol import Kind, Member, Move, Steps, moves_to_all, transfer
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica, of_parameters

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Steps[None]], None]


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Where and how often to save, and whether to go on from there.

    folder: on the host of the rank that writes. every_steps: 0 saves at the end of the run only,
    which every plan does. keep: how many of the newest stay. Raises ConfigError.
    """

    folder: str
    every_steps: int = 0
    keep: int = 3
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every_steps < 0:
            raise ConfigError("checkpoint_every", self.every_steps, "steps, or 0: at the end only")
        if self.keep < 1:
            raise ConfigError("checkpoint_keep", self.keep, "at least 1: the newest one stays")

    def check_folder(self) -> None:
        """Refuse to mix runs, or to start afresh where a run was to go on.

        Raises ConfigError, NoValidCheckpoint, CheckpointCorrupt.
        """
        found = candidates(Path(self.folder))
        if found and not self.resume:
            allowed = f"a folder without checkpoints (there is {found[0]}), or --resume to go on"
            raise ConfigError("checkpoint_dir", self.folder, allowed)
        if not found and self.resume:
            raise NoValidCheckpoint(self.folder, [])


def writer_of(member: Member) -> int:
    """The rank that writes checkpoints, and loads them."""
    return member.world_size if member.num_servers else 0


class Checkpointer:
    """One rank's part in the checkpoints of a run.

    run: drives a protocol between steps.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        replica: Replica,
        member: Member,
        recorder: StepRecorder,
        run: Run,
    ) -> None:
        self._plan = plan
        self._replica = replica
        self._member = member
        self._recorder = recorder
        self._run = run
        self._writes = member.rank == writer_of(member)
        self._saver: BackgroundSaver | None = None
        self._last: int | None = None

    def begin(self) -> int:
        """Go on from the newest checkpoint if the plan says so; return the first step to do.

        Raises ConfigError, CheckpointError.
        """
        first_step = 0
        if self._writes:
            self._plan.check_folder()
        if self._plan.resume:
            first_step = self._last = self._restore()
        if self._writes:
            store = CheckpointStore(
                Path(self._plan.folder), self._replica.config, keep=self._plan.keep
            )
            self._saver = BackgroundSaver(store)
        return first_step

    def after(self, step: int) -> None:
        """Save if the state after `step` steps is due; raise what went wrong with an earlier one.

        Raises CheckpointWriteError.
        """
        if self._plan.every_steps and step % self._plan.every_steps == 0:
            self._save(step)
        elif self._saver is not None:
            self._saver.check()

    def finish(self, step: int) -> None:
        """Save the state that the run ends in, unless that is done, and wait until it is durable.

        Raises CheckpointWriteError.
        """
        if self._last != step:
            self._save(step)
        if self._saver is not None:
            self._saver.close()

    def _save(self, step: int) -> None:
        """Bring the state to the writer, and have it written."""
        member, replica = self._member, self._replica
        history = self._recorder.history()
        parts = Gathered()
        writer = writer_of(member)
        moves = [Move(Kind.NOTE, 0, 0, writer)] if writer else []
        moves += [
            Move(Kind.WHOLE, part, server, writer)
            for part, server in enumerate(member.servers)
            if server != writer
        ]

        def read(move: Move) -> Sequence[Any]:
            if move.kind is Kind.NOTE:
                return [json.dumps(history).encode()]
            return packed(*replica.part(move.part))

        self._run(transfer(member, step, moves, read, parts.write))
        self._last = step
        if self._saver is None:
            return
        parameters, optimizer = replica.part(0)
        state = RunState(
            step=step,
            generation=member.generation,
            config=replica.config,
            sampler=SamplerPosition(*divmod(step, replica.sampler.steps_per_epoch)),
            user=history if parts.note is None else parts.note,
        )
        self._saver.save(
            Snapshot(
                state,
                {**parts.parameters, **copied(parameters)},
                {**parts.optimizer, **copied(optimizer)},
            )
        )

    def _restore(self) -> int:
        """Give every rank the newest checkpoint's state, which one rank loads."""
        member, replica = self._member, self._replica
        writer, parts = writer_of(member), Gathered()
        snapshot: Snapshot | None = None
        if self._writes:
            snapshot = load(self._plan, replica)
            parts.parameters.update(snapshot.parameters)
            parts.optimizer.update(snapshot.optimizer)
            parts.note = {"step": snapshot.state.step, "history": snapshot.state.user}
        moves = [
            Move(Kind.NOTE, 0, writer, rank) for rank in range(member.group_size) if rank != writer
        ]
        moves += moves_to_all(member, [writer] * max(1, member.num_servers))

        def read(move: Move) -> Sequence[Any]:
            assert snapshot is not None
            if move.kind is Kind.NOTE:
                return [json.dumps(parts.note).encode()]
            names = replica.names_of(move.part)
            parameters = {name: snapshot.parameters[name] for name in names}
            whole = move.kind is Kind.WHOLE
            return packed(parameters, of_parameters(snapshot.optimizer, names) if whole else None)

        self._run(transfer(member, 0, moves, read, parts.write))
        note = parts.note
        assert note is not None
        applies = member.rank >= member.world_size or not member.num_servers
        replica.load_state(parts.parameters, parts.optimizer if applies else None)
        self._recorder.first_step = int(note["step"])
        if member.rank == 0:
            self._recorder.go_on(note["history"])
        return int(note["step"])


def load(plan: CheckpointPlan, replica: Replica) -> Snapshot:
    """The newest valid checkpoint's content; says on standard error why newer ones were not taken.

    Raises NoValidCheckpoint, CheckpointCorrupt, and ConfigError where it is beyond the run's end.
    """
    loaded = load_newest(Path(plan.folder), replica.config)
    if loaded is None:
        raise NoValidCheckpoint(plan.folder, [])
    for error in loaded.rejected:
        print(f"dmlf: checkpoint not used: {error}", file=sys.stderr, flush=True)
    step = loaded.manifest.state.step
    if step > replica.num_steps:
        allowed = f"at least the {step} steps that {loaded.path} has done"
        raise ConfigError("max_steps", replica.num_steps, allowed)
    print(f"dmlf: going on after step {step}, from {loaded.path}", file=sys.stderr, flush=True)
    return loaded.snapshot


class BackgroundSaver:
    """Writes one snapshot at a time, in a thread; who brings the next one waits for it."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write `snapshot`, whose arrays nobody changes any more.

        Raises what went wrong with the one before.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(snapshot,), name="dmlf-checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what has gone wrong so far. Raises CheckpointWriteError."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Return when nothing is being written. Raises CheckpointWriteError."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Return when all is durable, and let go of the folder. Raises CheckpointWriteError."""
        try:
            self.wait()
        finally:
            self._store.close()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._store.save(snapshot)
        except BaseException as error:
            self._error = error


class Gathered:
    """What has come from other ranks."""

    def __init__(self) -> None:
        self.parameters: Arrays = {}
        self.optimizer: Arrays = {}
        self.note: Any = None
        self._expected: list[tuple[Arrays, str, str, tuple[int, ...]]] = []

    def write(self, move: Move, index: int, payload: Any) -> None:
        """Keep a copy of a payload of `packed`, or a note."""
        if move.kind is Kind.NOTE:
            self.note = json.loads(payload)
        elif index == 0:
            into = {"parameters": self.parameters, "optimizer": self.optimizer}
            self._expected = [
                (into[group], name, dtype, tuple(shape))
                for group, name, dtype, shape in json.loads(payload)
            ]
        else:
            target, name, dtype, shape = self._expected[index - 1]
            target[name] = np.array(payload).view(dtype).reshape(shape)


def packed(
    parameters: Mapping[str, npt.NDArray[Any]], optimizer: Mapping[str, npt.NDArray[Any]] | None
) -> list[Any]:
    """Payloads of named arrays: a table of groups, names, dtypes and shapes, then their bytes."""
    named = [("parameters", *item) for item in parameters.items()]
    named += [("optimizer", *item) for item in (optimizer or {}).items()]
    table = [(group, name, array.dtype.str, array.shape) for group, name, array in named]
    arrays = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, _, array in named]
    return [json.dumps(table).encode(), *arrays]


def copied(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Copies of all arrays."""
    return {name: array.copy() for name, array in arrays.items()}
