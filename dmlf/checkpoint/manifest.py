"""manifest.json: what a checkpoint holds and the hash of every part of it.

Decoding checks every field, so that a Manifest is consistent in itself: the configuration gives
the stated hash, the sampler fits the step, both groups of tensors are there, and the tensors'
hashes give the state's. Whether the files agree is for the loader to find out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmlf import strict_json
from dmlf.checkpoint.names import GROUPS, MAX_STEP, tensor_file_name
from dmlf.checkpoint.snapshot import OwnLoop, RunState, SamplerPosition
from dmlf.checkpoint.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_LENGTH,
    FileEntry,
    TensorEntry,
    name_problem,
    state_sha256,
)
from dmlf.config import RunConfig
from dmlf.errors import ConfigError

FORMAT = "dmlf-checkpoint"
VERSION = 1
MAX_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
KEYS = (
    "format",
    "version",
    "step",
    "generation",
    "config",
    "config_sha256",
    "source_sha256",
    "sampler",
    "random",
    "user",
    "state_sha256",
    "files",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One checkpoint's manifest. source_sha256: of the sources that wrote it."""

    state: RunState
    source_sha256: str
    files: Mapping[str, FileEntry]

    @property
    def state_sha256(self) -> str:
        """The hash of parameters and optimizer state."""
        return state_sha256(item for entry in self.files.values() for item in entry.tensors.items())

    def encode(self) -> bytes:
        """The file's content. Raises ValueError or TypeError on values that are no JSON."""
        state = self.state
        value = {
            "format": FORMAT,
            "version": VERSION,
            "step": state.step,
            "generation": state.generation,
            **_config_mapping(state.config),
            "source_sha256": self.source_sha256,
            "sampler": {"epoch": state.sampler.epoch, "step": state.sampler.step},
            "random": dict(state.random),
            "user": state.user,
            "state_sha256": self.state_sha256,
            "files": {name: _file_entry_mapping(entry) for name, entry in self.files.items()},
        }
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def marker(manifest: bytes) -> bytes:
    """The content of COMPLETE: the SHA-256 of manifest.json in hexadecimal, and a newline."""
    return f"{hashlib.sha256(manifest).hexdigest()}\n".encode()


def _file_entry_mapping(entry: FileEntry) -> dict[str, Any]:
    """A file's entry as plain values, without its name."""
    tensors = {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": tensor.sha256}
        for name, tensor in entry.tensors.items()
    }
    return {"size": entry.size, "sha256": entry.sha256, "tensors": tensors}


def decode_manifest(content: bytes) -> Manifest:
    """Return the manifest that `content` is. Raises ValueError, naming the field."""
    value = _object("manifest", strict_json.parse(content))
    # Before the keys: a later version may have others.
    if value.get("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT!r}")
    version = _integer("version", value.get("version"), MAX_STEP)
    if version != VERSION:
        raise ValueError(f"format version {version}; this dmlf reads version {VERSION}")
    _keys("manifest", value, KEYS)
    state = RunState(
        step=_integer("step", value["step"], MAX_STEP),
        generation=_integer("generation", value["generation"], MAX_STEP),
        config=_config(value["config"], value["config_sha256"]),
        sampler=_sampler(value["sampler"]),
        random=_object("random", value["random"]),
        user=value["user"],
    )
    if not state.sampler.fits(state.step):
        raise ValueError(f"sampler: {state.sampler} is not where step {state.step} leads to")
    entries = _object("files", value["files"])
    _keys("files", entries, [tensor_file_name(group) for group in GROUPS])
    files = {name: _file_entry(name, entry) for name, entry in entries.items()}
    manifest = Manifest(state, _sha256("source_sha256", value["source_sha256"]), files)
    if manifest.state_sha256 != value["state_sha256"]:
        raise ValueError("state_sha256 is not the hash of the tensors' hashes")
    return manifest


def _file_entry(name: str, value: object) -> FileEntry:
    entry = _object(f"files.{name[:80]}", value)
    _keys(f"files.{name[:80]}", entry, ("size", "sha256", "tensors"))
    tensors = {
        tensor: _tensor_entry(tensor, fields)
        for tensor, fields in _object("tensors", entry["tensors"]).items()
    }
    size = _integer("size", entry["size"], MAX_LENGTH)
    return FileEntry(name, size, _sha256("sha256", entry["sha256"]), tensors)


def _tensor_entry(name: str, value: object) -> TensorEntry:
    where = f"tensor {name[:80]!r}"
    if problem := name_problem(name):
        raise ValueError(f"{where}: {problem}")
    entry = _object(where, value)
    _keys(where, entry, ("dtype", "shape", "sha256"))
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype is none of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: shape is no list of at most {MAX_DIMENSIONS} lengths")
    lengths = tuple(_integer(f"{where}: shape", length, MAX_LENGTH) for length in shape)
    return TensorEntry(dtype, lengths, _sha256(where, entry["sha256"]))


def _config_mapping(config: RunConfig | OwnLoop) -> dict[str, Any]:
    if isinstance(config, OwnLoop):
        return {"config": None, "config_sha256": None}
    return {"config": config.as_mapping(), "config_sha256": config.sha256()}


def _config(value: object, stated: object) -> RunConfig | OwnLoop:
    if value is None and stated is None:
        return OwnLoop()
    sha256 = _sha256("config_sha256", stated)
    try:
        config = RunConfig.from_mapping(_object("config", value))
    except (ConfigError, TypeError, OverflowError) as error:
        raise ValueError(f"config: {error}") from None
    if config.as_mapping() != value or config.sha256() != sha256:
        raise ValueError("config_sha256 is not the hash of config in this version of dmlf")
    return config


def _sampler(value: object) -> SamplerPosition:
    fields = _object("sampler", value)
    _keys("sampler", fields, ("epoch", "step"))
    return SamplerPosition(
        _integer("sampler.epoch", fields["epoch"], MAX_STEP),
        _integer("sampler.step", fields["step"], MAX_STEP),
    )


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    return value


def _keys(where: str, value: Mapping[str, Any], expected: Sequence[str]) -> None:
    if missing := [key for key in expected if key not in value]:
        raise ValueError(f"{where}: {missing[0]} is missing")
    if unknown := [key for key in value if key not in expected]:
        raise ValueError(f"{where}: {unknown[0][:80]!r} is unknown")


def _integer(where: str, value: object, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise ValueError(f"{where} is no integer from 0 to {high}")
    return value


def _sha256(where: str, value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{where} is no SHA-256")
    return value
