"""The launcher's side of the peer Open MPI: its own processes, started by mpirun.

mpirun itself waits for connections on a port of its own, as every mpirun of Open MPI 4 does; it is
told to name no interface but loopback. All its files lie in one folder, removed once all ranks
have met, so that no later death can leave it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dmlf.benchmark.collective.config import CollectiveConfig
from dmlf.errors import PeerLost, WrongSum

_PROGRAM = "dmlf.benchmark.collective.openmpi_program"
_GUARD = "dmlf.benchmark.collective.openmpi_guard"
_END_S = 10.0
_NO_CALLS = 0  # the order to end


Link = tuple[socket.socket, IO[str]]


class OpenMpiUnavailable(Exception):
    """Open MPI cannot take part; the text says why. Caught by the measurement, never shown raw."""


class OpenMpiRanks:
    """Running MPI ranks; `links` holds each rank's connection and what is read from it, by rank."""

    def __init__(self, links: list[Link], library: str, timeout_s: float) -> None:
        self._links = links
        self._timeout_s = timeout_s
        self.library = library

    def measure(self, contestant: str, numel: int, calls: int) -> float:
        """Let MPI take a turn; return the seconds of its slowest rank.

        Raises WrongSum, and PeerLost when a rank is gone or silent.
        """
        self._tell(numel, calls)
        answers = [self._answer(rank) for rank in range(len(self._links))]
        for rank, answer in enumerate(answers):
            if "wrong" in answer:
                raise WrongSum(contestant, rank, answer["wrong"])
        return max(float(answer["seconds"]) for answer in answers)

    def end(self) -> None:
        """Let all ranks end in order."""
        self._tell(0, _NO_CALLS)

    def _tell(self, numel: int, calls: int) -> None:
        line = json.dumps({"numel": numel, "calls": calls}) + "\n"
        for rank, (connection, _) in enumerate(self._links):
            try:
                connection.sendall(line.encode())
            except OSError as error:
                raise PeerLost(f"Open MPI rank {rank}", str(error)) from None

    def _answer(self, rank: int) -> dict[str, Any]:
        try:
            line = self._links[rank][1].readline()
        except TimeoutError:
            problem = f"no answer within {self._timeout_s:g} s"
            raise PeerLost(f"Open MPI rank {rank}", problem) from None
        except OSError as error:
            raise PeerLost(f"Open MPI rank {rank}", str(error)) from None
        if not line.endswith("\n"):
            raise PeerLost(f"Open MPI rank {rank}", "its process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def started(config: CollectiveConfig, world_size: int) -> Iterator[OpenMpiRanks]:
    """Start mpirun and wait for its ranks. Raises OpenMpiUnavailable; leaves nothing behind."""
    mpirun = _mpirun()
    folder = tempfile.mkdtemp(prefix="dmlf-openmpi-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        path = str(Path(folder) / "socket")
        try:
            listener.bind(path)
        except OSError as error:  # the kernel takes 107 bytes
            raise OpenMpiUnavailable(f"no socket at {path}: {error}; shorten TMPDIR") from None
        listener.listen(world_size)
        said = stack.enter_context(tempfile.TemporaryFile())
        program = [path, str(config.seed), str(max(config.sizes) // 4)]
        guard = subprocess.Popen(
            [sys.executable, "-m", _GUARD, folder, *_command(mpirun, folder, world_size), *program],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # the terminal's interrupt is for the launcher alone
        )
        stack.callback(_end_guard, guard)
        links: dict[int, Link] = {}
        library = ""
        deadline = time.monotonic() + config.timeout_s
        while len(links) < world_size:
            connection = _accept(listener, guard, deadline, said)
            stack.enter_context(connection)
            connection.settimeout(config.timeout_s)
            stream = stack.enter_context(connection.makefile("r", encoding="utf-8"))
            hello = json.loads(stream.readline() or "null")
            if hello is None:
                raise OpenMpiUnavailable("a rank ended while it started")
            links[hello["rank"]], library = (connection, stream), hello["library"]
        # What has a name is needed no more: from here on, no death can leave it.
        shutil.rmtree(folder, ignore_errors=True)
        by_rank = [links[rank] for rank in range(world_size)]
        ranks = OpenMpiRanks(by_rank, library, config.timeout_s)
        yield ranks
        ranks.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(_END_S)


def _mpirun() -> str:
    found = shutil.which("mpirun")
    if found is None:
        raise OpenMpiUnavailable("mpirun is not installed")
    if importlib.util.find_spec("mpi4py") is None:
        reason = 'mpi4py is not installed; install it with: pip install -e ".[mpi]"'
        raise OpenMpiUnavailable(reason)
    try:
        shown = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=10.0, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OpenMpiUnavailable(f"mpirun does not answer: {error}") from None
    if "Open MPI" not in shown:
        raise OpenMpiUnavailable(f"mpirun is another MPI: {' '.join(shown.split())[:80]}")
    return found


def _command(mpirun: str, folder: str, world_size: int) -> list[str]:
    """The command that starts the ranks: shared memory only, every file in `folder`."""
    cores = len(os.sched_getaffinity(0))
    settings = {
        "btl": "self,vader",
        "btl_vader_backing_directory": folder,
        "mpi_yield_when_idle": str(int(world_size > cores)),
        "oob_tcp_if_include": "lo",
        "orte_tmpdir_base": folder,
        "plm": "isolated",
    }
    command = [mpirun, "--oversubscribe", "--bind-to", "none", "-np", str(world_size)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    for name, value in settings.items():
        command += ["--mca", name, value]
    return [*command, sys.executable, "-m", _PROGRAM]


def _environment() -> dict[str, str]:
    """This process's environment, in which the ranks find this very package."""
    package = str(Path(__file__).resolve().parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _accept(
    listener: socket.socket, guard: subprocess.Popen[bytes], deadline: float, said: IO[bytes]
) -> socket.socket:
    """The next rank's connection. Raises OpenMpiUnavailable with mpirun's words if it ends."""
    process = os.pidfd_open(guard.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(process, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(deadline - time.monotonic())]
    finally:
        os.close(process)
    if listener in ready:
        return listener.accept()[0]
    if not ready:
        raise OpenMpiUnavailable("its ranks did not start in time")
    said.seek(0)
    words = " ".join(said.read().decode("utf-8", "replace").replace("-" * 20, "").split())
    raise OpenMpiUnavailable(f"mpirun ended: {words[:300] or 'without a word'}")


def _end_guard(guard: subprocess.Popen[bytes]) -> None:
    guard.terminate()
    try:
        guard.wait(_END_S)
    except subprocess.TimeoutExpired:
        guard.kill()  # mpirun is killed with it, and the ranks with mpirun
        guard.wait()
