"""Reading checkpoints: everything is verified before anything is returned.

Nothing of a checkpoint is trusted. Its folder and its files are opened without following links and
without waiting (a FIFO would block for ever), must be regular files of the stated size before a
byte of them is read, and must have the stated hashes before a byte of them is interpreted. What is
interpreted is JSON and safetensors; there is no pickle.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dmlf.checkpoint.manifest import MAX_BYTES, Manifest, decode_manifest, marker
from dmlf.checkpoint.names import (
    COMPLETE,
    GROUPS,
    MANIFEST,
    claims_to_be_checkpoint,
    parse_checkpoint_name,
    tensor_file_name,
)
from dmlf.checkpoint.snapshot import OwnLoop, Snapshot
from dmlf.checkpoint.tensors import decode
from dmlf.config import RunConfig
from dmlf.errors import CheckpointCorrupt, CheckpointError, CheckpointMismatch, NoValidCheckpoint

_MARKER_BYTES = 65  # a SHA-256 in hexadecimal and a newline
_MAX_PROBLEM = 500  # characters of an error: what it quotes may be hostile


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified checkpoint, and why newer ones were passed over: the caller must say so."""

    path: Path
    manifest: Manifest
    snapshot: Snapshot
    rejected: tuple[CheckpointError, ...] = ()


def load_newest(folder: Path, config: RunConfig | OwnLoop | None) -> Loaded | None:
    """Load the newest valid checkpoint of the run `config` (None: of any, to inspect).

    None means that there is no checkpoint at all: the folder is absent or holds none. Whoever was
    asked to resume decides what that means; it is never the answer where a checkpoint is damaged.
    Raises NoValidCheckpoint where there are some and none can be used, and CheckpointCorrupt where
    the folder cannot be read.
    """
    while True:
        names = candidates(folder)
        rejected: list[CheckpointError] = []
        for name in names:
            try:
                loaded = load_checkpoint(folder / name, config)
            except CheckpointError as error:
                rejected.append(error)
            else:
                return Loaded(loaded.path, loaded.manifest, loaded.snapshot, tuple(rejected))
        # A writer may have saved a newer one and removed the one that was being read.
        if set(candidates(folder)) <= set(names):
            break
    if rejected:
        raise NoValidCheckpoint(str(folder), rejected)
    return None


def candidates(folder: Path) -> list[str]:
    """The names of a folder's checkpoints, newest first; those with damaged names come last.

    Raises CheckpointCorrupt.
    """
    try:
        found = [name for name in os.listdir(folder) if claims_to_be_checkpoint(name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        problem = f"the folder of checkpoints cannot be read: {error.strerror}"
        raise CheckpointCorrupt(str(folder), problem) from None
    return sorted(found, key=lambda name: (parse_checkpoint_name(name) or (-1, 0), name))[::-1]


def load_checkpoint(path: Path, config: RunConfig | OwnLoop | None) -> Loaded:
    """Load one checkpoint, verified in full. config: as in `load_newest`.

    Reads and hashes every byte; allocates at most about twice the size of the largest file beside
    what is returned. Raises CheckpointCorrupt, CheckpointMismatch.
    """
    try:
        with _opened(path, os.O_DIRECTORY) as descriptor:
            loaded = _load(path, descriptor)
    except OSError as error:
        raise CheckpointCorrupt(str(path), f"cannot be opened: {error.strerror}") from None
    except ValueError as error:
        problem = " ".join(str(error).split())
        raise CheckpointCorrupt(str(path), problem[:_MAX_PROBLEM]) from None
    if config is not None:
        _check_run(path, loaded.manifest.state.config, config)
    return loaded


def _load(path: Path, descriptor: int) -> Loaded:
    found = set(os.listdir(descriptor))
    for name in (COMPLETE, MANIFEST):
        if name not in found:
            raise ValueError(f"{name} is missing")
    content = _read(descriptor, MANIFEST, MAX_BYTES)
    if _read(descriptor, COMPLETE, _MARKER_BYTES) != marker(content):
        raise ValueError(f"{COMPLETE} is not the SHA-256 of {MANIFEST}")
    try:
        manifest = decode_manifest(content)
    except ValueError as error:
        raise ValueError(f"{MANIFEST}: {error}") from None
    named = parse_checkpoint_name(path.name)
    if named is None or named[0] != manifest.state.step:
        raise ValueError(f"the folder's name is not that of step {manifest.state.step}")
    expected = {COMPLETE, MANIFEST, *manifest.files}
    if unlisted := found - expected:
        raise ValueError(f"{min(unlisted)[:80]!r} is not listed in {MANIFEST}")
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for group in GROUPS:
        name = tensor_file_name(group)
        entry = manifest.files[name]
        try:
            arrays[group] = decode(_read(descriptor, name, entry.size), entry)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return Loaded(path, manifest, Snapshot(manifest.state, **arrays))


def _read(folder: int, name: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises ValueError."""
    try:
        with _opened(name, os.O_NONBLOCK, folder) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{name} is not a regular file")
            if status.st_size > limit:
                raise ValueError(f"{name} has {status.st_size} bytes; at most {limit} belong there")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                return stream.read(status.st_size)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


@contextmanager
def _opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_run(path: Path, stored: RunConfig | OwnLoop, wanted: RunConfig | OwnLoop) -> None:
    if isinstance(stored, OwnLoop) is not isinstance(wanted, OwnLoop):
        writers = ("`dmlf train`", "a loop of your own (dmlf.save)")
        problem = f"of {writers[isinstance(stored, OwnLoop)]}; use another folder"
        raise CheckpointMismatch(str(path), problem)
    theirs, ours = stored.trajectory(), wanted.trajectory()
    if theirs == ours:
        return
    differing = [
        f"{key} {theirs[key]!r} instead of {ours[key]!r}"
        for key in ours
        if key in theirs and theirs[key] != ours[key]
    ]
    problem = f"of another run: {', '.join(differing)}; resume with its configuration"
    raise CheckpointMismatch(str(path), problem[:_MAX_PROBLEM])
