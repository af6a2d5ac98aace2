"""Every exception that dmlf raises on purpose.

DmlfError
|-- ConfigError              a value that the user gave (key, value, allowed)
|-- DependencyMissing        an optional package is absent or broken (package, reason, install)
|-- DatasetError             a data file is absent, damaged or not what it claims (path)
|-- ProtocolError            a message or a call breaks the protocol (rank, expected, received)
|   |-- GenerationMismatch
|   |-- StepMismatch
|   |-- BucketMismatch
|   |-- PhaseMismatch
|   |-- RoundMismatch
|   |-- SourceMismatch
|   |-- SchemaMismatch       shape, dtype, configuration or initial state differ between ranks
|   `-- ReplicaDivergence    replicas that must hold equal bits do not
|-- NonFiniteGradient        NaN or infinity in a step's gradient; the step was not applied (step)
|-- TransportError
|   |-- PeerLost             a peer's process is gone (peer)
|   `-- DeadlineExceeded     nothing came within the timeout (peer, timeout_s)
|-- WrongSum                 an all-reduce that is benchmarked gave a wrong sum (contestant, rank)
|-- RemoteError              user code failed on another rank (rank, traceback)
|-- MetricsError             a metrics file is not valid (path, field)
|-- TranscriptError          a transcript is truncated, altered or of another run (path)
`-- SimulationFailure        an invariant broke under simulation (invariant, seed, schedule)

A message says what was wrong, where, and what to do; programs read the fields instead.
"""

from __future__ import annotations

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
            "raise --timeout-s if steps take that long"
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


class SimulationFailure(DmlfError):
    """An invariant broke in a simulated schedule."""

    def __init__(self, invariant: str, detail: str, seed: int | None = None) -> None:
        self.invariant = invariant
        self.detail = detail
        self.seed = seed
        origin = "" if seed is None else f" (seed {seed})"
        super().__init__(f"invariant {invariant} broke{origin}: {detail}")
