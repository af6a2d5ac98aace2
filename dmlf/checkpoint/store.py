"""Writing checkpoints that are whole or absent, whatever happens at whatever moment.

How a checkpoint comes to be, in this order:

1. a new folder `.step-N.TOKEN.tmp`, which no reader looks at;
2. in it the tensor files, manifest.json and COMPLETE (the manifest's SHA-256), each fsynced;
3. fsync of that folder: now the names in it are durable as well;
4. rename to `step-N`;
5. fsync of the folder of checkpoints: only now is the checkpoint durable, and `save` goes on;
6. what is older than the newest `keep` is removed: rename to a temporary name, which is what
   un-marks it, fsync of the folder, and only then its files go.

Why every crash leaves the previous or the new checkpoint, whole: a process that is killed loses
nothing that it had handed to the kernel, so what counts is the order of the calls, and `step-N`
appears in one of them, a rename, when all is in it. A machine that goes down may besides lose or
garble what was written since the last fsync of a file, and any subset of the entries changed since
the last fsync of a folder, in any order. By 2 and 3 all that `step-N` leads to is durable before
the rename can be; by 5 the new one is durable before an old one is touched; by 6 no checkpoint's
name outlives a part of its content. Nothing visible is ever replaced: a second checkpoint of a step
has a name of its own, so no rename overwrites, which for folders no portable call can do. The
marker says the same once more, for copies of the folder that did not finish.

Assumed: a local file system whose rename is atomic and whose fsync is honest (ext4, xfs, btrfs,
tmpfs without the machine going down). tests/checkpoint/ kills a save at each call, and replays each
in a model file system that loses all it may.
Sources: Pillai et al., "All file systems are not created equal", OSDI 2014, for what may be
reordered; Rebello et al., "Can applications recover from fsync failures?", USENIX ATC 2020.
"""

from __future__ import annotations

import fcntl
import functools
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dmlf.checkpoint.files import DISK, DiskFiles, remove_tree, write_durably
from dmlf.checkpoint.load import candidates, load_checkpoint
from dmlf.checkpoint.manifest import Manifest, marker
from dmlf.checkpoint.names import (
    COMPLETE,
    GROUPS,
    LOCK,
    MANIFEST,
    MAX_STEP,
    checkpoint_name,
    is_temporary,
    parse_checkpoint_name,
    temporary_name,
    tensor_file_name,
)
from dmlf.checkpoint.snapshot import Arrays, OwnLoop, RunState, Snapshot
from dmlf.checkpoint.tensors import FileEntry, encode
from dmlf.config import RunConfig
from dmlf.env import source_sha256
from dmlf.errors import (
    CheckpointCorrupt,
    CheckpointWriteError,
    ConfigError,
)

Verified = frozenset[tuple[str, int, int]]
"""Checkpoints that were valid, by what tells them from others that come later under their names."""


class CheckpointStore:
    """The one writer of a folder that holds the checkpoints of one run.

    folder: links in it are followed now, and never again. keep: how many of the newest valid
    checkpoints stay. Opening makes the folder, locks it, and verifies in full what is there, but
    for `verified`: what an earlier store of this process returned from its method of that name.
    The kernel frees the lock when the process ends, however it does, and with it those that were
    forked from it since, which share the lock. Raises CheckpointWriteError where another process
    writes here, and CheckpointMismatch where the folder holds a checkpoint of another run.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig | OwnLoop,
        *,
        keep: int = 3,
        verified: Verified = frozenset(),
        files: DiskFiles = DISK,
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ConfigError("keep", keep, "an integer from 1: the newest checkpoint stays")
        self._folder = Path(os.path.realpath(folder))
        self._config = config
        self._trajectory_sha256 = config.trajectory_sha256()
        self._keep = keep
        self._files = files
        self._source_sha256 = _sources_of_this_process()
        try:
            self._make_folder()
            self._lock = _lock(self._folder)
        except OSError as error:
            raise _write_error(self._folder, error) from None
        try:
            self._valid = self._find_valid(verified)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the folder for another writer."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self, snapshot: Snapshot) -> Path:
        """Write a whole checkpoint and return its folder; once returned, it is durable.

        Removes drafts that were not finished, by this writer or one that is dead, and what is older
        than the newest `keep`. Raises CheckpointWriteError, also where the run's newest checkpoint
        is of a later step: earlier checkpoints are then as they were and the temporary folder is
        gone, unless the very removal failed, which the next save repeats.
        """
        self._check(snapshot.state)
        draft, name = self._begin(snapshot.state.step)
        try:
            target = self._write(draft, name, snapshot)
        except BaseException as error:
            # What cannot be removed is left to the next save: this one has an error of its own.
            with suppress(OSError):
                remove_tree(draft, self._files)
            if isinstance(error, OSError):
                raise _write_error(draft, error) from None
            raise
        try:
            self._files.sync_folder(self._folder)
            self._valid.insert(0, target.name)
            self._remove_old()
        except OSError as error:
            raise _write_error(target, error) from None
        return target

    def _check(self, state: RunState) -> None:
        """Raise CheckpointWriteError where a state must not be saved here."""
        problem = None
        newest = self._valid[0] if self._valid else None
        if self._lock < 0:
            problem = "the store is closed"
        elif not self._is_of_this_run(state.config):
            problem = "the state is of another run than the store was opened for"
        elif not 0 <= state.step <= MAX_STEP:
            problem = f"step {state.step} cannot be named"
        elif newest is not None and state.step < _order(newest)[0]:
            problem = (
                f"step {state.step} comes before {newest}, which is there; "
                "resume from it or use another folder"
            )
        if problem is not None:
            raise CheckpointWriteError(str(self._folder), problem)

    def _is_of_this_run(self, config: RunConfig | OwnLoop) -> bool:
        return config is self._config or config.trajectory_sha256() == self._trajectory_sha256

    def _begin(self, step: int) -> tuple[Path, str]:
        """Make the temporary folder of a checkpoint, and remove those of dead writers.

        Returns that folder, and the name that it is to get.
        """
        try:
            found = sorted(os.listdir(self._folder))
            for name in found:
                path = self._folder / name
                # We hold the lock, so whoever wrote it is dead or gave up.
                if is_temporary(name) and _is_folder(path):
                    remove_tree(path, self._files)
            draft = self._folder / temporary_name(checkpoint_name(step))
            self._files.make_folder(draft)
        except OSError as error:
            raise _write_error(self._folder, error) from None
        return draft, _free_name(step, found)

    def _write(self, draft: Path, name: str, snapshot: Snapshot) -> Path:
        """Fill the temporary folder, durably, and give it its name. Raises OSError as well."""
        groups = (snapshot.parameters, snapshot.optimizer)
        entries = [
            self._write_group(draft, group, arrays)
            for group, arrays in zip(GROUPS, groups, strict=True)
        ]
        manifest = self._manifest(draft, snapshot.state, entries)
        write_durably(draft / MANIFEST, [manifest], self._files)
        write_durably(draft / COMPLETE, [marker(manifest)], self._files)
        self._files.sync_folder(draft)
        target = self._folder / name
        self._files.rename(draft, target)
        return target

    def _write_group(self, draft: Path, group: str, arrays: Arrays) -> FileEntry:
        path = draft / tensor_file_name(group)
        try:
            pieces, entry = encode(path.name, arrays)
            write_durably(path, pieces, self._files)
        except OSError as error:
            raise _write_error(path, error) from None
        except ValueError as error:
            raise CheckpointWriteError(str(path), str(error)) from None
        return entry

    def _manifest(self, draft: Path, state: RunState, entries: Sequence[FileEntry]) -> bytes:
        try:
            files = {entry.name: entry for entry in entries}
            return Manifest(state, self._source_sha256, files).encode()
        except ValueError as error:
            raise CheckpointWriteError(str(draft / MANIFEST), str(error)) from None

    def _remove_old(self) -> None:
        """Remove what is older than the newest `keep` valid ones, valid or not."""
        if len(self._valid) < self._keep:
            return
        oldest = _order(self._valid[self._keep - 1])
        removed = []
        for name in candidates(self._folder):
            order = parse_checkpoint_name(name)
            if order is not None and order < oldest and _is_folder(self._folder / name):
                removed.append(self._folder / temporary_name(name))
                self._files.rename(self._folder / name, removed[-1])
        del self._valid[self._keep :]
        if removed:
            self._files.sync_folder(self._folder)
        for path in removed:
            remove_tree(path, self._files)

    def verified(self) -> Verified:
        """The valid checkpoints that are still there."""
        found = []
        for name in self._valid:
            with suppress(OSError):  # it is being removed, or somebody else has removed it
                found.append(self._identity(name))
        return frozenset(found)

    def _identity(self, name: str) -> tuple[str, int, int]:
        status = (self._folder / name).lstat()
        return name, status.st_ino, status.st_mtime_ns

    def _find_valid(self, verified: Verified) -> list[str]:
        """The names of the valid checkpoints, newest first."""
        valid = []
        for name in candidates(self._folder):
            with suppress(CheckpointCorrupt):  # load_newest is what reports these
                if self._identity(name) not in verified:
                    load_checkpoint(self._folder / name, self._config)
                valid.append(name)
        return valid

    def _make_folder(self) -> None:
        """Make the folder of checkpoints, with its parents, durably."""
        if os.path.lexists(self._folder / LOCK):
            return
        missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        for path in reversed(missing):
            with suppress(FileExistsError):  # another process made it just now
                self._files.make_folder(path)
        # All of them, as an earlier process may have died after making one. A folder that may not
        # be read was not made by us, and a mount point's name is not stored in its parent.
        device = self._folder.stat().st_dev
        for path in self._folder.parents:
            if path.stat().st_dev != device:
                break
            with suppress(PermissionError):
                self._files.sync_folder(path)


@functools.cache  # what runs does not change with the files, and reading them takes 20 ms
def _sources_of_this_process() -> str:
    return source_sha256()


def _free_name(step: int, found: Sequence[str]) -> str:
    """The name of a step's checkpoint beside those that are there."""
    # Above all of them, not the first gap: the later one of a step counts as newer.
    orders = map(parse_checkpoint_name, found)
    taken = [order[1] for order in orders if order is not None and order[0] == step]
    return checkpoint_name(step, max(taken) + 1 if taken else 0)


def _lock(folder: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(folder / LOCK, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        problem = "another process writes checkpoints here; end it or use another folder"
        raise CheckpointWriteError(str(folder), problem) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _order(name: str) -> tuple[int, int]:
    order = parse_checkpoint_name(name)
    assert order is not None
    return order


def _write_error(path: Path, error: OSError) -> CheckpointWriteError:
    return CheckpointWriteError(str(path), f"cannot be written: {error.strerror}")
