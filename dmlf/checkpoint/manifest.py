"""manifest.json: what a checkpoint holds and the hash of every part of it.

Decoding checks every field, so that a Manifest is consistent in itself: the configuration gives
the stated hash, the sampler fits the step, and both groups of tensors are there. Whether the files
agree is for the loader to find out.
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
)
from dmlf.config import RunConfig
from dmlf.errors import ConfigError

FORMAT = "dmlf-checkpoint"
VERSION = 2
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
        """One hash of parameters and optimizer state: of what sha256sum prints of the files."""
        lines = [f"{self.files[name].sha256}  {name}\n" for name in map(tensor_file_name, GROUPS)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def encode(self) -> bytes:
        """The file's content. Raises ValueError where it could not be read back."""
        state = self.state
        random = dict(state.random)
        for where, plain in (("random", random), ("user", state.user)):
            try:
                strict_json.check(plain, strict_json.MAX_DEPTH - 1)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        value = {
            "format": FORMAT,
            "version": VERSION,
            "step": state.step,
            "generation": state.generation,
            **_config_mapping(state.config),
            "source_sha256": self.source_sha256,
            "sampler": {"epoch": state.sampler.epoch, "step": state.sampler.step},
            "random": random,
            "user": state.user,
            "files": {name: _file_entry_mapping(entry) for name, entry in self.files.items()},
        }
        _manifest(value)
        # Json's own indentation would hold the interpreter, and with it the steps, for far longer.
        lines = [f"{json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
        content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
        if len(content) > MAX_BYTES:
            raise ValueError(f"{len(content)} bytes; at most {MAX_BYTES} are read")
        return content


def marker(manifest: bytes) -> bytes:
    """The content of COMPLETE: the SHA-256 of manifest.json in hexadecimal, and a newline."""
    return f"{hashlib.sha256(manifest).hexdigest()}\n".encode()


def _file_entry_mapping(entry: FileEntry) -> dict[str, Any]:
    """A file's entry as plain values, without its name."""
    tensors = {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        for name, tensor in entry.tensors.items()
    }
    return {"size": entry.size, "sha256": entry.sha256, "tensors": tensors}


def decode_manifest(content: bytes) -> Manifest:
    """Return the manifest that `content` is. Raises ValueError, naming the field."""
    return _manifest(_object("manifest", strict_json.parse(content)))


def _manifest(value: Mapping[str, Any]) -> Manifest:
    """The manifest that a mapping is. Raises ValueError, naming the field."""
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
    return Manifest(state, _sha256("source_sha256", value["source_sha256"]), files)


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
    _keys(where, entry, ("dtype", "shape"))
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype is none of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: shape is no list of at most {MAX_DIMENSIONS} lengths")
    lengths = tuple(_integer(f"{where}: shape", length, MAX_LENGTH) for length in shape)
    return TensorEntry(dtype, lengths)


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
