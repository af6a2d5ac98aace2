"""Faults on purpose: what to break, at which point of which rank, and the breaking of it.

    kill:rank=1,step=7,phase=all_gather,round=0
    delay:rank=0,step=3,phase=compute,seconds=0.5
    leave:rank=2,step=7
    join:step=9,count=2

A fault strikes once, in the first matching place: before an effect that names a message of that
phase (of its sending, or of waiting for it), or at one of the POINTS of a step. It is injected into
the protocol's own generator, so it comes at the same place on every transport.

To leave and to join are no faults, but are injected alike, so that they come before the step that
they name: the rank that asks holds that step back until the group is begun anew.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import numpy as np

from dmlf.errors import ConfigError
from dmlf.protocol import Apply, Effect, Phase, Recv, Send, Steps


class FaultKind(StrEnum):
    """What is done."""

    KILL = "kill"  # SIGKILL to the rank's process
    STOP = "stop"  # SIGSTOP
    DELAY = "delay"  # the rank sleeps
    CORRUPT = "corrupt"  # one bit of a frame is flipped on its way
    CUT = "cut"  # a connection ends in the middle of a frame
    DROP = "drop"  # a message is not sent
    MUTE = "mute"  # this message and all later ones to its receiver are not sent
    DUPLICATE = "duplicate"  # a message is sent twice
    MISDIRECT = "misdirect"  # a message names another rank as its source
    NAN = "nan"  # one value of the rank's gradient becomes NaN
    FLIP = "flip"  # one mantissa bit of one parameter flips after the step was applied
    RAISE = "raise"  # user code raises
    DISK_FULL = "disk-full"  # there is no space for the checkpoint after this step
    LEAVE = "leave"  # the rank asks to be let go
    JOIN = "join"  # rank 0 asks for so many workers more


POINTS = ("compute", "apply", "applied")
"""Phases that are no messages: before forward, before and after the optimizer steps."""
OF_FRAMES = (FaultKind.CORRUPT, FaultKind.CUT)
"""Kinds that need a transport with frames: tcp."""
OF_MESSAGES = (
    *OF_FRAMES,
    FaultKind.DROP,
    FaultKind.MUTE,
    FaultKind.DUPLICATE,
    FaultKind.MISDIRECT,
)
OF_MEMBERSHIP = (FaultKind.LEAVE, FaultKind.JOIN)
"""Kinds that are no faults, but changes that are asked for."""
_ANYWHERE = (FaultKind.KILL, FaultKind.STOP, FaultKind.DELAY)
_NUMBERS = ("rank", "step", "round", "bucket", "generation", "count")
_FIELD = re.compile(r"([a-z]+)=([A-Za-z0-9_.-]+)")


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault. phase: of a message, or one of POINTS. None: any.

    seconds: of a delay. count: of workers that join.
    """

    kind: FaultKind
    rank: int
    step: int
    phase: str | None = None
    round: int | None = None
    bucket: int | None = None
    generation: int | None = 0
    seconds: float | None = None
    count: int | None = None

    def __str__(self) -> str:
        names = ("rank", "step", "phase", "round", "bucket", "generation", "seconds", "count")
        unsaid = [("generation", 0)]
        if self.kind is FaultKind.JOIN:
            unsaid.append(("rank", 0))
        fields = [
            f"{name}={value}"
            for name in names
            if (value := getattr(self, name)) is not None and (name, value) not in unsaid
        ]
        return f"{self.kind}:{','.join(fields)}"

    @property
    def in_messages(self) -> bool:
        """Whether it strikes at a message."""
        return self.phase is not None and self.phase not in POINTS


def parse_fault(text: str) -> FaultSpec:
    """The fault that `text` describes; see the module. Raises ConfigError."""
    name, _, rest = text.partition(":")
    kinds = [kind.value for kind in FaultKind]
    if name not in kinds:
        _refuse(text, f"KIND:rank=R,step=S with a kind of {', '.join(kinds)}")
    values: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        match = _FIELD.fullmatch(part)
        if match is None or match[1] not in (*_NUMBERS, "phase", "seconds"):
            allowed = f"{', '.join(_NUMBERS)}, phase and seconds as NAME=VALUE, not {part!r}"
            _refuse(text, allowed)
        if match[1] in values:
            _refuse(text, f"{match[1]} once")
        values[match[1]] = _value(text, match[1], match[2])
    kind = FaultKind(name)
    if kind is FaultKind.JOIN:
        values = {"rank": 0, "count": 1, **values}
    if kind in OF_MEMBERSHIP:
        values = {"generation": None, **values}
    for needed in ("rank", "step"):
        if needed not in values:
            _refuse(text, f"{needed}=... as well")
    spec = FaultSpec(kind, **values)
    _check(text, spec)
    return spec


def _value(text: str, name: str, value: str) -> int | float | str:
    if name == "phase":
        phases = [*POINTS, *(phase.value for phase in Phase)]
        if value not in phases:
            _refuse(text, f"a phase of {', '.join(phases)}")
        return value
    if name == "seconds":
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0.0 < seconds <= 86_400.0:
            _refuse(text, "seconds above 0, to 86400")
        return seconds
    if not value.isdecimal() or len(value) > 12:
        _refuse(text, f"a whole number as {name}")
    return int(value)


def _check(text: str, spec: FaultSpec) -> None:
    if spec.kind in OF_MESSAGES and not spec.in_messages:
        _refuse(text, f"phase=... of a message: {spec.kind} is about one")
    if spec.kind not in (*OF_MESSAGES, *_ANYWHERE) and spec.phase is not None:
        _refuse(text, f"no phase: {spec.kind} has a place of its own in a step")
    if (spec.kind is FaultKind.DELAY) != (spec.seconds is not None):
        _refuse(text, "seconds=... with delay, and with nothing else")
    if spec.kind is FaultKind.JOIN and spec.rank != 0:
        _refuse(text, "no rank: rank 0 asks for those who join")
    if (spec.kind is FaultKind.JOIN) != (spec.count is not None) or spec.count == 0:
        _refuse(text, "count=... from 1 with join, and with nothing else")
    if not spec.in_messages and spec.round is not None:
        _refuse(text, "round only with the phase of a message")
    if not spec.in_messages and spec.bucket is not None:
        _refuse(text, "bucket only with the phase of a message")


def _refuse(text: str, allowed: str) -> NoReturn:
    raise ConfigError("fault", text, allowed)


class InjectedError(Exception):
    """What `raise` raises, as user code might."""


class Injector:
    """Strikes with one rank's faults of one generation.

    specs: by number. tell: called with a fault's number just before it strikes. parameters: this
    rank's parameters by name, for `flip`. damage: has the transport garble what it sends next, or
    break off in it (OF_FRAMES). ask: for the change of membership that a spec names; returns only
    if it does not come.
    """

    def __init__(
        self,
        specs: Sequence[tuple[int, FaultSpec]],
        tell: Callable[[int], None],
        parameters: Callable[[], Any],
        damage: Callable[[FaultKind], None],
        ask: Callable[[FaultSpec], None],
    ) -> None:
        self._waiting = dict(specs)
        self._tell = tell
        self._parameters = parameters
        self._damage = damage
        self._ask = ask
        self._muted: set[int] = set()

    def compute(self, step: int) -> None:
        """The rank is about to compute its gradients."""
        for spec in self._take(lambda spec: spec.step == step and _is_at(spec, "compute")):
            self._strike(spec)

    def computed(self, step: int, gradients: Sequence[Any]) -> None:
        """The rank has computed its gradients: by row, then by the parameter's name."""
        for _ in self._take(lambda spec: spec.kind is FaultKind.NAN and spec.step == step):
            # The first parameter is in the last bucket, which goes after all has been computed.
            next(iter(gradients[0].values())).reshape(-1)[:1] = np.nan

    def disk_is_full(self, step: int) -> bool:
        """Whether the checkpoint after `step` finds no space: that of the first save from it on."""
        return bool(
            list(self._take(lambda spec: spec.kind is FaultKind.DISK_FULL and step >= spec.step))
        )

    def through(self, step: int, protocol: Steps[Any]) -> Steps[Any]:
        """The protocol of `step`, with the faults in it."""
        answer: Any = None
        while True:
            try:
                effect = protocol.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = yield from self._fulfil(step, effect)

    def _fulfil(self, step: int, effect: Effect) -> Steps[Any]:
        match effect:
            case Send(tag=tag) | Recv(tag=tag):
                sends = isinstance(effect, Send)
                if isinstance(effect, Send) and effect.dst in self._muted:
                    return None
                for spec in self._take(lambda spec: _is_of(spec, tag, sends)):
                    if spec.kind is FaultKind.DROP:
                        return None
                    if spec.kind is FaultKind.MUTE and isinstance(effect, Send):
                        self._muted.add(effect.dst)
                        return None
                    if spec.kind is FaultKind.DUPLICATE:
                        yield effect
                    elif spec.kind is FaultKind.MISDIRECT and isinstance(effect, Send):
                        effect = Send(effect.dst, tag._replace(src=tag.src + 1), effect.payload)
                    elif spec.kind in OF_FRAMES:
                        self._damage(spec.kind)
                    else:
                        self._strike(spec)
            case Apply():
                for spec in self._take(lambda spec: spec.step == step and _is_at(spec, "apply")):
                    self._strike(spec)
        answer = yield effect
        if isinstance(effect, Apply):
            for spec in self._take(lambda spec: spec.step == step and _is_at(spec, "applied")):
                self._strike(spec)
        return answer

    def _take(self, matches: Callable[[FaultSpec], bool]) -> Iterator[FaultSpec]:
        """Those that match; each is told of, and does not come again."""
        for number, spec in list(self._waiting.items()):
            if matches(spec):
                del self._waiting[number]
                self._tell(number)
                yield spec

    def _strike(self, spec: FaultSpec) -> None:
        match spec.kind:
            case FaultKind.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case FaultKind.STOP:
                os.kill(os.getpid(), signal.SIGSTOP)
            case FaultKind.DELAY:
                assert spec.seconds is not None
                time.sleep(spec.seconds)
            case FaultKind.RAISE:
                raise InjectedError(f"injected: {spec}")
            case FaultKind.FLIP:
                _flip(self._parameters())
            case FaultKind.LEAVE | FaultKind.JOIN:
                self._ask(spec)


def _is_at(spec: FaultSpec, point: str) -> bool:
    if spec.kind in (FaultKind.RAISE, *OF_MEMBERSHIP):
        return point == "compute"
    if spec.kind is FaultKind.FLIP:
        return point == "applied"
    return spec.kind in _ANYWHERE and (spec.phase or "compute") == point


def _is_of(spec: FaultSpec, tag: Any, sends: bool) -> bool:
    return (
        (sends or spec.kind in _ANYWHERE)
        and (spec.step, spec.phase) == (tag.step, tag.phase.value)
        and spec.round in (None, tag.round)
        and spec.bucket in (None, tag.bucket)
    )


def _flip(parameters: Any) -> None:
    """Flip a mantissa bit of the first value of the first parameter.

    One in the middle: the rounding of a later step may undo the lowest ones.
    """
    first = next(iter(parameters.values()))
    first.reshape(-1)[:1].view(np.uint32)[...] ^= 1 << 16
