"""One rank of one of dmlf's strategies: whole steps, driven as in training."""

from __future__ import annotations

import numpy as np

from dmlf.benchmark.collective.config import parse_strategy
from dmlf.benchmark.collective.data import FoldReference, Values, bitwise_problem, bucket_slices
from dmlf.errors import WrongSum
from dmlf.numerics import Float32Accumulator
from dmlf.numerics.exact import Float32
from dmlf.protocol import Member, confirm_equal, owned_buckets, registry
from dmlf.runtime import Driver
from dmlf.runtime.cores import server_threads
from dmlf.transport import Endpoint

_GO = bytes(32)


class StrategyTurn:
    """A call is one step of the protocol, with its commit and all of its checks.

    The gradient, in buckets, lies in memory of the transport. With parameter servers, their sums
    are the new parameters, and a worker copies what it pulls into its vector: all workers end with
    the sum. Some push again while others still pull, so a server sums into two vectors in turn.
    """

    def __init__(
        self,
        strategy: str,
        rank: int,
        endpoint: Endpoint,
        values: Values,
        reference: FoldReference,
        max_numel: int,
        timeout_s: float,
    ) -> None:
        self._strategy = strategy
        parsed = parse_strategy(strategy)
        self._algorithm = registry()[parsed.algorithm]
        self._member = Member(rank, values.world_size, parsed.num_servers)
        self._values = values
        self._reference = reference
        self._transport = endpoint.connect()
        self._is_server = rank >= values.world_size
        self._threads = server_threads(parsed.num_servers) if self._is_server else 1
        self._wholes: list[Float32] = [
            self._transport.allocate(max_numel, np.float32) for _ in range(1 + self._is_server)
        ]
        self._vector = self._wholes[0]
        self._driver = Driver(self._transport, self, timeout_s)
        self._step = 0

    def prepare(self, numel: int) -> None:
        """Use the first `numel` elements from now on."""
        self._vector = self._wholes[0][:numel]
        self._buckets = bucket_slices(numel, self._reference.bucket_numel)

    def fill(self) -> None:
        """Put a worker's values in; a server has none."""
        if not self._is_server:
            self._vector[...] = self._values.of(self._member.rank, self._vector.size)

    def barrier(self) -> None:
        """Agree on a constant: no rank leaves before every rank has entered."""
        self._driver.run(confirm_equal(self._member, self._step, [_GO], "the turn"))

    def call(self) -> None:
        """One step."""
        num_buckets = len(self._buckets)
        self._driver.run(self._algorithm.rank_step(self._member, self._step, num_buckets))
        self._step += 1

    def check(self, calls: int) -> None:
        """Hold the vector, of a server its buckets, against the published order, bit for bit."""
        expected = self._reference.after(self._algorithm, self._vector.size, calls)
        for bucket in self._held():
            place = self._buckets[bucket]
            problem = bitwise_problem(self._vector[place], expected[place])
            if problem is not None:
                where = f"bucket {bucket}: " if len(self._buckets) > 1 else ""
                raise WrongSum(self._strategy, self._member.rank, where + problem)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def gradient(self, step: int, bucket: int) -> Float32Accumulator:
        """A bucket of the vector, to be summed."""
        if self._is_server:
            self._vector = self._wholes[step % 2][: self._vector.size]
        flat = self._vector[self._buckets[bucket]]
        return Float32Accumulator(self._member.rank, flat, threads=self._threads)

    def apply(self, step: int) -> None:
        """Nothing: the sum is the result."""

    def read_parameters(self, bucket: int) -> Float32:
        """The server's sum of a bucket, as it stands."""
        return self._vector[self._buckets[bucket]]

    def write_parameters(self, bucket: int, payload: Float32) -> None:
        """Take the sum of a bucket from its server."""
        self._vector[self._buckets[bucket]] = payload

    def _held(self) -> range:
        """The buckets whose sum is here."""
        if not self._is_server:
            return range(len(self._buckets))
        server = self._member.rank - self._member.world_size
        return owned_buckets(server, len(self._buckets), self._member.num_servers)
