"""Ranks are real processes; whatever ends a run, none of them is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dmlf.errors import NonFiniteGradient, PeerLost, RemoteError
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.launch import _collect

PROGRAMS = "tests.runtime.programs"
ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 20.0


def run(function: str, arguments: list[object]) -> list[object]:
    return run_ranks(process_context([], 1), f"{PROGRAMS}:{function}", arguments)


def test_results_come_back_by_rank() -> None:
    assert run("square", [3, 4, 5]) == [(0, 9), (1, 16), (2, 25)]


def test_a_failing_rank_ends_the_run_with_its_own_traceback() -> None:
    with pytest.raises(RemoteError) as caught:
        run("fail_on", [1, 1, 1])
    assert caught.value.rank == 1
    assert "ValueError: planted on 1" in caught.value.error
    assert "in fail_on" in caught.value.traceback


def test_a_typed_error_arrives_as_it_was_raised() -> None:
    with pytest.raises(NonFiniteGradient) as caught:
        run("fail_typed_on", [0, 0])
    assert caught.value.step == 7


@pytest.mark.parametrize(
    ("function", "detail"), [("killed_on", "killed by SIGKILL"), ("exit_on", "exit code 3")]
)
def test_a_rank_that_dies_without_a_word_is_named(function: str, detail: str) -> None:
    with pytest.raises(PeerLost) as caught:
        run(function, [2, 2, 2])
    assert caught.value.peer == "rank 2"
    assert detail in caught.value.detail


def test_a_cause_is_named_before_its_consequences() -> None:
    """Rank 1 was killed; by the time the launcher looks, rank 0 has failed because of it."""

    class Killed:
        exitcode = -signal.SIGKILL

        def join(self) -> None:
            """It has ended."""

    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(3)]
    pipes[0][1].send(PeerLost("rank 2", "it closed the connection"))
    pipes[2][1].send(PeerLost("rank 1", "it closed the connection"))
    for _, sender in pipes:
        sender.close()
    with pytest.raises(PeerLost, match="SIGKILL") as caught:
        _collect([Killed()] * 3, [receiver for receiver, _ in pipes])  # type: ignore[list-item]
    assert caught.value.peer == "rank 1"
    for receiver, _ in pipes:
        receiver.close()


def test_ranks_have_the_threads_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as a workflow engine exports it
    code = (
        "from dmlf.runtime import process_context, run_ranks\n"
        f"print(run_ranks(process_context([], 2), '{PROGRAMS}:thread_variables', [0]))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert output.decode().count("'2'") == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_its_launcher(how: signal.Signals) -> None:
    code = (
        "from dmlf.runtime import process_context, run_ranks\n"
        f"run_ranks(process_context([], 1), '{PROGRAMS}:wait_for_ever', [0, 0, 0])\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert launcher.stdout is not None
        ranks = [psutil.Process(int(launcher.stdout.readline())) for _ in range(3)]
        family = psutil.Process(launcher.pid).children(recursive=True)
        assert {rank.pid for rank in ranks} <= {process.pid for process in family}
        os.kill(launcher.pid, how)
        launcher.wait(DEADLINE_S)
        assert launcher.returncode != 0
        _, alive = psutil.wait_procs(family, timeout=DEADLINE_S)
        assert alive == []
    finally:
        if launcher.poll() is None:
            launcher.kill()
        launcher.communicate()


def test_a_process_can_end_with_the_one_that_started_it() -> None:
    child = (
        "import os, signal, threading\n"
        "from dmlf.runtime.child import signal_on_parent_death\n"
        "signal_on_parent_death(signal.SIGTERM)\n"
        "print(os.getpid(), flush=True)\n"
        "threading.Event().wait()\n"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    process = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    assert psutil.wait_procs([process], timeout=DEADLINE_S)[1] == []
