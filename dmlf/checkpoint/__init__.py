"""Durable, verified checkpoints on disk; docs/checkpoints.md says what is guaranteed."""

from dmlf.checkpoint.load import Loaded, load_checkpoint, load_newest
from dmlf.checkpoint.snapshot import OwnLoop, RunState, SamplerPosition, Snapshot
from dmlf.checkpoint.store import CheckpointStore, Verified
from dmlf.checkpoint.tensors import FileEntry, TensorEntry

__all__ = [
    "CheckpointStore",
    "FileEntry",
    "Loaded",
    "OwnLoop",
    "RunState",
    "SamplerPosition",
    "Snapshot",
    "TensorEntry",
    "Verified",
    "load_checkpoint",
    "load_newest",
]
