"""Every exception that dmlf raises on purpose.

DmlfError
|-- ConfigError              a value that the user gave (key, value, allowed)
|-- DependencyMissing        an optional package is absent or broken (package, reason, install)
|-- PluginError              a plug-in is broken, or claims a taken name (kind, name, owner)
|-- DatasetError             a data file is absent, damaged or not what it claims (path)
|-- ProtocolError            a message or a call breaks the protocol (rank, expected, received)
|   |-- GenerationMismatch
|   |-- StepMismatch
|   |-- BucketMismatch
|   |-- PhaseMismatch
|   |-- RoundMismatch
|   |-- SourceMismatch
|   |-- SchemaMismatch       shape, dtype, configuration or initial state differ between ranks
|   |-- CollectiveMismatch   ranks of a group called different collectives
|   `-- ReplicaDivergence    replicas that must hold equal bits do not
|-- GroupClosed              a group is used that is not open, or that an error broke (cause)
|-- NonFiniteGradient        NaN or infinity in a step's gradient; the step was not applied (step)
|-- CollectiveAborted        this rank was told to stop its generation (generation)
|-- RestartBudgetExceeded    the run was restarted as often as allowed (max_restarts, cause)
|-- BelowMinimumWorkers      too few workers are left to go on (present, min_workers, waited_s)
|-- TransportError
|   |-- PeerLost             a peer's process is gone (peer)
|   |-- DeadlineExceeded     nothing came within the timeout (peer, timeout_s)
|   |-- NoAnswer             the other end of a channel is silent (peer, timeout_s)
|   |-- AddressUnavailable   an address cannot be listened on (host, port)
|   |-- RendezvousError      ranks did not come together in time (rank, missing)
|   |-- AuthenticationError  a connection did not prove that it belongs here (peer)
|   |-- FrameError           bytes that are no frame of this link (peer, field, value)
|   `-- ChecksumMismatch     a frame was altered on its way (peer, part)
|-- WrongSum                 an all-reduce that is benchmarked gave a wrong sum (contestant, rank)
|-- RemoteError              user code failed on another rank (rank, traceback)
|-- ScriptExited             a script under `dmlf run` ended with an exit code (rank, code)
|-- RunInterrupted           a signal stopped the run between two steps (number, step, folder)
|-- MetricsError             a metrics file is not valid (path, field)
|-- TranscriptError          a transcript is truncated, altered or of another run (path)
|-- UnsupportedState         a value that no checkpoint can keep (item, found)
|-- CheckpointError          (path, problem)
|   |-- CheckpointCorrupt    a checkpoint is incomplete, damaged or not what it claims
|   |-- CheckpointMismatch   a whole checkpoint, of another run
|   |-- CheckpointWriteError a checkpoint could not be written; earlier ones are as they were
|   `-- NoValidCheckpoint    a run is to go on, and no checkpoint can be used (rejected)
|       `-- NoCheckpoint     there is none at all, to load a user's own loop from
`-- SimulationFailure        an invariant broke under simulation (invariant, seed, schedule)

A message says what was wrong, where, and what to do; programs read the fields instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class DmlfError(Exception):
    """Base of every error that dmlf raises on purpose; anything else is a bug."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with all fields; the default would call __init__ anew."""
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[DmlfError], args: tuple[Any, ...]) -> DmlfError:
    error = cls.__new__(cls)
    error.args = args
    return error


class ConfigError(DmlfError):
    """A configuration value is not allowed."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        self.key = key
        self.value = value
        self.allowed = allowed
        super().__init__(f"{key}: {value!r} is not allowed; expected {allowed}")


class DependencyMissing(DmlfError):
    """An optional package is needed and is absent or does not load."""

    def __init__(self, package: str, reason: str, install: str) -> None:
        self.package = package
        self.reason = reason
        self.install = install
        super().__init__(f"{package} is needed but {reason}; install it with: {install}")


class PluginError(DmlfError):
    """An algorithm, task or transport of somebody else cannot be used.

    kind: what it would be. owner: the distribution, or module, that claims the name.
    """

    def __init__(self, kind: str, name: str, owner: str, problem: str) -> None:
        self.kind = kind
        self.name = name
        self.owner = owner
        self.problem = problem
        super().__init__(f"{kind} {name!r} of {owner}: {problem}")


class DatasetError(DmlfError):
    """A data file is absent, damaged, or not what it claims to be."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class ProtocolError(DmlfError):
    """A message differs from the one that the protocol expects next."""

    def __init__(self, rank: int, expected: object, received: object, detail: str = "") -> None:
        self.rank = rank
        self.expected = expected
        self.received = received
        self.detail = detail
        suffix = f" ({detail})" if detail else ""
        super().__init__(f"rank {rank} expected {expected}, received {received}{suffix}")


class GenerationMismatch(ProtocolError):
    """The message belongs to another membership generation."""


class StepMismatch(ProtocolError):
    """The message belongs to another training step."""


class BucketMismatch(ProtocolError):
    """The message belongs to another bucket."""


class PhaseMismatch(ProtocolError):
    """The message belongs to another phase."""


class RoundMismatch(ProtocolError):
    """The message belongs to another round of the phase."""


class SourceMismatch(ProtocolError):
    """The message was sent by another rank than the protocol names."""


class SchemaMismatch(ProtocolError):
    """Payload shape or dtype, or the configuration of two ranks, differ."""


class CollectiveMismatch(ProtocolError):
    """Ranks of a group called different collectives, or the same with other shapes or dtypes.

    All ranks raise it alike, and the group can be used on.
    """

    def __init__(self, rank: int, own: str, other_rank: int, other: str, call: int) -> None:
        super().__init__(rank, own, other)
        self.other_rank = other_rank
        self.call = call
        self.args = (
            f"call {call} of the group: rank {rank} called {own}, but rank {other_rank} called "
            f"{other}; all ranks must make the same calls in the same order",
        )


class GroupClosed(DmlfError):
    """A group is used after it was closed, or after an error (`cause`) left its ranks apart."""

    def __init__(self, call: str, cause: str | None = None) -> None:
        self.call = call
        self.cause = cause
        why = "it was closed" if cause is None else cause
        super().__init__(
            f"{call}: the group is not open ({why}); call dmlf.init, or make another group"
        )


class NonFiniteGradient(DmlfError):
    """The gradient of a step holds NaN or infinity; no rank applied the step."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"step {step}: the gradient holds NaN or infinity, so no rank applied it; "
            "lower the learning rate or check the data and the loss"
        )


class ReplicaDivergence(ProtocolError):
    """Replicas that must hold equal bits do not."""


class CollectiveAborted(DmlfError):
    """This rank was told to stop: its generation has lost a rank, or one has failed."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        super().__init__(f"generation {generation} was stopped")


class RestartBudgetExceeded(DmlfError):
    """The run was restarted as often as it may be; `cause` is what ended it the first time."""

    def __init__(self, max_restarts: int, cause: DmlfError) -> None:
        self.max_restarts = max_restarts
        self.cause = cause
        super().__init__(
            f"{cause}; that was first, and the run was restarted {max_restarts} times since, "
            "as often as --max-restarts allows"
        )


class BelowMinimumWorkers(DmlfError):
    """Fewer workers are left than the run needs, and no others came in time."""

    def __init__(self, present: int, min_workers: int, waited_s: float) -> None:
        self.present = present
        self.min_workers = min_workers
        self.waited_s = waited_s
        waited = f", and no other came within {waited_s:g} s" if waited_s else ""
        super().__init__(
            f"{present} worker{'s' * (present != 1)} left, fewer than --min-workers "
            f"{min_workers}{waited}; go on from a checkpoint with --resume, or with a lower minimum"
        )


class TransportError(DmlfError):
    """A message could not be delivered."""


class PeerLost(TransportError):
    """A peer's process ended before its part was done."""

    def __init__(self, peer: str, detail: str) -> None:
        self.peer = peer
        self.detail = detail
        super().__init__(f"{peer} is gone: {detail}")


class DeadlineExceeded(TransportError):
    """Nothing came from a peer within the timeout."""

    def __init__(self, rank: int, peer: int, timeout_s: float) -> None:
        self.rank = rank
        self.peer = peer
        self.timeout_s = timeout_s
        super().__init__(
            f"rank {rank} waited {timeout_s:g} s for rank {peer}; "
            "raise the timeout (--timeout-s) if steps take that long"
        )


class NoAnswer(TransportError):
    """The other end of a channel did not do its part within the timeout."""

    def __init__(self, peer: str, timeout_s: float, detail: str = "") -> None:
        self.peer = peer
        self.timeout_s = timeout_s
        self.detail = detail
        suffix = f" ({detail})" if detail else ""
        super().__init__(f"{peer} did not answer within {timeout_s:g} s{suffix}; is it running?")


class AddressUnavailable(TransportError):
    """An address cannot be listened on."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        super().__init__(
            f"cannot listen on {host}:{port}: {reason}; choose another port, or 0 for a free one"
        )


class RendezvousError(TransportError):
    """Some ranks of a group did not come within the timeout; `rank` is None at a coordinator."""

    def __init__(
        self, rank: int | None, missing: list[int], timeout_s: float, detail: str = ""
    ) -> None:
        self.rank = rank
        self.missing = missing
        self.timeout_s = timeout_s
        self.detail = detail
        who = "the coordinator" if rank is None else f"rank {rank}"
        ranks = ", ".join(map(str, missing))
        suffix = f" ({detail})" if detail else ""
        super().__init__(
            f"{who} waited {timeout_s:g} s to connect with rank {ranks}{suffix}; "
            "were all ranks started, with the same addresses?"
        )


class AuthenticationError(TransportError):
    """A connection did not prove that it holds the group's key and belongs here."""

    def __init__(self, peer: str, detail: str) -> None:
        self.peer = peer
        self.detail = detail
        super().__init__(f"{peer} is not authenticated: {detail}")


class FrameError(TransportError):
    """Bytes are not a frame that this link may carry."""

    def __init__(self, peer: str, field: str, value: object, allowed: str) -> None:
        self.peer = peer
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"frame of {peer}: {field} is {value!r}; expected {allowed}")


class ChecksumMismatch(TransportError):
    """A frame's bytes are not those that were sent; `part` is `header` or `payload`."""

    def __init__(self, peer: str, part: str) -> None:
        self.peer = peer
        self.part = part
        super().__init__(
            f"frame of {peer}: the {part} does not match its checksum; "
            "it was altered on its way, so look at memory and network of both hosts"
        )


class WrongSum(DmlfError):
    """An all-reduce under measurement gave something else than the sum; its time means nothing."""

    def __init__(self, contestant: str, rank: int, detail: str) -> None:
        self.contestant = contestant
        self.rank = rank
        self.detail = detail
        super().__init__(f"{contestant} gave a wrong sum on rank {rank}: {detail}")


class RemoteError(DmlfError):
    """Code on another rank raised; `traceback` is that rank's own."""

    def __init__(self, rank: int, error: str, traceback: str) -> None:
        self.rank = rank
        self.error = error
        self.traceback = traceback
        super().__init__(f"rank {rank} failed: {error}")


class ScriptExited(DmlfError):
    """A script ended by `sys.exit(code)`, which was not 0, on `rank`."""

    def __init__(self, rank: int, code: int) -> None:
        self.rank = rank
        self.code = code
        super().__init__(f"the script of rank {rank} ended with exit code {code}")


class RunInterrupted(DmlfError):
    """A signal stopped the run after `step` steps, which a checkpoint in `folder` holds."""

    def __init__(self, number: int, step: int, folder: str) -> None:
        self.number = number
        self.step = step
        self.folder = folder
        super().__init__(
            f"stopped by signal {number} after {step} steps; "
            f"they are kept in {folder}: go on with --resume"
        )


class MetricsError(DmlfError):
    """A metrics file does not follow the schema."""

    def __init__(self, path: str, field: str, problem: str) -> None:
        self.path = path
        self.field = field
        self.problem = problem
        super().__init__(f"{path}: {field}: {problem}")


class TranscriptError(DmlfError):
    """A transcript is truncated, altered, or belongs to another run."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class UnsupportedState(DmlfError):
    """A value that was to be saved cannot be kept; nothing was written. item: where it stands."""

    def __init__(self, item: str, found: str) -> None:
        self.item = item
        self.found = found
        super().__init__(
            f"{item}: {found}, which a checkpoint cannot keep; leave it out, or put numbers, "
            "text, lists, dicts, numpy arrays or torch tensors in its place"
        )


class CheckpointError(DmlfError):
    """Something is wrong with a checkpoint or a folder of checkpoints."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class CheckpointCorrupt(CheckpointError):
    """A checkpoint is incomplete, damaged, or not what it claims to be."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint is whole, but of another run than the one that asks for it."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written; those that were there before are as they were."""


class NoValidCheckpoint(CheckpointError):
    """A run is to go on, and no checkpoint can be used; `rejected` says why, newest first.

    saved: the step of a checkpoint that the run has saved, and which is not there.
    """

    def __init__(
        self, path: str, rejected: Sequence[CheckpointError], saved: int | None = None
    ) -> None:
        self.rejected = tuple(rejected)
        self.saved = saved
        reasons = "; ".join(str(error) for error in self.rejected)
        problem = f"no usable checkpoint among {len(self.rejected)}: {reasons}"
        if saved is not None:
            problem = f"no checkpoint is here, and the run has saved one after {saved} steps; "
            problem += "all hosts whose workers may write must share the folder"
        elif not self.rejected:
            problem = "no checkpoint to go on from; start without --resume, or name its folder"
        super().__init__(path, problem)


class NoCheckpoint(NoValidCheckpoint):
    """There is none at all, not even a damaged one: a user's own loop may begin anew."""

    def __init__(self, path: str) -> None:
        super().__init__(path, ())


class SimulationFailure(DmlfError):
    """An invariant broke in a simulated schedule."""

    def __init__(self, invariant: str, detail: str, seed: int | None = None) -> None:
        self.invariant = invariant
        self.detail = detail
        self.seed = seed
        origin = "" if seed is None else f" (seed {seed})"
        super().__init__(f"invariant {invariant} broke{origin}: {detail}")
