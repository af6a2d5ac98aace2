"""Starts a user's function, or script, once per rank."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from dmlf.errors import ConfigError, PeerLost, RestartBudgetExceeded
from dmlf.group.imports import worth_preloading
from dmlf.group.launch_options import LaunchOptions
from dmlf.group.place import Place, is_given
from dmlf.group.ranks import Script, Surroundings
from dmlf.group.recovering import run_recovering
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.events import Start
from dmlf.runtime.fork_server import death
from dmlf.transport import TRANSPORTS, Endpoint

Result = TypeVar("Result")
_UNGUARDED = 119
"""How a rank's process ends that, instead of waiting for its work, would start ranks itself."""


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
    num_servers: int = 0,
    max_restarts: int | None = None,
    min_workers: int | None = None,
    max_workers: int | None = None,
) -> list[Result]:
    """Call `fn(*args, **kwargs)` in `world_size` processes of this host; return results by rank.

    In `fn`, `dmlf.init()` joins the group of these processes. `fn`, its arguments and its result
    travel between processes, so `fn` stands at the top level of a module, and a script calls this
    below `if __name__ == "__main__":`.
    num_servers: processes beside them that call `fn` too, and serve parameters once it makes a
    `dmlf.DistributedOptimizer`; they return nothing.
    max_restarts: how many failures of ranks may be mended, in functions decorated by
    `dmlf.elastic`. min_workers, max_workers: between which numbers the world size may change there;
    by default it stays, and max_restarts is 3 where it does not, and else 0. With any of these a
    rank gets its number when it calls `dmlf.init()` or the decorated function, and the results are
    those of the last ranks; see docs/library-elastic.md.
    Ranks see this process's environment, and RANK, WORLD_SIZE and the others that torchrun sets.
    The first failure ends all ranks: dmlf's own errors are raised as they are, any other as a
    RemoteError with its rank's traceback. When this returns or raises, every rank has ended.
    Raises ConfigError for what cannot travel, and when called within a rank;
    RestartBudgetExceeded and BelowMinimumWorkers where ranks are lost beyond those limits.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED)  # this is a rank that imports the main script, and found no guard
    pickled = _pickled(fn, tuple(args), dict(kwargs or {}))
    options = LaunchOptions(
        world_size=world_size,
        transport=transport,
        algorithm=algorithm,
        timeout_s=timeout_s,
        threads_per_rank=threads_per_rank,
        num_servers=num_servers,
        max_restarts=max_restarts,
        min_workers=min_workers,
        max_workers=max_workers,
    )
    preload = ["torch"] if "torch" in sys.modules else []
    results = _run("dmlf.group.ranks:run_function", pickled, options, preload)
    if num_servers:
        results = results[:world_size]
    return [_unpickled(fn, result) for result in results]


def launch_script(script: Script, options: LaunchOptions) -> None:
    """Run `script` in every rank's process, as `python script` would, and in the servers'.

    Raises as `launch` does, ScriptExited, ConfigError without the file.
    """
    path = Path(script.name)
    if not script.is_module and not path.is_file():
        raise ConfigError("script", script.name, "a Python file")
    if script.is_module:
        path = Path(*script.name.split(".")).with_suffix(".py")
    _run("dmlf.group.ranks:run_script", script, options, worth_preloading(path))


def _run(program: str, task: Any, options: LaunchOptions, preload: Sequence[str]) -> list[Any]:
    """Run `program` on `task` in all processes; return the results of ranks, then of servers."""
    if is_given() or multiprocessing.current_process().daemon:
        raise ConfigError("dmlf.launch", "a call within a rank", "one by what starts all ranks")
    with _own_environment() as environment, _reserved_port() as port, _guarded():
        context = process_context(["dmlf.group.ranks", *preload], options.threads_per_rank)

        def argument(place: Place) -> tuple[Surroundings, Any]:
            return Surroundings(place, port, options.threads_per_rank, environment), task

        if options.restarts is None:
            return run_ranks(context, program, list(map(argument, _places(context, options))))
        pattern = Place(
            0, options.world_size, None, options.transport, options.timeout_s, options.algorithm
        )

        def make_endpoints(start: Start) -> Sequence[Endpoint | None]:
            alone = start.world_size == 1
            return [None] if alone else TRANSPORTS[options.transport](context, start.world_size)

        return run_recovering(
            context,
            program,
            argument(pattern),
            make_endpoints,
            options.world_size,
            options.restarts,
            options.timeout_s,
        )


def _places(context: BaseContext, options: LaunchOptions) -> list[Place]:
    """Where ranks, and servers after them, stand that no failure replaces."""
    ranks, processes = options.world_size, options.world_size + options.num_servers
    endpoints: list[Endpoint | None] = [None] * processes
    joint: Sequence[Endpoint | None] = endpoints
    if ranks > 1:
        endpoints[:ranks] = TRANSPORTS[options.transport](context, ranks)
    if options.num_servers:
        joint = TRANSPORTS[options.transport](context, processes)
    return [
        Place(
            rank,
            ranks,
            endpoints[rank],
            options.transport,
            options.timeout_s,
            options.algorithm,
            num_servers=options.num_servers,
            joint=joint[rank] if options.num_servers else None,
        )
        for rank in range(processes)
    ]


@contextmanager
def _guarded() -> Iterator[None]:
    """Say what is missing where ranks, instead of waiting for work, would start ranks."""
    try:
        yield
    except (PeerLost, RestartBudgetExceeded) as error:
        cause = error.cause if isinstance(error, RestartBudgetExceeded) else error
        if not isinstance(cause, PeerLost) or cause.detail != death(_UNGUARDED):
            raise
        allowed = 'a call below `if __name__ == "__main__":`, as ranks import the script too'
        raise ConfigError("dmlf.launch", _main_file(), allowed) from None


def _pickled(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    name = getattr(fn, "__qualname__", str(fn))
    if not callable(fn):
        raise ConfigError("fn", fn, "a function at the top level of a module")
    if getattr(fn, "__module__", "") == "__main__" and not os.path.isfile(_main_file()):
        raise ConfigError("fn", name, "a function of a file, as ranks import it from there")
    named = [("fn", name, fn)]
    named += [(f"args[{index}]", type(value).__name__, value) for index, value in enumerate(args)]
    named += [(key, type(value).__name__, value) for key, value in kwargs.items()]
    for key, shown, value in named:
        try:
            pickle.dumps(value)
        except Exception as error:  # any, as objects bring their own pickling
            what = "a function at the top level of a module" if key == "fn" else "a plain value"
            raise ConfigError(key, shown, f"{what} ({type(error).__name__}: {error})") from None
    return pickle.dumps((fn, args, kwargs))


def _unpickled(fn: Callable[..., Result], pickled: bytes) -> Result:
    try:
        result: Result = pickle.loads(pickled)  # from a rank, through the launcher's own pipe
    except Exception as error:
        allowed = f"plain values and arrays ({type(error).__name__}: {error})"
        raise ConfigError("result", getattr(fn, "__qualname__", fn), allowed) from None
    return result


def _main_file() -> str:
    return str(getattr(sys.modules["__main__"], "__file__", None) or "the interactive session")


@contextmanager
def _own_environment() -> Iterator[dict[str, str]]:
    """The environment for ranks; this process's own is as before afterwards."""
    before = dict(os.environ)
    try:
        yield {name: value for name, value in before.items() if "TORCHELASTIC" not in name}
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port of loopback that nobody else is given meanwhile, though a rank may listen there."""
    with socket.socket() as reserving:
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserving.bind(("127.0.0.1", 0))
        yield int(reserving.getsockname()[1])
