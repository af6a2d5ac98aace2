"""A save that is killed at each of its calls, or fails in each: the previous or the new, whole.

Twice: at every operation of the seam through which the store writes (`files.py`), before and after
it; and, where strace may trace, at every system call that the process really makes.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.checkpoint import CheckpointStore, load_newest
from dmlf.checkpoint.files import DiskFiles
from dmlf.errors import CheckpointWriteError
from tests.checkpoint.save_once import WRITE_ERROR
from tests.checkpoint.seam import DyingFiles, RecordingFiles
from tests.checkpoint.snapshots import CONFIG, bits, snapshot

DEADLINE_S = 60.0
SCENARIOS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "the first": ((), 3, 1),
    "the second": ((1,), 3, 2),
    "replacing the only one": ((1,), 1, 2),
    "the same step again": ((2,), 1, 2),
}


def prepare(folder: Path, scenario: str) -> None:
    before, keep, _ = SCENARIOS[scenario]
    for step in before:
        with CheckpointStore(folder, CONFIG, keep=keep) as store:
            store.save(snapshot(step))


def in_child(run: Callable[[], Any]) -> int:
    """Run in a fork of this process; return its wait status: 0, or the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    watched = os.pidfd_open(pid)
    try:
        if not select.select([watched], [], [], DEADLINE_S)[0]:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the child did not end")
    finally:
        os.close(watched)
        status = os.waitpid(pid, 0)[1]
    return status


def state_of(folder: Path) -> Any:
    """What loads; nothing that a dead writer leaves may look like a damaged checkpoint."""
    loaded = load_newest(folder, CONFIG)
    if loaded is None:
        return None
    assert loaded.rejected == ()
    return bits(loaded.snapshot)


def allowed(scenario: str) -> list[Any]:
    before, _, step = SCENARIOS[scenario]
    return [bits(snapshot(before[-1], generation=0)) if before else None, bits(_new(step))]


def _new(step: int) -> Any:
    return snapshot(step, generation=1)


def assert_usable(folder: Path, keep: int) -> None:
    """The next writer saves, and removes all that the dead one left."""
    with CheckpointStore(folder, CONFIG, keep=keep) as store:
        store.save(snapshot(9))
    assert state_of(folder) == bits(snapshot(9))
    assert [path.name for path in folder.iterdir() if ".tmp" in path.name] == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_each_operation(tmp_path: Path, scenario: str, after: bool) -> None:
    _, keep, step = SCENARIOS[scenario]
    prepare(tmp_path / "start", scenario)
    previous, new = allowed(scenario)
    outcomes = []
    for n in range(1000):
        folder = tmp_path / str(n)
        if (tmp_path / "start").exists():
            shutil.copytree(tmp_path / "start", folder)

        def save(folder: Path = folder, n: int = n) -> None:
            files = DyingFiles(n, after)
            with CheckpointStore(folder, CONFIG, keep=keep, files=files) as store:
                store.save(_new(step))

        status = in_child(save)
        found = state_of(folder)
        assert found in (previous, new), f"killed at operation {n}"
        outcomes.append(found == new)
        assert_usable(folder, keep)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    # Some 20 operations; the new one appears once, and stays.
    assert len(outcomes) > 18
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)


class FailingFiles(RecordingFiles):
    """Fails with an errno instead of doing the n-th operation, and only that one."""

    def __init__(self, n: int, errno: int) -> None:
        super().__init__()
        self._left = n
        self._errno = errno
        self.failed: str | None = None

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._left == 0:
            self.failed = name
            self._left -= 1
            if name == "close":
                os.close(arguments[0])  # as the kernel does, also where it reports an error
            raise OSError(self._errno, os.strerror(self._errno))
        self._left -= 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_in_each_operation_is_reported_and_harms_nothing(
    tmp_path: Path, scenario: str
) -> None:
    _, keep, step = SCENARIOS[scenario]
    prepare(tmp_path / "start", scenario)
    previous, new = allowed(scenario)
    failed = set()
    for n in range(1000):
        folder = tmp_path / str(n)
        if (tmp_path / "start").exists():
            shutil.copytree(tmp_path / "start", folder)
        files = FailingFiles(n, 5)
        problem = None
        try:
            with CheckpointStore(folder, CONFIG, keep=keep, files=files) as store:
                store.save(_new(step))
        except CheckpointWriteError as error:
            problem = error.problem
        if files.failed is None:
            assert problem is None
            break
        assert problem == "cannot be written: Input/output error"
        failed.add(files.failed)
        found = state_of(folder)
        renamed = any(operation.name == "rename" for operation in files.operations)
        assert found == (new if renamed else previous), f"failed at {n}: {files.failed}"
        if not renamed and folder.exists():
            assert [path.name for path in folder.iterdir() if ".tmp" in path.name] == []
        if folder.exists():
            assert_usable(folder, keep)
    assert failed >= {"make_folder", "create", "write", "sync", "close", "rename", "sync_folder"}


class ShortWrites(DiskFiles):
    """Real writes of at most 7 bytes, as the kernel may choose at any time."""

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        return super().write(descriptor, content[:7])


def test_short_writes_are_continued(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG, files=ShortWrites()) as store:
        store.save(snapshot(1))
    assert state_of(tmp_path) == bits(snapshot(1))


@pytest.mark.parametrize("limit", [0, 1, 100, 3000])
def test_a_limit_of_the_file_size_is_an_error(tmp_path: Path, limit: int) -> None:
    """EFBIG for real: the kernel takes a first part of the write and refuses the rest."""
    prepare(tmp_path, "the second")

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with CheckpointStore(tmp_path, CONFIG) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(CheckpointWriteError, match="File too large"):
                store.save(snapshot(2))

    assert in_child(save) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-0000000001"]
    assert_usable(tmp_path, 3)


def _inside_tiny_disk(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    script = 'mount -t tmpfs -o size=200k none "$1" || exit 99; shift; exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh",
         str(tmp_path), sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip


FILL = """
import os, sys
from pathlib import Path
from dmlf.checkpoint import CheckpointStore, load_newest
from dmlf.errors import CheckpointWriteError
from tests.checkpoint.snapshots import CONFIG, bits, snapshot
folder = Path(sys.argv[1])
refused = 0
for free in range(0, 40):
    with CheckpointStore(folder, CONFIG) as store:
        if free == 0:
            store.save(snapshot(1))
        fill = folder / "fill"
        with open(fill, "wb") as stream:
            room = os.statvfs(folder)
            stream.write(bytes(room.f_bavail * room.f_frsize - free * 4096))
        try:
            store.save(snapshot(2))
        except CheckpointWriteError as error:
            assert "No space left" in str(error), error
            assert sorted(os.listdir(folder)) == [".lock", "fill", "step-0000000001"]
            assert bits(load_newest(folder, CONFIG).snapshot) == bits(snapshot(1))
            refused += 1
            fill.unlink()
        else:
            break
assert bits(load_newest(folder, CONFIG).snapshot) == bits(snapshot(2))
print(refused)
"""


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    try:
        done = _inside_tiny_disk(tmp_path, FILL)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4  # pages: each file needs some of its own


READING = {
    "access", "chdir", "execve", "faccessat2", "getcwd", "lstat", "newfstatat", "readlink",
    "readlinkat", "stat", "statfs", "statx",
}  # fmt: skip
NAMES = {
    "mkdir": "make_folder", "mkdirat": "make_folder", "write": "write", "rename": "rename",
    "renameat": "rename", "renameat2": "rename", "unlink": "unlink", "rmdir": "remove_folder",
    "openat": "create",
}  # fmt: skip
CALL = re.compile(r"(\d+ +)?(\w+)\((.*)")


def trace(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One save of step 2 over step 1 with keep=1, under strace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    return subprocess.run(
        [strace, "-f", "-y", "-qq", *options,
         sys.executable, "-m", "tests.checkpoint.save_once", str(folder), "2", "1"],
        capture_output=True, text=True, timeout=DEADLINE_S,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """Every system call of a save that changes the folder: name, ordinal among its name, line."""
    folder = tmp_path_factory.mktemp("traced") / "checkpoints"
    prepare(folder, "replacing the only one")
    log = folder.parent / "log"
    traced = "trace=%file,write,pwrite64,writev,fsync,fdatasync,ftruncate,fallocate"
    done = trace(folder, "-o", str(log), "-e", traced)
    if done.returncode != 0 and not log.exists():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = []
    ordinals: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        name, arguments = match[2], match[3]
        ordinals[name] += 1
        reads = name in READING or (name == "openat" and "O_CREAT" not in arguments)
        if str(folder) in arguments and not reads:
            found.append((name, ordinals[name], line))
    return found


def test_the_seam_is_all_that_writes(tmp_path: Path, calls: list[tuple[str, int, str]]) -> None:
    folder = tmp_path / "checkpoints"
    prepare(folder, "replacing the only one")
    files = RecordingFiles()
    with CheckpointStore(folder, CONFIG, keep=1, files=files) as store:
        store.save(snapshot(2))
    expected = ["fsync" if "sync" in item.name else item.name for item in files.operations]
    traced = [NAMES.get(name, name) for name, _, line in calls if "/.lock" not in line]
    assert traced == expected


def test_killed_at_each_system_call(tmp_path: Path, calls: list[tuple[str, int, str]]) -> None:
    outcomes = []
    previous, new = bits(snapshot(1)), bits(snapshot(2))
    prepare(tmp_path / "start", "replacing the only one")
    for index, (name, ordinal, line) in enumerate(calls):
        folder = tmp_path / str(index)
        shutil.copytree(tmp_path / "start", folder)
        inject = f"inject={name}:signal=KILL:when={ordinal}"
        done = trace(folder, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), line
        found = state_of(folder)
        assert found in (previous, new), line
        outcomes.append(found == new)
        assert_usable(folder, 1)
    assert len(outcomes) > 18
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)


def test_an_error_of_each_system_call(tmp_path: Path, calls: list[tuple[str, int, str]]) -> None:
    previous, new = bits(snapshot(1)), bits(snapshot(2))
    prepare(tmp_path / "start", "replacing the only one")
    renamed = False
    for index, (name, ordinal, line) in enumerate(calls):
        folder = tmp_path / str(index)
        shutil.copytree(tmp_path / "start", folder)
        error = "ENOSPC" if name in ("write", "mkdir", "mkdirat", "openat") else "EIO"
        inject = f"inject={name}:error={error}:when={ordinal}"
        # Other calls are not stopped at, which is twice as fast; signals are lost that way.
        options = ("--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject)
        done = trace(folder, *options)
        assert done.returncode == WRITE_ERROR, (line, done.stderr)
        assert done.stdout.count("\n") == 1
        # A rename that fails has not happened; the first one is that of the new checkpoint.
        assert state_of(folder) == (new if renamed else previous), line
        if not renamed:
            assert [path.name for path in folder.iterdir() if ".tmp" in path.name] == []
        renamed = renamed or name.startswith("rename")
        assert_usable(folder, 1)
