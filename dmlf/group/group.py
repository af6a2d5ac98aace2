"""A group of ranks that users drive themselves, one collective after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dmlf.errors import (
    CollectiveMismatch,
    ConfigError,
    GroupClosed,
    NonFiniteGradient,
    SchemaMismatch,
)
from dmlf.group.arrays import Operand
from dmlf.group.single import SingleBucket
from dmlf.numerics import OPERATIONS, ElementwiseAccumulator, ExactAccumulator
from dmlf.protocol import (
    Accumulator,
    Algorithm,
    Member,
    Phase,
    Steps,
    Tag,
    agree,
    agree_on_call,
    all_gather,
    broadcast,
    confirm_equal,
    registry,
)
from dmlf.runtime import Driver, Local
from dmlf.transport import Transport

Result = TypeVar("Result")
_HARMLESS = (CollectiveMismatch, NonFiniteGradient)
"""What all ranks raise alike, after which they still are at the same place."""
MAX_TIMEOUT_S = 86_400.0


class Group:
    """One process's place among `world_size` ranks, and the collectives that they do together.

    All ranks make the same calls in the same order. Every call first agrees on what is called
    (operation, dtype, shape), so that ranks which differ all raise CollectiveMismatch and nothing
    is exchanged; that costs ceil(log2 W) short messages. Each wait lasts at most `timeout_s`, then
    raises DeadlineExceeded. An error that leaves ranks apart breaks the group: later calls raise
    GroupClosed.

    algorithm: the name of the all-reduce to use, any registered one without servers.
    generation: that of the ranks, where they are begun anew after a failure.
    interrupt: called several times a second while waiting; ends the call by raising.
    Calls from several threads come one after the other. Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        transport: Transport,
        rank: int,
        world_size: int,
        *,
        timeout_s: float = 300.0,
        algorithm: str = "ring",
        generation: int = 0,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = check_timeout(timeout_s)
        self.algorithm = all_reduce_named(algorithm)
        self._transport: Transport | None = transport
        self._interrupt = interrupt
        self._member = Member(rank, world_size, generation=generation)
        self._calls = 0
        self._cause: str | None = None  # what broke the group
        self._registers = False  # whether others may read the caller's own memory
        self._turn = threading.RLock()

    @property
    def calls(self) -> int:
        """How many collectives have been called, on this rank as on all."""
        return self._calls

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def allocate(self, numel: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """A vector of zeros [numel] that this group sends without a copy; it lives as long."""
        with self._turn:
            self._registers = True
            return self._open("allocate").allocate(numel, dtype)

    def all_reduce(self, value: Any, op: str = "sum", *, reduction: str = "float32") -> Any:
        """Replace `value` by its sum (product, min, max, mean) over all ranks; return it.

        value: a numpy array or torch tensor of numbers, of the same dtype and shape on all ranks.
        reduction: `exact` makes the sum of float32 values independent of order and grouping (see
        `dmlf.exact_sum`). `float32` adds in the published order of the algorithm, in the value's
        own dtype (bfloat16: in float32). `mean` divides the sum by the world size.
        Cost: that of the algorithm, and two agreements.
        Raises ConfigError before anything is sent; CollectiveMismatch, DeadlineExceeded,
        GroupClosed.
        """
        operand = Operand(value)
        operand.check_writable()
        base = "sum" if op == "mean" else op
        if base not in OPERATIONS:
            raise ConfigError("op", op, ", ".join([*OPERATIONS, "mean"]))
        if op == "mean" and operand.flat.dtype.kind not in "fc":
            raise ConfigError("op", op, f"one of {', '.join(OPERATIONS)} for {operand.text}")
        if reduction not in ("float32", "exact"):
            raise ConfigError("reduction", reduction, "float32 or exact")
        bucket: Accumulator
        if reduction == "exact":
            if base != "sum" or operand.flat.dtype != np.float32:
                raise ConfigError("reduction", reduction, f"float32 for {op} of {operand.text}")
            everything = [slice(0, operand.flat.size)]
            row = operand.flat.reshape(1, -1)
            bucket = ExactAccumulator(self.rank, row, everything, self.world_size, operand.flat)
        else:
            bucket = ElementwiseAccumulator(self.rank, operand.flat, base)
        self.step(f"all_reduce({op}, {operand.text}, {reduction})", SingleBucket(bucket), 1)
        if op == "mean":
            operand.flat /= operand.flat.dtype.type(self.world_size)
        operand.write_back()
        return value

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Replace `value` on every rank by that of rank `root`; return it.

        value: as in `all_reduce`. Cost: at most ceil(log2 W) messages sent by a rank.
        """
        self._check_root(root)
        operand = Operand(value)
        operand.check_writable()
        flat = operand.flat

        def write(_src: int, payload: Any) -> None:
            flat[...] = self._fitting(payload, flat)

        self.call(
            f"broadcast({operand.text} from rank {root})",
            lambda at: broadcast(self._member, at, root, lambda _src: flat, write),
        )
        operand.write_back()
        return value

    def all_gather(self, value: Any) -> Any:
        """The values of all ranks, in the order of ranks: [world_size, *shape], a new array.

        value: as in `all_reduce`. Cost: W - 1 messages a rank, of the size of `value`.
        """
        operand = Operand(value)
        blocks = np.empty((self.world_size, operand.flat.size), operand.flat.dtype)
        blocks[self.rank] = operand.flat

        def write(src: int, payload: Any) -> None:
            blocks[src] = self._fitting(payload, operand.flat)

        self.call(
            f"all_gather({operand.text})",
            lambda at: all_gather(self._member, at, blocks.__getitem__, write),
        )
        return operand.like(blocks, self.world_size)

    def barrier(self) -> None:
        """Return when all ranks have called this."""
        self.call("barrier()", _nothing)

    def confirm_equal(self, subject: str, digest: bytes) -> None:
        """Return if `digest` (SHA-256) is the same on all ranks.

        Raises SchemaMismatch, naming `subject`, on all ranks otherwise.
        """
        self.call(
            f"confirm_equal({subject})",
            lambda at: confirm_equal(self._member, at.step, [digest], subject),
        )

    def step(
        self, text: str, local: Local, num_buckets: int, algorithm: Algorithm | None = None
    ) -> None:
        """Sum the buckets of `local` over all ranks, commit, and let it apply: one training step.

        text: what all ranks must be about to do alike.
        Raises NonFiniteGradient, on all ranks, when a sum is not finite; nothing is then applied.
        """
        worker_step = (algorithm or self.algorithm).worker_step
        self.call(text, lambda at: worker_step(self._member, at.step, num_buckets), local)

    def call(
        self, text: str, protocol: Callable[[Tag], Steps[Result]], local: Local | None = None
    ) -> Result:
        """Run `protocol(at)` as the next collective of the group, once all ranks call `text`.

        at: the tag of the call; its `step` is the call's number. local: fulfils the effects that
        are not messages; its step must end with a commit where it sends registered vectors.
        """
        with self._turn:
            transport = self._open(text)
            at = Tag(self._member.generation, self._calls, 0, Phase.CALL, 0, self.rank)
            driver = Driver(
                transport, local or SingleBucket(None), self.timeout_s, interrupt=self._interrupt
            )
            try:
                driver.run(agree_on_call(self._member, at, text))
                result = driver.run(protocol(at))
                if self._registers and local is None:  # a step's commit is a barrier already
                    driver.run(_barrier(self._member, at))
            except _HARMLESS:
                raise
            except BaseException as error:
                self._cause = str(error) or type(error).__name__
                raise
            finally:
                self._calls += 1
            return result

    def close(self) -> None:
        """Deliver what was sent and free the links; a closed group cannot be used again."""
        with self._turn:
            transport, self._transport = self._transport, None
            if transport is None:
                return
            if self._cause is None:
                transport.close()
            else:
                transport.abandon()

    def abandon(self) -> None:
        """Free the links at once, whatever is on the way."""
        with self._turn:
            transport, self._transport = self._transport, None
            if transport is not None:
                transport.abandon()

    def _open(self, call: str) -> Transport:
        if self._transport is None or self._cause is not None:
            raise GroupClosed(call, self._cause)
        return self._transport

    def _check_root(self, root: int) -> None:
        if isinstance(root, bool) or not 0 <= root < self.world_size:
            raise ConfigError("root", root, f"a rank, 0 to {self.world_size - 1}")

    def _fitting(self, payload: Any, flat: npt.NDArray[Any]) -> Any:
        if (
            isinstance(payload, np.ndarray)
            and payload.shape == flat.shape
            and payload.dtype == flat.dtype
        ):
            return payload
        raise SchemaMismatch(self.rank, f"{flat.dtype}{list(flat.shape)}", payload, "a block")


def _nothing(_at: Tag) -> Steps[None]:
    yield from ()


def _barrier(member: Member, at: Tag) -> Steps[None]:
    start = at.of(Phase.COMMIT, 0, member.rank)
    everyone = range(member.world_size)
    yield from agree(member, everyone, start, lambda: b"", lambda _payload: None)


def check_timeout(timeout_s: float) -> float:
    """Return `timeout_s`. Raises ConfigError if nobody can wait that long, or at all."""
    if isinstance(timeout_s, bool) or not 0.0 < timeout_s <= MAX_TIMEOUT_S:
        allowed = f"seconds above 0, to {MAX_TIMEOUT_S:.0f}"
        raise ConfigError("timeout_s", timeout_s, allowed)
    return timeout_s


def usable_algorithms() -> list[str]:
    """The names of the registered algorithms without servers."""
    return [name for name, algorithm in registry().items() if not algorithm.has_servers]


def all_reduce_named(name: str) -> Algorithm:
    """The registered algorithm `name`. Raises ConfigError if it has servers or is none."""
    if name not in usable_algorithms():
        raise ConfigError(
            "algorithm", name, f"one without servers: {', '.join(usable_algorithms())}"
        )
    return registry()[name]
