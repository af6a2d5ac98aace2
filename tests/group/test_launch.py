"""Groups of processes that a function was launched in."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmlf
from dmlf.errors import ConfigError, GroupClosed, PeerLost, RemoteError
from tests.group import programs


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_collectives_give_every_rank_the_same(transport: str, world_size: int) -> None:
    results = dmlf.launch(programs.sums, world_size, (10,), transport=transport)
    expected = np.arange(10, dtype=np.float32) * world_size + sum(range(world_size))
    assert len(results) == world_size
    for summed, gathered, root in results:
        np.testing.assert_array_equal(summed, expected)
        np.testing.assert_array_equal(gathered, np.arange(world_size)[:, None].repeat(3, axis=1))
        np.testing.assert_array_equal(root, np.full((2, 2), world_size - 1))


def test_ranks_that_differ_all_learn_how_and_go_on() -> None:
    messages = dmlf.launch(programs.different_calls, 3)
    for rank, message in enumerate(messages):
        assert f"rank {rank} called all_reduce(sum, float32[{3 if rank else 4}]" in message
        assert f"float32[{4 if rank else 3}]" in message.split("but")[1]


ROOT = Path(__file__).parents[2]


def test_ranks_see_the_environment_of_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMLF_TEST", "first")
    assert dmlf.launch(programs.environment, 1, ("DMLF_TEST",)) == [("first", "1", "0")]
    monkeypatch.setenv("DMLF_TEST", "second")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = dict(os.environ)
    found = dmlf.launch(programs.environment, 2, ("DMLF_TEST",), threads_per_rank=2)
    assert found == [("second", "2", "0"), ("second", "2", "1")]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("fn", "args", "key"),
    [
        (lambda: 0, (), "fn"),
        (3, (), "fn"),
        (programs.rank, (threading.Lock(),), "args[0]"),
        (programs.unpicklable, (), "result of unpicklable"),
        (programs.nested, (), "dmlf.launch"),
    ],
)
def test_what_cannot_travel_is_named(fn: Any, args: tuple[Any, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dmlf.launch(fn, 2, args)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("world_size", 0),
        ("world_size", True),
        ("world_size", "2"),
        ("transport", "pigeon"),
        ("algorithm", "parameter_server"),
        ("timeout_s", -1.0),
        ("threads_per_rank", 0),
        ("num_servers", 0.5),
        ("max_restarts", True),
        ("min_workers", "1"),
        ("max_workers", 2.0),
    ],
)
def test_a_wrong_option_is_named(key: str, value: Any) -> None:
    options = {"world_size": 2, key: value}
    with pytest.raises(ConfigError) as caught:
        dmlf.launch(programs.rank, **options)
    assert (caught.value.key, caught.value.value) == (key, value)


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_the_cause_of_a_failure_is_raised(transport: str) -> None:
    with pytest.raises(RemoteError) as caught:
        dmlf.launch(programs.fails_on_rank, 3, (2, "raise"), transport=transport)
    assert caught.value.rank == 2
    assert "what went wrong" in caught.value.traceback
    with pytest.raises(PeerLost) as lost:
        dmlf.launch(programs.fails_on_rank, 3, (1, "kill"), transport=transport)
    assert lost.value.peer == "rank 1"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="a store for the second")
def test_a_second_group_of_launched_ranks() -> None:
    assert dmlf.launch(programs.twice, 2) == [[[0, 1], True]] * 2


def test_links_of_another_kind_than_launched_are_refused() -> None:
    assert dmlf.launch(programs.other_transport, 2, transport="shm") == ["transport"] * 2


def test_without_a_group_every_call_says_so() -> None:
    for call in (dmlf.rank, dmlf.world_size, dmlf.barrier):
        with pytest.raises(GroupClosed) as caught:
            call()
        assert "dmlf.init()" in str(caught.value)
    assert not dmlf.is_initialized()


MAIN = """
import dmlf

def work(factor):
    return dmlf.init().rank * factor

{call}
"""


def python(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "main.py").write_text(source)
    return subprocess.run(
        [sys.executable, "main.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_functions_of_the_main_script_run(tmp_path: Path) -> None:
    call = 'if __name__ == "__main__":\n    print(dmlf.launch(work, 3, (5,)))'
    shown = python(MAIN.format(call=call), tmp_path)
    assert (shown.stdout, shown.stderr) == ("[0, 5, 10]\n", "")


def test_a_missing_guard_is_named(tmp_path: Path) -> None:
    shown = python(MAIN.format(call="print(dmlf.launch(work, 3, (5,)))"), tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.count("Traceback") == 1
    final = shown.stderr.splitlines()[-1]
    assert final.startswith("dmlf.errors.ConfigError: dmlf.launch:")
    assert 'if __name__ == "__main__":' in final


def test_the_examples_of_the_guide_run(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "library.md").read_text()
    script, launched = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert python(script, tmp_path).stdout == "0 of 1 [0. 0. 0.]\n"
    assert python(launched, tmp_path).stdout == "[5.0, 5.0, 5.0, 5.0]\n"
