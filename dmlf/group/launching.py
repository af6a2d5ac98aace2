"""Starts a user's function, or script, once per rank."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dmlf.errors import ConfigError, PeerLost, RestartBudgetExceeded
from dmlf.group.group import all_reduce_named, check_timeout
from dmlf.group.imports import worth_preloading
from dmlf.group.place import Place, is_given
from dmlf.group.ranks import Script, Surroundings
from dmlf.group.recovering import run_recovering
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.events import Start
from dmlf.runtime.fork_server import death
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.transport import TRANSPORTS, Endpoint

Result = TypeVar("Result")
ELASTIC_RESTARTS = 3
"""How many failures are mended where the world size may change, unless told otherwise."""
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
    preload = ["torch"] if "torch" in sys.modules else []
    work = ("dmlf.group.ranks:run_function", pickled)
    restarts = _restarts(max_restarts, min_workers, max_workers)
    results = _start(
        work,
        world_size,
        transport,
        algorithm,
        timeout_s,
        threads_per_rank,
        preload,
        num_servers,
        restarts,
    )
    if num_servers:
        results = results[:world_size]
    return [_unpickled(fn, result) for result in results]


def launch_script(
    script: Script,
    world_size: int,
    *,
    transport: str = "shm",
    algorithm: str = "ring",
    timeout_s: float = 300.0,
    threads_per_rank: int = 1,
    num_servers: int = 0,
    max_restarts: int | None = None,
    min_workers: int | None = None,
    max_workers: int | None = None,
) -> None:
    """Run `script` in `world_size` processes, each as `python script` would, and in the servers.

    Raises as `launch` does, ScriptExited, ConfigError without the file.
    """
    all_reduce_named(algorithm)
    path = Path(script.name)
    if not script.is_module and not path.is_file():
        raise ConfigError("script", script.name, "a Python file")
    if script.is_module:
        path = Path(*script.name.split(".")).with_suffix(".py")
    preload = worth_preloading(path)
    work = ("dmlf.group.ranks:run_script", script)
    restarts = _restarts(max_restarts, min_workers, max_workers)
    _start(
        work,
        world_size,
        transport,
        algorithm,
        timeout_s,
        threads_per_rank,
        preload,
        num_servers,
        restarts,
    )


def _restarts(
    max_restarts: int | None, min_workers: int | None, max_workers: int | None
) -> RestartPolicy | None:
    """How ranks are replaced; None where the first failure ends them all."""
    for key, number in (("min_workers", min_workers), ("max_workers", max_workers)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise ConfigError(key, number, "a whole number, or None")
    changes = min_workers is not None or max_workers is not None
    times = max_restarts if max_restarts is not None else ELASTIC_RESTARTS if changes else 0
    if isinstance(times, bool) or not isinstance(times, int):
        raise ConfigError("max_restarts", times, "a whole number, at least 0")
    policy = RestartPolicy(times, min_workers=min_workers, max_workers=max_workers)
    return policy if times or changes else None


def _start(
    work: tuple[str, Any],
    world_size: int,
    transport: str,
    algorithm: str,
    timeout_s: float,
    threads_per_rank: int,
    preload: Sequence[str],
    num_servers: int,
    restarts: RestartPolicy | None,
) -> list[Any]:
    for key, number in (("world_size", world_size), ("threads_per_rank", threads_per_rank)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(key, number, "a whole number, at least 1")
    if isinstance(num_servers, bool) or not isinstance(num_servers, int) or num_servers < 0:
        raise ConfigError("num_servers", num_servers, "a whole number, at least 0")
    if transport not in TRANSPORTS:
        raise ConfigError("transport", transport, ", ".join(TRANSPORTS))
    check_timeout(timeout_s)
    all_reduce_named(algorithm)
    if is_given() or multiprocessing.current_process().daemon:
        raise ConfigError("dmlf.launch", "a call within a rank", "one by what starts all ranks")
    if restarts is not None:
        if num_servers:
            allowed = "0 where ranks are replaced: servers hold state that would be lost"
            raise ConfigError("num_servers", num_servers, allowed)
        if transport == "process_group":
            allowed = "queue, shm or tcp where ranks are replaced"
            raise ConfigError("transport", transport, allowed)
    program, task = work
    with _own_environment() as environment, _reserved_port() as port:
        context = process_context(["dmlf.group.ranks", *preload], threads_per_rank)
        if restarts is not None:
            pattern = Place(0, world_size, None, transport, timeout_s, algorithm)
            argument = (Surroundings(pattern, port, threads_per_rank, environment), task)

            def make_endpoints(start: Start) -> Sequence[Endpoint | None]:
                alone = start.world_size == 1
                return [None] if alone else TRANSPORTS[transport](context, start.world_size)

            with _guarded():
                return run_recovering(
                    context, program, argument, make_endpoints, world_size, restarts, timeout_s
                )
        endpoints: list[Any] = [None] * (world_size + num_servers)
        joint: Sequence[Any] = endpoints
        if world_size > 1:
            endpoints[:world_size] = TRANSPORTS[transport](context, world_size)
        if num_servers:
            joint = TRANSPORTS[transport](context, world_size + num_servers)
        arguments = []
        for rank, endpoint in enumerate(endpoints):
            place = Place(
                rank,
                world_size,
                endpoint,
                transport,
                timeout_s,
                algorithm,
                num_servers=num_servers,
                joint=joint[rank] if num_servers else None,
            )
            arguments.append((Surroundings(place, port, threads_per_rank, environment), task))
        with _guarded():
            return run_ranks(context, program, arguments)


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
