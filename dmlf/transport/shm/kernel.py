"""What Python's library lacks of Linux: futexes, and memory barriers by `membarrier`.

A rank that goes to sleep must not miss a message sent at that moment: it raises its flag and then
looks for the message once more, while the sender writes the message and then looks at the flag.
Processors may let a load overtake an earlier store, so one of the two could see the old value of
each. `fence`, called by the sleeper between the two, is a full barrier on every processor that
runs a registered process: it costs the sleeper, who has time, and the sender nothing. Where the
kernel refuses it a wait is cut into pieces of MAX_SLEEP_S, as it always is, for safety.

Source: futex(2), membarrier(2); Drepper, "Futexes are tricky", 2011.
"""

from __future__ import annotations

import ctypes
import os

MAX_SLEEP_S = 0.02
_CALLS = {"x86_64": (202, 324), "aarch64": (98, 283)}  # (futex, membarrier)
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 1 << 1, 1 << 2
_MACHINE = os.uname().machine
_IN_ORDER = _MACHINE == "x86_64"  # stores are seen in order, and loads happen in order

_libc = ctypes.CDLL(None)
_long = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", _long), ("nanoseconds", _long))


_syscall = _libc.syscall
_syscall.restype = _long


def supported() -> bool:
    """Whether this system has what the transport needs."""
    system = os.uname().sysname
    return system == "Linux" and _MACHINE in _CALLS and (_IN_ORDER or fence())


def register() -> None:
    """Let the fences of other processes reach this one."""
    _syscall(_long(_CALLS[_MACHINE][1]), _long(_REGISTER_GLOBAL_EXPEDITED), _long(0), _long(0))


def fence() -> bool:
    """Order memory on every processor that runs a registered process; False if refused."""
    return bool(
        _syscall(_long(_CALLS[_MACHINE][1]), _long(_GLOBAL_EXPEDITED), _long(0), _long(0)) == 0
    )


def order() -> None:
    """Keep what was read or written before in front of what follows; free of cost on x86-64."""
    if not _IN_ORDER:
        fence()


def wait_while(address: int, value: int, timeout_s: float) -> None:
    """Sleep while the 32-bit word at `address` is `value`; may return early for any reason."""
    timeout = _Timespec(*divmod(int(max(0.0, min(timeout_s, MAX_SLEEP_S)) * 1e9), 1_000_000_000))
    _syscall(
        _long(_CALLS[_MACHINE][0]),
        ctypes.c_void_p(address),
        _long(_FUTEX_WAIT),
        ctypes.c_uint32(value),
        ctypes.byref(timeout),
        ctypes.c_void_p(None),
        _long(0),
    )


def wake(address: int) -> None:
    """Wake whoever sleeps on the word at `address`, in any process."""
    _syscall(
        _long(_CALLS[_MACHINE][0]),
        ctypes.c_void_p(address),
        _long(_FUTEX_WAKE),
        _long(1),
        ctypes.c_void_p(None),
        ctypes.c_void_p(None),
        _long(0),
    )
