"""A group of ranks that users drive themselves, one collective after the other."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from dmlf.errors import (
    CollectiveMismatch,
    ConfigError,
    DeadlineExceeded,
    GroupClosed,
    NonFiniteGradient,
    ProtocolError,
    SchemaMismatch,
    TransportError,
)
from dmlf.group.arrays import Operand, check_dtype
from dmlf.group.single import SingleBucket
from dmlf.numerics import ElementwiseAccumulator, ExactAccumulator
from dmlf.protocol import (
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
    leave,
    registry,
    why_left,
)
from dmlf.runtime import Driver, Local
from dmlf.transport import Transport

Result = TypeVar("Result")
Value = TypeVar("Value")
"""A numpy array or torch tensor."""
_HARMLESS = (CollectiveMismatch, NonFiniteGradient)
"""What all ranks raise alike, after which they still are at the same place."""
MAX_TIMEOUT_S = 86_400.0
LAST_WORD_S = 1.0
"""How much longer than `timeout_s` a rank listens to one that may know who is missing."""


class Group:
    """One process's place among `world_size` ranks, and the collectives that they do together.

    All ranks make the same calls in the same order. Every call first agrees on what is called
    (operation, dtype, shape), so that ranks which differ all raise CollectiveMismatch and nothing
    is exchanged; that costs ceil(log2 W) short messages. Each wait lasts at most `timeout_s`, then
    raises DeadlineExceeded. An error that leaves ranks apart breaks the group: later calls raise
    GroupClosed, as do the calls of ranks that others have left behind.

    algorithm: the name of the all-reduce to use, any registered one without servers.
    generation: that of the ranks, where they are begun anew after a failure.
    interrupt: called several times a second while waiting; ends the call by raising.
    Calls from several threads come one after the other; a process that was forked from this one
    has no place in the group. Use it as a context manager, or `close` it.
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
        self.member = Member(rank, world_size, generation=generation)
        self.joint: Group | None = None  # of these ranks and their parameter servers
        self._transport: Transport | None = transport
        self._interrupt = interrupt
        self._local: Local = SingleBucket(None)
        self._driver = self._make_driver(transport)
        self._process = os.getpid()
        self._calls = 0
        self._cause: str | None = None  # what broke the group
        self._registers = False  # whether others may read the caller's own memory
        self._turn = threading.RLock()
        self._calling = False

    @property
    def is_server(self) -> bool:
        """Whether this process is a parameter server, and no rank of the group."""
        return self.rank >= self.world_size

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

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: the links belong to this process, and are there once."""
        raise ConfigError("group", "a copy or a pickle", "the group itself, in its own process")

    def allocate(self, numel: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """A vector of zeros [numel] that this group sends without a copy; it lives as long."""
        if isinstance(numel, bool) or not isinstance(numel, int | np.integer) or numel < 0:
            raise ConfigError("numel", numel, "a whole number, at least 0")
        check_dtype(dtype)
        with self._turn:
            transport = self._open("allocate")
            self._registers = True
            return transport.allocate(numel, dtype)

    def all_reduce(self, value: Value, op: str = "sum", *, reduction: str = "float32") -> Value:
        """Replace `value` by its sum (product, min, max, mean) over all ranks; return it.

        value: a numpy array or torch tensor of numbers, of the same dtype and shape on all ranks.
        reduction: `exact` makes the sum of float32 values independent of order and grouping (see
        `dmlf.exact_sum`), and refuses NaN and infinity. `float32` adds in the published order of
        the algorithm, in the value's own dtype (bfloat16: in float32). `mean` divides the sum by
        the world size.
        Cost: that of the algorithm, and an agreement; a second one if reduction is exact or any
        rank has called `allocate`.
        Raises ConfigError before anything is sent; CollectiveMismatch, DeadlineExceeded,
        GroupClosed, NonFiniteGradient (exact). After an error `value` is undefined.
        """
        operand = Operand(value)
        operand.check_writable()
        base = operand.check_operation(op)
        if reduction not in ("float32", "exact"):
            raise ConfigError("reduction", reduction, "float32 or exact")
        flat, algorithm = operand.flat, self.algorithm
        text = f"all_reduce({op}, {operand.text}, {reduction}, {algorithm.name})"
        if reduction == "exact":
            if base != "sum" or flat.dtype != np.float32:
                raise ConfigError("reduction", reduction, f"float32 for {op} of {operand.text}")
            everything = [slice(0, flat.size)]
            row = flat.reshape(1, -1)
            exact = ExactAccumulator(self.rank, row, everything, self.world_size, flat)
            self.step(text, SingleBucket(exact), 1)
        else:
            bucket = ElementwiseAccumulator(self.rank, flat, base)
            all_reduce = algorithm.all_reduce
            assert all_reduce is not None  # as all_reduce_named has seen
            self.call(text, lambda at: all_reduce(self.member, at, bucket))
        if op == "mean":
            flat /= flat.dtype.type(self.world_size)
        operand.write_back()
        return value

    def broadcast(self, value: Value, root: int = 0) -> Value:
        """Replace `value` on every rank by that of rank `root`; return it.

        value: as in `all_reduce`, or of booleans.
        Cost: an agreement, and at most ceil(log2 W) messages sent by a rank, of the whole value.
        """
        self._check_root(root)
        operand = Operand(value)
        flat = operand.flat
        if self.rank != root:
            operand.check_writable()

        def write(_src: int, payload: Any) -> None:
            flat[...] = self._fitting(payload, flat)

        self.call(
            f"broadcast({operand.text} from rank {root})",
            lambda at: broadcast(self.member, at, root, lambda _src: flat, write),
        )
        if self.rank != root:
            operand.write_back()
        return value

    def all_gather(self, value: Any) -> Any:
        """The values of all ranks, in the order of ranks: [world_size, *shape], a new array.

        value: as in `broadcast`.
        Cost: an agreement, and W - 1 messages a rank, of the size of `value`.
        """
        operand = Operand(value)
        blocks = np.empty((self.world_size, operand.flat.size), operand.flat.dtype)
        blocks[self.rank] = operand.flat

        def write(src: int, payload: Any) -> None:
            blocks[src] = self._fitting(payload, operand.flat)

        self.call(
            f"all_gather({operand.text})",
            lambda at: all_gather(self.member, at, blocks.__getitem__, write),
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
            lambda at: confirm_equal(self.member, at.step, [digest], subject),
        )

    def step(
        self, text: str, local: Local, num_buckets: int, algorithm: Algorithm | None = None
    ) -> None:
        """Sum the buckets of `local` over all ranks, commit, and let it apply: one training step.

        text: what all ranks must be about to do alike.
        Raises NonFiniteGradient, on all ranks, when a sum is not finite; nothing is then applied.
        """
        worker_step = (algorithm or self.algorithm).worker_step
        self.call(text, lambda at: worker_step(self.member, at.step, num_buckets), local)

    def call(
        self,
        text: str,
        protocol: Callable[[Tag], Steps[Result]],
        local: Local | None = None,
        *,
        bits: bytes = b"",
        learn: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Run `protocol(at)` as the next collective of the group, once all ranks call `text`.

        at: the tag of the call; its `step` is the call's number. local: fulfils the effects that
        are not messages; its step must end with a commit where it sends registered vectors.
        bits: as many on all ranks; before the protocol `learn` is given those that any has set.
        """
        with self._turn:
            transport = self._open(text)
            if self._calling:  # a signal handler, or what a protocol calls back
                raise GroupClosed(text, "a call within a call")
            at = self._at(self._calls)
            if local is not None and local is not self._local:
                self._local, self._driver = local, self._make_driver(transport, local)
            driver, member = self._driver, self.member
            driver.timeout_s = self.timeout_s  # it may have been changed since the last call
            sent, agreed = driver.messages_sent, False
            self._calling = True
            try:
                registered, learned = driver.run(
                    agree_on_call(member, at, text, self._registers, bits)
                )
                agreed = True
                if learn is not None:
                    learn(learned)
                result = driver.run(protocol(at))
                if registered and local is None:  # a step's commit is a barrier already
                    driver.run(_barrier(member, at))
            except _HARMLESS:
                raise
            except GroupClosed as error:  # all others have heard of it as well
                self._cause = error.cause or str(error)
                raise
            except BaseException as error:
                told = driver.messages_sent - sent
                closed = self._fail(text, error, None if agreed else told)
                if closed is not None:
                    raise closed from error
                raise
            finally:
                self._calling = False
                self._calls += 1
            return result

    def _fail(self, text: str, error: BaseException, told: int | None) -> GroupClosed | None:
        """Break the group; the better error, if it turns out that another rank has left before.

        told: how many messages of the agreement on this call were sent; None once all agreed.
        """
        reason = None
        if isinstance(error, DeadlineExceeded) and told is not None and told > 1:
            # The one that is waited for may wait itself, and is about to say for whom.
            grace_s = (told - 1) * min(LAST_WORD_S, self.timeout_s)
            with contextlib.suppress(TransportError):
                reason = why_left(self._open(text).recv(error.peer, grace_s))
        elif isinstance(error, ProtocolError):
            received = error.received
            if isinstance(received, Tag) and received.phase is Phase.CALL:
                reason = f"rank {received.src} left it"
        self._cause = reason or str(error) or type(error).__name__
        if told is None or told == (self.world_size - 1).bit_length():
            self._tell(self._calls + 1, self._cause)
        else:
            self._tell(self._calls, self._cause, told)
        return None if reason is None else GroupClosed(text, reason)

    def close(self) -> None:
        """Deliver what was sent and free the links; a closed group cannot be used again.

        Waits for nobody. Ranks that go on calling are told that this one has closed the group.
        """
        self._leave(gracefully=True)

    def abandon(self) -> None:
        """Free the links at once, whatever is on the way."""
        self._leave(gracefully=False)

    def _leave(self, gracefully: bool) -> None:
        with self._turn:
            try:
                if self.joint is not None:
                    self.joint._leave(gracefully)
            finally:
                self._let_go(gracefully)

    def _let_go(self, gracefully: bool) -> None:
        """Tell the others, and free the links; nothing in a process forked from this one."""
        transport, self._transport = self._transport, None
        if transport is None or self._process != os.getpid():
            return
        if self._cause is None and not self.is_server:
            how = "closed" if gracefully else "left"
            self._tell(self._calls, f"rank {self.rank} {how} it")
        if gracefully and self._cause is None:
            transport.close()
        else:
            transport.abandon()

    def _tell(self, call: int, reason: str, first_round: int = 0) -> None:
        """Let the others know, when they come to that call, why this rank does not."""
        with contextlib.suppress(TransportError, OSError, ValueError):  # they may be gone
            self._driver.run(leave(self.member, self._at(call), reason, first_round))

    def _at(self, call: int) -> Tag:
        return Tag(self.member.generation, call, 0, Phase.CALL, 0, self.rank)

    def _make_driver(self, transport: Transport, local: Local | None = None) -> Driver:
        return Driver(transport, local or self._local, self.timeout_s, interrupt=self._interrupt)

    def _open(self, call: str) -> Transport:
        if self._transport is None or self._cause is not None:
            raise GroupClosed(call, self._cause)
        if self._process != os.getpid():
            raise GroupClosed(call, f"it belongs to process {self._process}, not to its fork")
        if self.is_server:
            allowed = "one after the script has made its dmlf.DistributedOptimizer"
            raise ConfigError(call, "a call by a parameter server", allowed)
        return self._transport

    def _check_root(self, root: int) -> None:
        if isinstance(root, bool) or not isinstance(root, int) or not 0 <= root < self.world_size:
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
    if (
        isinstance(timeout_s, bool)
        or not isinstance(timeout_s, int | float)
        or not 0.0 < timeout_s <= MAX_TIMEOUT_S
    ):
        allowed = f"seconds above 0, to {MAX_TIMEOUT_S:.0f}"
        raise ConfigError("timeout_s", timeout_s, allowed)
    return timeout_s


def usable_algorithms() -> list[str]:
    """The names of the registered algorithms that are an all-reduce, without servers."""
    return [name for name in registry().usable() if registry()[name].all_reduce is not None]


def all_reduce_named(name: str) -> Algorithm:
    """The registered algorithm `name`. Raises ConfigError if it has servers or is none."""
    algorithm = registry().get(name)
    if algorithm is None or algorithm.all_reduce is None:
        allowed = f"one without servers: {', '.join(usable_algorithms())}"
        raise ConfigError("algorithm", name, allowed)
    return algorithm
