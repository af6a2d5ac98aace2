"""What every process of mpirun runs: one rank of the peer Open MPI, through mpi4py.

It is told what to do in lines of JSON over a Unix socket, and blocks in a read between turns: a
rank that waited inside MPI would spin, and take a core from whose turn it is.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

import numpy as np

from dmlf.benchmark.collective.config import OPENMPI
from dmlf.benchmark.collective.data import Values, bounded_problem
from dmlf.benchmark.collective.timing import time_calls
from dmlf.env import require_mpi
from dmlf.errors import WrongSum
from dmlf.numerics.exact import Float32
from dmlf.runtime.child import signal_on_parent_death


class OpenMpiTurn:
    """A call is one in-place `Allreduce`."""

    def __init__(self, mpi: Any, rank: int, values: Values, max_numel: int) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self._rank, self._values = rank, values
        self._whole: Float32 = np.zeros(max_numel, dtype=np.float32)
        self._vector = self._whole

    def prepare(self, numel: int) -> None:
        """Use the first `numel` elements from now on."""
        self._vector = self._whole[:numel]

    def fill(self) -> None:
        """Put this rank's values in."""
        self._vector[...] = self._values.of(self._rank, self._vector.size)

    def barrier(self) -> None:
        """MPI's own barrier."""
        self._comm.Barrier()

    def call(self) -> None:
        """One all-reduce."""
        self._comm.Allreduce(self._mpi.IN_PLACE, self._vector, op=self._mpi.SUM)

    def check(self, calls: int) -> None:
        """Hold the vector against the float64 sum: MPI publishes no order of additions."""
        problem = bounded_problem(self._values, self._vector, calls)
        if problem is not None:
            raise WrongSum(OPENMPI, self._rank, problem)

    def close(self) -> None:
        """MPI is left when the process ends."""


def main() -> int:
    """Serve the launcher at the socket argv[1] until it says or sends an end."""
    signal_on_parent_death(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path, seed, max_numel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    mpi = require_mpi()
    rank, world_size = int(mpi.COMM_WORLD.rank), int(mpi.COMM_WORLD.size)
    turn = OpenMpiTurn(mpi, rank, Values(seed, world_size, max_numel), max_numel)
    version = mpi.Get_library_version().partition(",")[0]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:

            def say(answer: dict[str, object]) -> None:
                stream.write(json.dumps(answer) + "\n")
                stream.flush()

            say({"rank": rank, "library": version})
            for line in stream:
                order = json.loads(line)
                if order["calls"] == 0:
                    return 0
                turn.prepare(order["numel"])
                try:
                    say({"seconds": time_calls(turn, order["calls"], world_size)})
                except WrongSum as error:
                    say({"wrong": error.detail})
    # The launcher is gone, and so may be other ranks: MPI's own end would wait for them.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
