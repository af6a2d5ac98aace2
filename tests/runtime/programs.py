"""Programs for ranks, imported by path in their processes."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from dmlf.errors import DeadlineExceeded, NonFiniteGradient, PeerLost
from dmlf.protocol import Message
from dmlf.runtime.conversation import END
from dmlf.runtime.parcel import receive_parcel
from dmlf.transport import Endpoint


def square(rank: int, argument: int) -> tuple[int, int]:
    return rank, argument * argument


def wait_for_ever(rank: int, argument: Any) -> None:
    os.write(1, f"{os.getpid()}\n".encode())  # one write, so that lines never mix
    threading.Event().wait()


def fail_on(rank: int, failing: int) -> None:
    if rank == failing:
        raise ValueError(f"planted on {rank}")
    threading.Event().wait()


def fail_typed_on(rank: int, failing: int) -> None:
    if rank == failing:
        raise NonFiniteGradient(7)
    threading.Event().wait()


def killed_on(rank: int, failing: int) -> None:
    if rank == failing:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def exit_on(rank: int, failing: int) -> None:
    if rank == failing:
        os._exit(3)
    threading.Event().wait()


def thread_variables(rank: int, argument: Any) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def glibc_tunables(rank: int, argument: Any) -> str | None:
    return os.environ.get("GLIBC_TUNABLES")


def receive_for_ever(rank: int, endpoint: Endpoint) -> None:
    transport = endpoint.connect()
    transport.recv((rank + 1) % 2, 600.0)


def echo_before_cause(rank: int, argument: tuple[Any, str, str]) -> None:
    """Ranks 0 and 1 miss rank 2 and say so; only then rank 2 ends."""
    gate, echo, end = argument
    if rank == 0:
        gate.set()
        raise PeerLost("rank 2", "reset") if echo == "peer lost" else DeadlineExceeded(0, 2, 1.0)
    if rank == 1:
        threading.Event().wait()
    gate.wait(20.0)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("the cause")


def deadline_on(rank: int, failing: int) -> None:
    if rank == failing:
        raise DeadlineExceeded(rank, 2, 0.5)
    threading.Event().wait()


def answer_doubled(rank: int, argument: tuple[int, Connection]) -> int:
    """Answer every number with its double plus the rank's offset; return how many there were."""
    offset, questions = argument
    count = 0
    while (number := questions.recv()) is not END:
        if number == 13:
            raise NonFiniteGradient(number)
        if number == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 15:
            threading.Event().wait()
        if number == 16:
            break
        questions.send(2 * number + offset)
        count += 1
    return count


def echo_over_parcels(pipe: Any) -> None:
    """Answer one message, doubled, over each endpoint that comes."""
    while (endpoint := receive_parcel(pipe)) is not None:
        link = endpoint.connect()
        message = link.recv(0, 30.0)
        link.send(0, Message(message.tag._replace(src=1), message.payload * 2))
        link.close()
