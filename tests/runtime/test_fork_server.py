"""The process that ranks are forked from is killed or stopped: nobody waits for it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0


Launcher = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """Starts a launcher of its own: the fork server of the test session serves other tests."""
    started = []

    def launch(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        with suppress(ProcessLookupError):  # as it is after a test that passes
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # closes its pipe and waits
            pass


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (signal.SIGKILL, "the fork server was killed by SIGKILL"),
        (signal.SIGTERM, "the fork server was killed by SIGTERM"),
        (signal.SIGSTOP, "the fork server did not answer within 0.5 s and was killed"),
    ],
)
def test_its_end_ends_the_ranks_and_is_named(
    launcher: Launcher, number: signal.Signals, end: str, tmp_path: Path
) -> None:
    process = launcher(
        "import os, signal\n"
        "from dmlf.errors import PeerLost\n"
        "from dmlf.runtime import fork_server, process_context\n"
        "from dmlf.runtime.launch import started_ranks\n"
        "fork_server.ANSWER_S = 0.5\n"
        "program = 'tests.runtime.programs:wait_for_ever'\n"
        "try:\n"
        "    with started_ranks(process_context([], 1), program, [0] * 3) as ranks:\n"
        f"        os.kill(fork_server._server(), {int(number)})\n"
        f"        if {int(number)} == signal.SIGSTOP:  # which ends no rank by itself\n"
        "            ranks.processes[0].kill()\n"
        "        ranks.result(0)\n"
        "except PeerLost as error:\n"
        "    print(error.detail)\n",
    )
    family = psutil.Process(process.pid)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert output.splitlines()[-1] == f"{end}, and with it all ranks that it had started"
    assert not family.is_running()
    assert list(tmp_path.iterdir()) == []


def test_its_end_ends_a_rank_that_has_not_yet_asked_to_end_with_it(launcher: Launcher) -> None:
    process = launcher(
        "import os, signal\n"
        "from dmlf.errors import PeerLost\n"
        "from dmlf.runtime import fork_server, process_context\n"
        "from dmlf.runtime.launch import started_ranks\n"
        "context = process_context(['tests.runtime.stopped_when_forked'], 1)\n"
        "program = 'tests.runtime.programs:wait_for_ever'\n"
        "try:\n"
        "    with started_ranks(context, program, [0]) as ranks:\n"
        "        rank = ranks.processes[0]._process.pid\n"
        "        while open(f'/proc/{rank}/stat').read().split()[2] != 'T':\n"
        "            pass\n"
        "        os.kill(fork_server._server(), signal.SIGKILL)\n"
        "        assert fork_server._ended(fork_server._server(), 10.0)\n"
        "        os.kill(rank, signal.SIGCONT)\n"
        "        ranks.result(0)\n"
        "except PeerLost as error:\n"
        "    print(error.detail)\n",
    )
    output, _ = process.communicate(timeout=DEADLINE_S)
    lost = "the fork server was killed by SIGKILL, and with it all ranks that it had started"
    assert output.splitlines() == [lost]


def test_if_it_cannot_start_a_rank_that_is_said(launcher: Launcher) -> None:
    process = launcher(
        "import os, signal\n"
        "from multiprocessing import forkserver\n"
        "from dmlf.errors import PeerLost\n"
        "from dmlf.runtime import fork_server, process_context, run_ranks\n"
        "context = process_context([], 1)\n"
        "program = 'tests.runtime.programs:square'\n"
        "print(run_ranks(context, program, [3]))\n"
        "fork_server.ANSWER_S = 0.5\n"
        "os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)\n"
        "try:\n"
        "    run_ranks(context, program, [3])\n"
        "except PeerLost as error:\n"
        "    print(error.detail)\n"
        "print(run_ranks(context, program, [4]))\n",
    )
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert output.splitlines() == [
        "[(0, 9)]",
        "the fork server did not answer within 0.5 s and was killed "
        "before it could start this rank",
        "[(0, 16)]",
    ]


def test_a_killed_launcher_leaves_no_socket(launcher: Launcher, tmp_path: Path) -> None:
    process = launcher(
        "from dmlf.runtime import process_context, run_ranks\n"
        "run_ranks(process_context([], 1), 'tests.runtime.programs:wait_for_ever', [0])\n",
    )
    assert process.stdout is not None
    process.stdout.readline()  # the rank runs
    family = psutil.Process(process.pid).children(recursive=True)
    assert list(tmp_path.glob("*/listener-*"))
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=DEADLINE_S)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_recovers_from_its_end_at_one_restart(launcher: Launcher, tmp_path: Path) -> None:
    def train(steps: int, *more: str) -> subprocess.Popen[str]:
        words = ["--task", "synthetic", "--algorithm", "ring", "--transport", "shm", *more]
        code = (
            "from dmlf.cli import main\n"
            f"main(['train', '--world-size', '3', '--reduction', 'exact', '--max-steps', '{steps}',"
            f" '--epochs', '1000', *{words!r}])\n"
        )
        return launcher(code)

    saved = tmp_path / "c"
    run = train(
        1500, "--max-restarts", "1", "--checkpoint-dir", str(saved), "--checkpoint-every", "50"
    )
    deadline = time.monotonic() + DEADLINE_S
    while not list(saved.glob("step-*")) and time.monotonic() < deadline:
        continue
    for child in psutil.Process(run.pid).children():
        if "forkserver" in " ".join(child.cmdline()):
            child.kill()
    disturbed, _ = run.communicate(timeout=DEADLINE_S)
    undisturbed, _ = train(1500).communicate(timeout=DEADLINE_S)
    assert disturbed.split()[-1] == undisturbed.split()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_temporary_folder_too_deep_for_a_socket_is_named(
    launcher: Launcher, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    process = launcher(
        "import os\n"
        f"os.environ['TMPDIR'] = {str(deep)!r}\n"
        "from dmlf.errors import ConfigError\n"
        "from dmlf.runtime import process_context, run_ranks\n"
        "try:\n"
        "    run_ranks(process_context([], 1), 'tests.runtime.programs:square', [3])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert output.startswith(f"TMPDIR: {str(deep)!r} is not allowed")
    assert "AF_UNIX path too long" in output
    assert list(deep.iterdir()) == []
