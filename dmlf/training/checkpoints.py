"""Checkpoints in the step loop: when they are taken, and who writes them.

One rank writes: the first server where there are servers, else rank 0. The other servers send it
their parts; nobody else waits for anything but that. It copies its arrays, which is what the step
loop waits for, and a thread writes the copies while training goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.checkpoint import CheckpointStore, RunState, SamplerPosition, Snapshot, Verified
from dmlf.checkpoint.load import candidates
from dmlf.errors import ConfigError, NoValidCheckpoint
from dmlf.protocol import Kind, Member, Move, Steps, transfer
from dmlf.runtime.faults import Injector
from dmlf.runtime.member import Line
from dmlf.training.background_saver import BackgroundSaver
from dmlf.training.faulty_disk import FaultyDisk
from dmlf.training.packing import Copies, Gathered, packed
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica

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

    run: drives a protocol between steps. confirm: raises ReplicaDivergence, on all ranks, where
    they do not hold the same state: what is saved was held by all. line: looked at for an order to
    stop while it waits for the disk, and told what has been saved. verified: the checkpoints that
    this process need not read again; those of the folder once it has been let go of.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        replica: Replica,
        member: Member,
        recorder: StepRecorder,
        run: Run,
        confirm: Callable[[int], None],
        injector: Injector | None = None,
        line: Line | None = None,
        verified: Verified = frozenset(),
    ) -> None:
        self.verified = verified
        self._plan = plan
        self._replica = replica
        self._member = member
        self._recorder = recorder
        self._run = run
        self._confirm = confirm
        self._injector = injector
        self._line = line
        self._disk = FaultyDisk()
        self._writes = member.rank == writer_of(member)
        self._saver: BackgroundSaver | None = None
        self._parameters, self._optimizer = Copies(), Copies()
        self._last: int | None = None

    def begin(self, saved: int | None) -> None:
        """Open the folder, on the rank that writes. Raises CheckpointError.

        saved: the step of the checkpoint that the run goes on from; it is not saved again.
        """
        self._last = saved
        if self._writes:
            store = CheckpointStore(
                Path(self._plan.folder),
                self._replica.config,
                keep=self._plan.keep,
                verified=self.verified,
                files=self._disk,
            )
            self._saver = BackgroundSaver(store, self._line)

    def after(self, step: int) -> None:
        """Save if the state after `step` steps is due; raise what went wrong with an earlier one.

        Raises CheckpointWriteError.
        """
        if self._plan.every_steps and step % self._plan.every_steps == 0:
            self._save(step)
        elif self._saver is not None:
            self._saver.check()

    def abandon(self) -> None:
        """End what is being written, well or not, and let go of the folder; raises nothing."""
        if self._saver is not None:
            self.verified = self._saver.abandon()

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
        self._confirm(step)
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
        self._saver.wait()  # what it writes lies in the memory that is to be copied to
        if self._injector is not None and self._injector.disk_is_full(step):
            self._disk.full = True
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
                {**parts.parameters, **self._parameters.made_of(parameters)},
                {**parts.optimizer, **self._optimizer.made_of(optimizer)},
            )
        )
