"""Runs whose ranks are started by workers, on this host as on any others."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from dmlf.config import RunConfig
from dmlf.runtime.coordinator import Secret
from dmlf.training import hosts
from dmlf.training.run import train

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
RUN = RunConfig(
    task="synthetic",
    reduction="exact",
    num_shards=4,
    max_steps=6,
    warmup_steps=0,
    epochs=1,
    learning_rate=0.05,
    task_options={"num_samples": 1024},
)
FLAGS = [
    *("--task", "synthetic", "--reduction", "exact", "--num-shards", "4", "--max-steps", "6"),
    *("--warmup-steps", "0", "--epochs", "1", "--learning-rate", "0.05"),
    *("--task-option", "num_samples=1024"),
]

LONG = ["--max-steps", "100000", "--epochs", "99999"]
RING = ["--algorithm", "ring", "--transport"]


class Site:
    """A coordinator, its workers, and the files they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "metrics.json"
        self.key = self.make_key("key")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.started: list[subprocess.Popen[str]] = []

    def make_key(self, name: str) -> Path:
        path = self.folder / name
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
        return path

    def place(self, key: Path | None = None) -> list[str]:
        return ["--coordinator", f"127.0.0.1:{self.port}", "--key-file", str(key or self.key)]

    def start(self, *arguments: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dmlf", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def coordinate(self, *flags: str, world_size: int = 2) -> subprocess.Popen[str]:
        run = [*FLAGS, "--world-size", str(world_size), "--transport", "tcp", *self.place()]
        return self.start("train", *run, "--output", str(self.output), *flags)

    def worker(
        self, *flags: str, key: Path | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[str]:
        return self.start("worker", *self.place(key), *flags, cwd=cwd)

    def failure(self) -> dict[str, str]:
        error: dict[str, str] = json.loads(self.output.with_name("failure.json").read_text())[
            "error"
        ]
        return error


S = TypeVar("S", bound=Site)


@contextmanager
def opened(site: S) -> Iterator[S]:
    """Leave nothing of the site behind."""
    yield site
    children = [
        child
        for process in site.started
        if process.poll() is None
        for child in psutil.Process(process.pid).children(recursive=True)
    ]
    for process in site.started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    assert not psutil.wait_procs(children, TIMEOUT_S)[1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(Site(tmp_path)) as site:
        yield site


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output


def await_place(worker: subprocess.Popen[str]) -> None:
    """Return once the worker has a place, and so has started its rank's process."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and worker.poll() is None:
        if psutil.Process(worker.pid).children():
            return
        os.sched_yield()
    raise AssertionError("the worker was given no place")


def ranks_of(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    """The rank's process, once the worker has started it.

    It is the fork server's child: the worker's own has the worker's connections until it has become
    the fork server or the resource tracker.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and worker.poll() is None:
        for child in psutil.Process(worker.pid).children(recursive=True):
            if child.ppid() == worker.pid:
                continue
            if any(link.status == "ESTABLISHED" for link in child.net_connections("tcp")):
                return [child]
        os.sched_yield()
    raise AssertionError("the worker started no rank")


@pytest.mark.parametrize(
    ("algorithm", "workers", "flags"),
    [("ring", 3, []), ("parameter_server", 5, ["--num-servers", "2"])],
)
def test_workers_train_what_serial_trains(
    site: Site, algorithm: str, workers: int, flags: list[str]
) -> None:
    coordinator = site.coordinate("--algorithm", algorithm, "--timeline", *flags, world_size=3)
    started = [site.worker() for _ in range(workers)]
    code, output = ended(coordinator)
    assert code == 0, output
    outcomes = [ended(worker) for worker in started]
    assert sorted(text for _, text in outcomes) == [f"rank {i} done\n" for i in range(workers)]
    assert {code for code, _ in outcomes} == {0}
    metrics = json.loads(site.output.read_text())
    assert metrics["final_state_sha256"] == train(RUN).final_state().sha256()
    assert len(metrics["timing"]["per_rank"]) == workers
    assert 0.0 < metrics["timing"]["launch_s"] < metrics["timing"]["total_s"]
    assert metrics["timing"]["others_cpu_share"] is None  # ranks elsewhere would pass for others
    events = json.loads(site.output.with_name("timeline.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == set(range(workers))


def test_a_wrong_key_is_refused_at_once_and_the_run_goes_on(site: Site) -> None:
    coordinator = site.coordinate("--algorithm", "ring")
    start = time.monotonic()
    code, output = ended(site.worker(key=site.make_key("other")))
    assert code == 1
    assert "another key" in output
    assert time.monotonic() - start < 10.0  # the start of Python included
    for worker in [site.worker(), site.worker()]:
        assert ended(worker)[0] == 0
    assert ended(coordinator)[0] == 0


def test_a_worker_too_many_is_told_so(site: Site) -> None:
    coordinator = site.coordinate(
        "--algorithm", "ring", "--max-steps", "100000", "--epochs", "99999"
    )
    members = [site.worker(), site.worker()]
    for member in members:
        ranks_of(member)
    code, output = ended(site.worker())
    assert code == 2
    assert "the run has all of its 2 workers" in output
    coordinator.send_signal(signal.SIGTERM)
    assert ended(coordinator)[0] != 0
    for member in members:
        code, output = ended(member)
        assert code == 1
        assert "is gone" in output  # the coordinator, or the other rank, which ended before


def test_a_coordinator_waits_no_longer_than_it_was_told(site: Site) -> None:
    coordinator = site.coordinate("--algorithm", "ring", "--join-timeout-s", "3")
    worker = site.worker("--join-timeout-s", "30")
    code, output = ended(coordinator)
    assert code == 1
    assert "waited 3 s to connect with rank 1" in output
    assert site.failure()["type"] == "RendezvousError"
    assert ended(worker)[0] == 1


@pytest.mark.parametrize("victim", ["rank", "worker"])
def test_a_killed_rank_is_named_on_all_hosts(site: Site, victim: str) -> None:
    coordinator = site.coordinate("--algorithm", "ring", *LONG)
    workers = [site.worker(), site.worker()]
    ranks = [ranks_of(worker)[0] for worker in workers]
    start = time.monotonic()
    if victim == "rank":
        ranks[1].kill()
    else:
        workers[1].kill()
    code, output = ended(coordinator)
    assert code == 1
    assert time.monotonic() - start < 10.0
    failure = site.failure()
    assert failure["type"] == "PeerLost", output
    if victim == "rank":
        assert "killed by SIGKILL" in failure["message"]
    assert ended(workers[0])[0] == 1
    assert not psutil.wait_procs(ranks, TIMEOUT_S)[1]


def test_no_rank_outlives_a_killed_coordinator(site: Site) -> None:
    coordinator = site.coordinate("--algorithm", "ring", *LONG)
    workers = [site.worker(), site.worker()]
    ranks = [ranks_of(worker)[0] for worker in workers]
    coordinator.kill()
    for worker in workers:
        code, output = ended(worker)
        assert code == 1
        assert "dmlf: " in output
        assert len(output.splitlines()) == 1
    assert not psutil.wait_procs(ranks, TIMEOUT_S)[1]


def test_an_error_of_a_users_task_is_shown_by_the_coordinator(site: Site) -> None:
    failing = ["--task", "tests.training.own_task:broken_loss"]
    coordinator = site.coordinate("--algorithm", "ring", *failing)
    workers = [site.worker(), site.worker()]
    code, output = ended(coordinator)
    assert code == 1
    assert "Traceback" in output
    assert site.failure()["type"] == "RemoteError"
    assert {ended(worker)[0] for worker in workers} == {1}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", *RING, "tcp", "--coordinator", "127.0.0.1:5"], "key_file: None"),
        (["train", *RING, "shm", "--key-file", "x"], "key_file: 'x'"),
        (["worker", "--coordinator", "nowhere", "--key-file", "KEY"], "coordinator: 'nowhere'"),
        (["worker", "--coordinator", "h:99999", "--key-file", "KEY"], "coordinator: 'h:99999'"),
        (["worker", "--coordinator", "h:9", "--key-file", "missing"], "key_file: 'missing'"),
        (["worker", "--coordinator", "h:9", "--key-file", "OPEN"], "chmod 600"),
        (["worker", "--coordinator", "h:9", "--key-file", "SHORT"], "at least 16 random bytes"),
        (
            ["worker", "--coordinator", "h:9", "--key-file", "KEY", "--tls-key", "k"],
            "tls_certificate: None",
        ),
        (
            ["worker", "--coordinator", "h:9", "--key-file", "KEY", "--join-timeout-s", "nan"],
            "join_timeout_s: nan",
        ),
        (
            ["train", *RING, "shm", "--coordinator", "127.0.0.1:5", "--key-file", "KEY"],
            "transport: 'shm'",
        ),
    ],
)
def test_bad_flags_get_one_line(site: Site, arguments: list[str], text: str) -> None:
    for name, content, mode in (("OPEN", "x" * 32, 0o644), ("SHORT", "x", 0o600)):
        (site.folder / name).write_text(content)
        (site.folder / name).chmod(mode)
    files = {"KEY": site.key, "OPEN": site.folder / "OPEN", "SHORT": site.folder / "SHORT"}
    code, output = ended(site.start(*(str(files.get(word, word)) for word in arguments)))
    assert code == 2
    assert text in output
    assert len(output.splitlines()) == 1


def test_a_port_in_use_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site.port = taken.getsockname()[1]
        code, output = ended(site.coordinate("--algorithm", "ring"))
    assert code == 1
    assert f"127.0.0.1:{site.port}" in output
    assert len(output.splitlines()) == 1


def test_a_coordinator_that_never_comes_is_named(site: Site) -> None:
    code, output = ended(site.worker("--join-timeout-s", "0.5"))
    assert code == 1
    assert f"127.0.0.1:{site.port} did not answer within 0.5 s" in output


@pytest.mark.parametrize(
    ("name", "remarked"), [("this-host", True), ("localhost", False), ("127.0.1.1", False)]
)
def test_a_coordinator_that_only_its_own_host_reaches_says_so(
    name: str,
    remarked: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Debian gives a host's own name 127.0.1.1."""
    found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    hosts._listen(hosts.Rendezvous((name, 0), Secret(b"0123456789abcdef"))).close()
    said = capsys.readouterr().err
    assert said.startswith("dmlf: this-host is 127.0.1.1 here, ") == remarked
    assert said.count("\n") == remarked
