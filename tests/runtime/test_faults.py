"""Faults are read exactly, refused clearly, and strike once at the place they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmlf.errors import ConfigError
from dmlf.protocol import Apply, Message, Phase, Recv, Send, Tag
from dmlf.runtime.faults import FaultKind, FaultSpec, InjectedError, Injector, parse_fault


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("leave:rank=2,step=7", FaultSpec(FaultKind.LEAVE, 2, 7, generation=None)),
        ("join:step=9,count=2", FaultSpec(FaultKind.JOIN, 0, 9, generation=None, count=2)),
        (
            "kill:rank=1,step=7,phase=all_gather,round=0",
            FaultSpec(FaultKind.KILL, 1, 7, "all_gather", 0),
        ),
        (
            "delay:rank=0,step=3,phase=compute,seconds=0.5",
            FaultSpec(FaultKind.DELAY, 0, 3, "compute", seconds=0.5),
        ),
        (
            "drop:rank=2,step=0,phase=push,bucket=4,generation=1",
            FaultSpec(FaultKind.DROP, 2, 0, "push", bucket=4, generation=1),
        ),
        ("disk-full:rank=0,step=5", FaultSpec(FaultKind.DISK_FULL, 0, 5)),
    ],
)
def test_a_fault_is_read_and_written(text: str, spec: FaultSpec) -> None:
    assert parse_fault(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["kill", "disk-full"]),
        ("explode:rank=1,step=2", ["explode", "kill"]),
        ("kill", ["rank=..."]),
        ("kill:rank=1", ["step=..."]),
        ("kill:rank=1,step=2,rank=3", ["rank once"]),
        ("kill:rank=-1,step=2", ["whole number as rank"]),
        ("kill:rank=1,step=two", ["whole number as step"]),
        ("kill:rank=1,step=99999999999999", ["whole number"]),
        ("kill:rank=1,step=2,phase=lunch", ["a phase of", "all_gather", "compute"]),
        ("kill:rank=1,step=2,colour=red", ["NAME=VALUE", "colour=red"]),
        ("kill:rank=1,step=2,round=0", ["round only with"]),
        ("kill:rank=1,step=2,phase=apply,bucket=0", ["bucket only with"]),
        ("drop:rank=1,step=2", ["phase=... of a message"]),
        ("drop:rank=1,step=2,phase=compute", ["phase=... of a message"]),
        ("nan:rank=1,step=2,phase=push", ["no phase"]),
        ("delay:rank=1,step=2", ["seconds=..."]),
        ("delay:rank=1,step=2,seconds=nan", ["seconds above 0"]),
        ("delay:rank=1,step=2,seconds=soon", ["seconds above 0"]),
        ("leave:step=2", ["rank=..."]),
        ("leave:rank=1,step=2,count=1", ["count=... from 1 with join"]),
        ("leave:rank=1,step=2,phase=push", ["no phase"]),
        ("join:step=9,count=0", ["count=... from 1 with join"]),
        ("join:rank=1,step=9", ["no rank"]),
        ("kill:rank=1,step=2,seconds=3", ["seconds=... with delay"]),
    ],
)
def test_what_is_no_fault_is_refused_in_one_line(text: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fault(text)
    assert caught.value.key == "fault"
    assert "\n" not in str(caught.value)
    assert any(name in str(caught.value) for name in names)


def tag(step: int, phase: Phase, round_: int = 0, bucket: int = 0) -> Tag:
    return Tag(0, step, bucket, phase, round_, 0)


EFFECTS: list[Any] = [
    Send(1, tag(4, Phase.PUSH, bucket=0), np.arange(3)),
    Send(1, tag(4, Phase.PUSH, bucket=1), np.arange(3)),
    Recv(1, tag(4, Phase.PULL)),
    Apply(4),
]


def strike(*texts: str) -> tuple[list[Any], list[int], list[str]]:
    """The effects of two steps with the faults in them, which fired, and what else was done."""
    fired: list[int] = []
    done: list[str] = []
    injector = Injector(
        list(enumerate(map(parse_fault, texts))),
        fired.append,
        lambda: {"w": np.zeros(1, np.float32)},
        done.append,
        lambda spec: done.append(str(spec)),
    )

    def protocol() -> Any:
        answers = []
        for effect in EFFECTS:
            answers.append((yield effect))
        return answers

    seen: list[Any] = []
    for _ in range(2):
        program = injector.through(4, protocol())
        answer: Any = None
        while True:
            try:
                effect = program.send(answer)
            except StopIteration:
                break
            seen.append(effect)
            answer = Message(effect.tag, None) if isinstance(effect, Recv) else None
    return seen, fired, done


def test_without_a_match_nothing_changes() -> None:
    texts = [
        "drop:rank=0,step=5,phase=push",
        "drop:rank=0,step=4,phase=push,round=1",
        "drop:rank=0,step=4,phase=pull",  # that one is received here
        "drop:rank=0,step=4,phase=push,bucket=2",
    ]
    assert strike(*texts) == (EFFECTS * 2, [], [])


def test_messages_are_dropped_doubled_and_misdirected_once() -> None:
    dropped, fired, _ = strike("drop:rank=0,step=4,phase=push,bucket=1")
    assert (dropped, fired) == ([EFFECTS[0], *EFFECTS[2:], *EFFECTS], [0])
    doubled, _, _ = strike("duplicate:rank=0,step=4,phase=push")
    assert doubled == [EFFECTS[0], *EFFECTS, *EFFECTS]
    misdirected, _, _ = strike("misdirect:rank=0,step=4,phase=push")
    assert misdirected[0].tag == EFFECTS[0].tag._replace(src=1)
    assert misdirected[1:] == (EFFECTS * 2)[1:]
    for kind in ("corrupt", "cut"):
        assert strike(f"{kind}:rank=0,step=4,phase=push") == (EFFECTS * 2, [0], [kind])


def test_a_muted_link_swallows_what_is_sent_and_nothing_else() -> None:
    seen, fired, _ = strike("mute:rank=0,step=4,phase=push,bucket=1")
    first = next(index for index, effect in enumerate(EFFECTS) if effect.tag.bucket == 1)
    to = EFFECTS[first].dst
    expected = [
        effect
        for index, effect in enumerate(EFFECTS * 2)
        if index < first or not isinstance(effect, Send) or effect.dst != to
    ]
    assert (seen, fired) == (expected, [0])
    assert len(expected) < 2 * len(EFFECTS) - 1, "more than one message is gone"


def test_what_a_rank_computes_is_broken_once() -> None:
    fired: list[int] = []
    parameters = {"a": np.array([1.5, 2.5], np.float32)}
    texts = ["raise:rank=0,step=4", "nan:rank=0,step=4", "flip:rank=0,step=4"]
    texts += ["disk-full:rank=0,step=4"]
    specs = list(enumerate(map(parse_fault, texts)))
    injector = Injector(specs, fired.append, lambda: parameters, fired_nothing, fired_nothing)
    injector.compute(3)
    with pytest.raises(InjectedError, match="raise:rank=0,step=4"):
        injector.compute(4)
    injector.compute(4)
    rows = [{"a": np.ones((2, 2), np.float32)}]
    injector.computed(4, rows)
    assert np.isnan(rows[0]["a"]).sum() == 1
    for effect in injector.through(4, iter_of(Apply(4))):
        assert effect == Apply(4)
        assert parameters["a"].tolist() == [1.5, 2.5]
    assert parameters["a"].tolist() == [1.5 + 2.0**-7, 2.5]
    assert [injector.disk_is_full(step) for step in (3, 5, 6)] == [False, True, False]
    assert fired == [0, 1, 2, 3]


def fired_nothing(kind: object) -> None:
    raise AssertionError(f"{kind} was not asked for")


def test_a_change_of_membership_is_asked_for_before_its_step() -> None:
    asked: list[str] = []
    specs = list(enumerate(map(parse_fault, ["leave:rank=0,step=4", "join:step=4,count=2"])))
    fired: list[int] = []
    injector = Injector(
        specs, fired.append, dict, fired_nothing, lambda spec: asked.append(str(spec))
    )
    injector.compute(3)
    assert (asked, fired) == ([], [])
    injector.compute(4)
    injector.compute(4)
    assert (asked, fired) == (["leave:rank=0,step=4", "join:step=4,count=2"], [0, 1])


def iter_of(effect: Any) -> Any:
    yield effect
