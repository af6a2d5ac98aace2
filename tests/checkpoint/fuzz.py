"""Mutated manifests against the decoder: `python -m tests.checkpoint.fuzz 1000000`.

Damage of bytes, and of values in what is still JSON, by turns. A manifest is either refused with
ValueError, or it is consistent: it comes back the same from its own encoding. A failure prints it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

from dmlf.checkpoint.manifest import Manifest, decode_manifest
from dmlf.checkpoint.snapshot import RunState, SamplerPosition
from dmlf.checkpoint.tensors import FileEntry, TensorEntry
from dmlf.config import RunConfig

HANG_S = 50
HASH = hashlib.sha256(b"x").hexdigest()
TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"-", b"0", b"1e999", b"NaN", b"null"]
TOKENS += [b"\xff", b"\xef\xbb\xbf", b"\x00", b"9" * 30, b"[" * 40, b'{"a":' * 40, b'"step":1,']
VALUES: list[Any] = [None, True, False, 0, -1, 1, 2**53, 2**64, 1e308, 0.5, "", "x", HASH, [], {}]
VALUES += [[0], [-1], [2**63, 2**63], {"a": 1}, "../x", "<f4", "|O", "parameters.safetensors"]


def whole() -> bytes:
    """A manifest of two files."""
    tensor = TensorEntry("<f4", (2, 3))
    files = {
        name: FileEntry(name, 100, HASH, {"weight": tensor})
        for name in ("parameters.safetensors", "optimizer.safetensors")
    }
    state = RunState(
        step=7, generation=0, config=RunConfig(), sampler=SamplerPosition(1, 2), user={"a": [1]}
    )
    return Manifest(state, HASH, files).encode()


WHOLE = whole()
VALUE = json.loads(WHOLE)


def damaged_bytes(choices: random.Random) -> bytes:
    """One to four places cut out of, written over or put into."""
    content = bytearray(WHOLE)
    for _ in range(choices.randrange(1, 5)):
        place, kind = choices.randrange(len(content) + 1), choices.randrange(4)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << choices.randrange(8)
        elif kind == 1:
            del content[place : place + choices.randrange(1, 60)]
        elif kind == 2:
            content[place:place] = choices.choice(TOKENS)
        elif choices.randrange(8) == 0:
            del content[place:]
        else:
            content[place : place + 1] = choices.choice(TOKENS)
    return bytes(content)


def damaged_values(choices: random.Random) -> bytes:
    """One or two values replaced, keys removed or added, somewhere in the tree."""
    value = copy.deepcopy(VALUE)
    for _ in range(choices.randrange(1, 3)):
        where = value
        while True:
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            if not keys:
                break
            key = choices.choice(keys)
            inner = where[key]
            if isinstance(inner, dict | list) and inner and choices.random() < 0.75:
                where = inner
                continue
            kind = choices.randrange(6)
            if kind == 0:
                del where[key]
            elif kind == 1 and isinstance(where, dict):
                where[choices.choice(["x", "", "step", "weight|", "a\nb"])] = inner
            else:
                where[key] = choices.choice(VALUES)
            break
    return json.dumps(value).encode()


def mutated(number: int) -> bytes:
    choices = random.Random(number)
    return damaged_values(choices) if number % 2 else damaged_bytes(choices)


def check(content: bytes) -> str:
    """How decoding ends."""
    try:
        manifest = decode_manifest(content)
    except ValueError as error:
        return f"refused: {str(error)[:14]}"
    assert decode_manifest(manifest.encode()) == manifest
    return "a manifest"


def main(number: int) -> None:
    """Check that many manifests; prints how they ended."""
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a decoder that hangs ends this process
    for index in range(number):
        if index % 10_000 == 0:
            signal.alarm(HANG_S)
        content = mutated(index)
        try:
            outcomes[check(content)] += 1
        except BaseException:
            print(f"manifest {index}: {content!r}", file=sys.stderr)
            raise
    signal.alarm(0)
    for outcome, count in outcomes.most_common(12):
        print(f"{count:9d} {outcome}")
    print(f"{number} manifests in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
