"""The verb run: a user's script on several ranks, how it ends, and what is left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dmlf.group.imports import worth_preloading

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
TIMEOUT_S = 90
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch")


def start(*words: str, folder: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dmlf", "run", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: str, folder: Path = ROOT) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""
    with start(*words, folder=folder) as process:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output.splitlines(), errors


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
@pytest.mark.parametrize("nproc", [1, 3])
def test_every_rank_runs_the_script(transport: str, nproc: int) -> None:
    script = str(SCRIPTS / "sums.py")
    code, lines, errors = run("--nproc", str(nproc), "--transport", transport, script)
    assert (code, errors) == (0, "")
    total = [nproc * place + sum(range(nproc)) for place in range(4)]
    assert sorted(lines) == [
        f"rank {rank} of {nproc} {[float(each) for each in total]}" for rank in range(nproc)
    ]


def test_alone_the_script_is_serial() -> None:
    shown = subprocess.run(
        [sys.executable, str(SCRIPTS / "sums.py")],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert shown.stdout == "rank 0 of 1 [0.0, 1.0, 2.0, 3.0]\n"


@needs_torch
@pytest.mark.parametrize("flag", ["--torch-first", "--torch-after", "--again"])
def test_torch_distributed_finds_the_same_ranks(flag: str) -> None:
    code, lines, errors = run("--nproc", "2", str(SCRIPTS / "sums.py"), flag)
    assert code == 0, errors
    assert len(lines) == (2 if flag == "--torch-first" else 4)
    if flag == "--torch-after":
        assert sorted(lines)[2:] == ["torch 0 [2.0, 2.0]", "torch 1 [2.0, 2.0]"]


def test_a_module_is_found_as_python_finds_it(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "job.py").write_text(
        "import sys, dmlf\nfrom package import side\n"
        "dmlf.init()\nprint(__name__, __package__, side.VALUE, sys.argv[1:])"
    )
    (tmp_path / "package" / "side.py").write_text("VALUE = 5")
    code, lines, errors = run("--nproc", "2", "-m", "package.job", "-x", folder=tmp_path)
    assert code == 0, errors
    assert lines == ["__main__ package 5 ['-x']"] * 2


def test_a_script_is_the_main_program_in_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 7")
    (tmp_path / "job.py").write_text(
        "import sys, neighbour, os, pickle\n"
        "class Thing: pass\n"
        "assert __name__ == '__main__' and __file__.endswith('job.py')\n"
        "assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)\n"
        "print(neighbour.VALUE, sys.argv, os.environ['LOCAL_RANK'] == os.environ['RANK'])"
    )
    script = str(tmp_path / "job.py")
    code, lines, errors = run("--nproc", "2", script, "--nproc", "9")
    assert code == 0, errors
    assert lines == [f"7 {[script, '--nproc', '9']} True"] * 2


@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (("exit", "3"), 3, "dmlf: the script of rank 1 ended with exit code 3"),
        (("exit", "-1"), 255, "dmlf: the script of rank 1 ended with exit code 255"),
        (("text",), 1, "dmlf: the script of rank 1 ended with exit code 1"),
        (("raise",), 1, "dmlf: rank 1 failed: KeyError: 'missing key'"),
        (("kill",), 1, "dmlf: rank 1 is gone: killed by SIGKILL"),
        (("leave",), 1, "dmlf: rank 1 is gone: its process ended with exit code 7 before it"),
    ],
)
def test_the_first_failure_ends_all(words: tuple[str, ...], code: int, last: str) -> None:
    found, _, errors = run("--nproc", "3", str(SCRIPTS / "ends.py"), *words)
    assert found == code
    *before, final = errors.splitlines()
    assert final.startswith(last)
    if words == ("raise",):
        assert before[0] == "Traceback (most recent call last):"
        assert before[1].endswith('ends.py", line 19, in <module>')
        assert before[-1] == "KeyError: 'missing key'"
    else:
        assert before == (["what went wrong"] if words == ("text",) else [])


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_rank_that_ends_early_does_not_leave_the_others_waiting(transport: str) -> None:
    words = ("--nproc", "3", "--transport", transport, str(SCRIPTS / "ends.py"), "exit", "0")
    code, _, errors = run(*words)
    assert code == 1
    assert "rank 1" in errors.splitlines()[-1]


def test_calls_in_different_order_are_named() -> None:
    code, _, errors = run("--nproc", "2", str(SCRIPTS / "ends.py"), "order")
    assert code == 1
    final = errors.splitlines()[-1]
    assert "CollectiveMismatch: call 0 of the group" in final
    assert "barrier()" in final
    assert "all_reduce(sum, float64[3]" in final


def test_lines_of_any_length_stay_whole() -> None:
    code, lines, errors = run("--nproc", "3", str(SCRIPTS / "ends.py"), "long lines")
    assert code == 0, errors
    assert sorted(lines) == [str(rank) * 30_000 for rank in range(3) for _ in range(20)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    with start("--nproc", "3", str(SCRIPTS / "ends.py"), "wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert process.returncode == expected, errors
    assert psutil.wait_procs(started, timeout=20)[1] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--nproc"),
        (("--nproc", "2"), "no script"),
        (("--nproc", "2", "-m"), "no script"),
        (("--nproc", "0", str(SCRIPTS / "sums.py")), "--nproc: 0"),
        (("--nproc", "2", "nowhere.py"), "nowhere.py"),
        (("--nproc", "2", "--transport", "pigeon", "x.py"), "pigeon"),
        (("--nproc", "2", "--timeout-s", "0", str(SCRIPTS / "sums.py")), "timeout_s: 0.0"),
        (("--nproc", "2", "--algorithm", "parameter_server", "x.py"), "parameter_server"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: tuple[str, ...], named: str) -> None:
    code, lines, errors = run(*words)
    assert (code, lines) == (2, [])
    assert errors.count("\n") == 1
    assert named in errors


@needs_torch
@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy, json", []),
        ("import torch", ["torch"]),
        ("def f():\n    from torch.nn import Linear", ["torch"]),
        ("import torchvision", ["torch"]),
        ("from dmlf.torch import DistributedDataParallel", ["torch"]),
        ("from dmlf import torch", ["torch"]),
        ("import beside", ["torch"]),
        ("import folder.part", []),
        ("import torchless", []),
        ("not python", []),
    ],
)
def test_torch_is_preloaded_only_for_scripts_that_import_it(
    tmp_path: Path, source: str, found: list[str]
) -> None:
    (tmp_path / "script.py").write_text(source)
    (tmp_path / "beside.py").write_text("import further, script")
    (tmp_path / "further.py").write_text("import torch")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").write_text("import json")
    assert worth_preloading(tmp_path / "script.py") == found
