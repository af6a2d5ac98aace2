"""torch's own tests of process groups, pointed at backend `dmlf`: 3 ranks on this host's CPU.

The bodies of the tests are those of torch's wheel, unmodified. Three things are arranged around
them. Tests say for which of torch's own backends they are meant: what is meant for Gloo on the CPU
runs, and so do tests of all_to_all, which are meant for MPI, and those of subgroups, for which
torch asks 8 ranks of all but MPI. Ranks are forked from a server that has imported torch once.

    python -c "from tests.torch import suite; suite.main([])"

prints one line of JSON per test, of those that are named, or of all.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import time
import unittest
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

os.environ.update(BACKEND="gloo", WORLD_SIZE="3", INIT_METHOD="file://", OMP_NUM_THREADS="1")

from torch.testing._internal.distributed import distributed_test

import dmlf.torch  # noqa: F401

distributed_test.BACKEND = "dmlf"
Base = distributed_test.DistributedTest._DistTestBase


class TestDmlf(distributed_test.TestDistBackend, Base):
    """Every test of torch's class, over backend `dmlf`."""

    def setUp(self) -> None:
        super().setUp()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])

        def process(target: Callable[..., None], name: str, **call: Any) -> BaseProcess:
            # The server has forgotten what was added to the environment since it was started.
            return context.Process(target=_run, name=name, args=(dict(os.environ), target, call))

        self._start_processes(process)

    def _test_accumulate_gradients_no_sync(self, **options: Any) -> None:
        # Here the body asks too, and knows no model for a backend outside of torch.
        with mock.patch.object(distributed_test, "BACKEND", "gloo"):
            super()._test_accumulate_gradients_no_sync(**options)


def _run(environment: dict[str, str], target: Callable[..., None], call: dict[str, Any]) -> None:
    os.environ.update(environment)
    distributed_test.INIT_METHOD = environment["INIT_METHOD"]
    os.environ["BACKEND"] = "mpi"  # of which tests of subgroups do not ask for 8 ranks
    target(*call["args"], **call["kwargs"])


for name in dir(Base):
    if name.startswith("test_all_to_all") and "cuda" not in name:  # else meant for MPI, not Gloo
        function = inspect.unwrap(getattr(Base, name))
        function.__dict__["__unittest_skip__"] = False
        setattr(TestDmlf, name, function)


class Outcome(unittest.TestResult):
    """Prints what became of each test as it ends."""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._start = time.monotonic()
        self._said = False

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        if not self._said:
            self._say(test, "passed", "")

    def addError(self, test, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        super().addError(test, err)
        self._say(test, "failed", self._exc_info_to_string(err, test))

    addFailure = addError  # noqa: N815

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self._say(test, "skipped", reason)

    def _say(self, test: unittest.TestCase, outcome: str, reason: str) -> None:
        self._said = True
        name = test.id().rpartition(".")[2]
        seconds = round(time.monotonic() - self._start, 2)
        line = {"name": name, "outcome": outcome, "reason": reason, "seconds": seconds}
        print(json.dumps(line), flush=True)


def main(names: list[str]) -> None:
    """Run the named tests, or all."""
    names = names or unittest.TestLoader().getTestCaseNames(TestDmlf)
    unittest.TestSuite(map(TestDmlf, names)).run(Outcome())
