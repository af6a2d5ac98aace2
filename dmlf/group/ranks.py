"""What runs in the process of a rank that `dmlf.launch` or `dmlf run` has started."""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from dmlf.errors import CollectiveAborted, ConfigError, DmlfError, RemoteError, ScriptExited
from dmlf.group import default
from dmlf.group.output import write_whole_lines
from dmlf.group.place import Place, give, give_seat
from dmlf.runtime.launch import limit_threads
from dmlf.runtime.outcomes import is_echo
from dmlf.runtime.seat import Dismissed, Seat


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rank finds around it: its place, and the environment of the launcher.

    port: free on loopback, for torch.distributed's own store.
    """

    place: Place
    port: int
    threads_per_rank: int
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Script:
    """A script, or a module if `is_module`, and the words after its name."""

    name: str
    arguments: tuple[str, ...]
    is_module: bool = False


def run_function(rank: int | Seat, argument: tuple[Surroundings, bytes]) -> bytes:
    """Call the pickled (function, arguments, named arguments); return its result, pickled.

    rank: or the seat, where ranks come with generations, as below.
    """
    surroundings, pickled = argument
    with _entered(surroundings, rank):
        try:
            fn, args, kwargs = pickle.loads(pickled)  # from the launcher, through its own pipe
        except Exception as error:
            allowed = f"what its ranks can import, too ({type(error).__name__}: {error})"
            raise ConfigError("dmlf.launch", "fn and its arguments", allowed) from None
        try:
            result = fn(*args, **kwargs)
        except SystemExit as exit_:
            if not surroundings.place.is_server or exit_.code:
                raise
            result = None
        try:
            return pickle.dumps(result)
        except Exception as error:
            allowed = f"plain values and arrays ({type(error).__name__}: {error})"
            name = getattr(fn, "__qualname__", str(fn))
            raise ConfigError(f"result of {name}", type(result).__name__, allowed) from None


def run_script(rank: int | Seat, argument: tuple[Surroundings, Script]) -> None:
    """Run the script as the main program, as `python` would."""
    surroundings, script = argument
    with _entered(surroundings, rank):
        sys.argv = [script.name, *script.arguments]
        if not sys.flags.safe_path:
            folder = Path.cwd() if script.is_module else Path(script.name).resolve().parent
            sys.path[0] = str(folder)
        try:
            if script.is_module:
                runpy.run_module(script.name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script.name, run_name="__main__")
        except SystemExit as exit_:
            _exit_as(_number(rank), exit_.code)
        except (CollectiveAborted, Dismissed):
            raise  # the launcher's own word
        except BaseException as error:
            number = _number(rank)
            if isinstance(error, DmlfError) and is_echo(number, error):
                raise  # another rank knows more
            text = "".join(
                traceback.format_exception(type(error), error, _own(error.__traceback__))
            )
            raise RemoteError(number, f"{type(error).__name__}: {error}", text) from None


def _number(rank: int | Seat) -> int:
    return rank.rank if isinstance(rank, Seat) else rank


def _exit_as(rank: int, code: object) -> None:
    if code is None or code == 0:
        return
    if isinstance(code, int):
        raise ScriptExited(rank, code & 0xFF)
    print(code, file=sys.stderr, flush=True)  # as Python does with anything else
    raise ScriptExited(rank, 1)


def _own(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the script's: what runs it is left out."""
    mine = (__file__, runpy.__file__, "<frozen runpy>")
    while frames is not None and frames.tb_frame.f_code.co_filename in mine:
        frames = frames.tb_next
    return frames


@contextmanager
def _entered(surroundings: Surroundings, rank: int | Seat) -> Iterator[None]:
    """Take the place, and tell torch.distributed of it too, as torchrun would."""
    place = surroundings.place
    os.environ.clear()
    os.environ.update(surroundings.environment)
    limit_threads(surroundings.threads_per_rank)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(surroundings.threads_per_rank)
    write_whole_lines()
    if isinstance(rank, Seat):
        give_seat(rank, place.timeout_s, place.algorithm, lambda: _next_place(rank, surroundings))
    else:
        _set_variables(place, surroundings.port)
        give(place)
    try:
        yield
    except BaseException:
        default.abandon()
        raise
    else:
        default.shutdown()
    finally:
        sys.stdout.flush()


def _next_place(seat: Seat, surroundings: Surroundings) -> Place:
    """The place in the generation that begins next."""
    order = seat.next()
    place = replace(
        surroundings.place,
        rank=order.rank,
        world_size=order.world_size,
        endpoint=order.endpoint,
        generation=order.generation,
        interrupt=seat.check,
    )
    _set_variables(place, surroundings.port)
    return place


def _set_variables(place: Place, port: int) -> None:
    rank, size = str(place.rank), str(place.world_size)
    os.environ.update(
        RANK=rank,
        LOCAL_RANK=rank,
        GROUP_RANK="0",
        ROLE_RANK=rank,
        WORLD_SIZE=size,
        LOCAL_WORLD_SIZE=size,
        GROUP_WORLD_SIZE="1",
        ROLE_WORLD_SIZE=size,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
