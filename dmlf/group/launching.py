"""Starts a user's function, or script, once per rank."""

from __future__ import annotations

import importlib.util
import os
import pickle
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dmlf.errors import ConfigError, RemoteError
from dmlf.group import default
from dmlf.group.group import all_reduce_named, check_timeout
from dmlf.group.place import Place, give
from dmlf.runtime import process_context, run_ranks
from dmlf.transport import TRANSPORTS
from dmlf.transport.tcp.sockets import listen

Result = TypeVar("Result")


def launch(
    fn: Callable[..., Result],
    world_size: int,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    transport: str = "shm",
    algorithm: str = "ring",
    timeout_s: float = 300.0,
    threads_per_rank: int = 1,
) -> list[Result]:
    """Call `fn(*args, **kwargs)` in `world_size` processes of this host; return results by rank.

    In `fn`, `dmlf.init()` joins the group of these processes. `fn`, its arguments and its result
    travel between processes, so `fn` stands at the top level of a module, and a script calls this
    below `if __name__ == "__main__":`.
    The first failure ends all ranks: dmlf's own errors are raised as they are, any other as a
    RemoteError with its rank's traceback. When this returns or raises, every process has ended.
    """
    try:
        pickle.dumps((fn, args, kwargs))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        allowed = f"a function at the top level of a module, with plain arguments ({error})"
        raise ConfigError("fn", getattr(fn, "__qualname__", fn), allowed) from None
    work = ("dmlf.group.launching:run_function", (fn, tuple(args), dict(kwargs or {})))
    preload = ["torch"] if "torch" in sys.modules else []
    return _start(work, world_size, transport, algorithm, timeout_s, threads_per_rank, preload)


def launch_script(
    path: Path,
    arguments: Sequence[str],
    world_size: int,
    *,
    transport: str = "shm",
    algorithm: str = "ring",
    timeout_s: float = 300.0,
    threads_per_rank: int = 1,
) -> None:
    """Run the script `path` in `world_size` processes, each as `python path arguments...` would.

    Raises as `launch` does, ConfigError without the file.
    """
    if not path.is_file():
        raise ConfigError("script", str(path), "a Python file")
    work = ("dmlf.group.launching:run_script", (str(path), tuple(arguments)))
    preload = ["torch"] if importlib.util.find_spec("torch") else []
    _start(work, world_size, transport, algorithm, timeout_s, threads_per_rank, preload)


def _start(
    work: tuple[str, Any],
    world_size: int,
    transport: str,
    algorithm: str,
    timeout_s: float,
    threads_per_rank: int,
    preload: Sequence[str],
) -> list[Any]:
    for key, number in (("world_size", world_size), ("threads_per_rank", threads_per_rank)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(key, number, "a whole number, at least 1")
    if transport not in TRANSPORTS:
        raise ConfigError("transport", transport, ", ".join(TRANSPORTS))
    check_timeout(timeout_s)
    all_reduce_named(algorithm)
    program, task = work
    context = process_context(["dmlf.group.launching", *preload], threads_per_rank)
    endpoints: Sequence[Any] = [None]
    if world_size > 1:
        endpoints = TRANSPORTS[transport](context, world_size)
    port = _free_port()
    places = [
        Place(rank, world_size, endpoint, transport, timeout_s, algorithm)
        for rank, endpoint in enumerate(endpoints)
    ]
    return run_ranks(context, program, [(place, port, task) for place in places])


def run_function(_rank: int, argument: tuple[Place, int, Any]) -> Any:
    """In a rank's process: call the function."""
    place, port, (fn, args, kwargs) = argument
    _enter(place, port)
    try:
        return fn(*args, **kwargs)
    finally:
        default.shutdown()


def run_script(rank: int, argument: tuple[Place, int, Any]) -> None:
    """In a rank's process: run the script as the main program."""
    place, port, (path, arguments) = argument
    _enter(place, port)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as exit_:
        if exit_.code not in (None, 0):
            raise RemoteError(rank, f"the script ended with {exit_.code!r}", "") from None
    finally:
        default.shutdown()


def _enter(place: Place, port: int) -> None:
    """Take the place, and tell torch.distributed of it too, as torchrun would."""
    give(place)
    rank, size = str(place.rank), str(place.world_size)
    os.environ.update(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE=size,
        LOCAL_WORLD_SIZE=size,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )


def _free_port() -> int:
    listener = listen()
    listener.close()
    return listener.address[1]
