"""The configuration of one run: frozen, validated once, hashed for provenance.

`RunConfig` is built here and nowhere else: from keyword arguments (`RunConfig(...)`),
from a plain mapping as it stands in a metrics file (`RunConfig.from_mapping`), or from
parsed command-line flags (`dmlf.cli`). Every value is checked on construction, so code that
holds a `RunConfig` never checks again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dmlf.errors import ConfigError

REDUCTIONS = ("float32", "exact")
OPTIMIZERS = ("sgd", "adamw")
MODELS = ("mlp", "cnn")
MAX_WORLD_SIZE = 4096
MAX_SERVERS = 64
MAX_THREADS = 1024
UNSYNCHRONIZED = "unsynchronized"
"""The algorithm whose ranks exchange nothing: a ceiling for speed, never a training result."""
_NAME = re.compile(r"[A-Za-z0-9_.:]+")

# Fields that say where and when a run happens, not what it computes: they stay out of the hash.
_NOT_IN_HASH = frozenset({"rep", "data_dir", "timeout_s"})

# Fields that decide the parameters after each step; how long a run goes on does not.
_TRAJECTORY = (
    "task",
    "model",
    "hidden_sizes",
    "task_options",
    "reduction",
    "num_shards",
    "global_batch_size",
    "optimizer",
    "learning_rate",
    "momentum",
    "weight_decay",
    "seed",
    "threads_per_rank",
)
# Fields that besides decide the order in which float32 is added.
_ORDER_OF_ADDITIONS = ("algorithm", "world_size", "bucket_cap_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What one training run computes.

    `algorithm` is `serial`, `ddp`, `native` (torch.distributed's own all-reduce), `unsynchronized`,
    or the name of a registered protocol (`ring`, `parameter_server`, ...); `transport` is `none`
    for serial and unsynchronized, `gloo` for ddp, `process_group` for native, or the name of a
    dmlf transport. `global_batch_size` samples make a step, cut into `num_shards` logical shards
    whatever the world size is. `num_servers` processes beside the workers share the parameters of
    an algorithm with servers; without, it is 1 and means nothing. `emulate_latency_s` and
    `emulate_bandwidth_bits_per_s` (0: none) impose a slower link on the transport. Raises
    ConfigError.
    """

    task: str = "digits"
    model: str = "mlp"
    hidden_sizes: tuple[int, ...] = (512, 512)
    algorithm: str = "serial"
    transport: str = "none"
    reduction: str = "float32"
    world_size: int = 1
    num_servers: int = 1
    num_shards: int = 8
    global_batch_size: int = 128
    epochs: int = 20
    max_steps: int | None = None
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    bucket_cap_bytes: int = 1 << 20
    overlap: bool = False
    seed: int = 0
    rep: int = 0
    warmup_steps: int = 5
    threads_per_rank: int = 1
    emulate_latency_s: float = 0.0
    emulate_bandwidth_bits_per_s: float = 0.0
    timeout_s: float = 60.0
    data_dir: str = "data"
    task_options: Mapping[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        object.__setattr__(self, "task_options", dict(self.task_options))
        _name("task", self.task, "a name of letters, digits, '_', '.' or 'module:function'")
        _one_of("model", self.model, MODELS)
        for size in self.hidden_sizes:
            _integer("hidden_sizes", size, 1, 1 << 20)
        _name("algorithm", self.algorithm, "one that dmlf train --help lists, or a plug-in's name")
        _name("transport", self.transport, "one that dmlf train --help lists, or a plug-in's name")
        _one_of("reduction", self.reduction, REDUCTIONS)
        _integer("world_size", self.world_size, 1, MAX_WORLD_SIZE)
        _integer("num_servers", self.num_servers, 1, MAX_SERVERS)
        _integer("num_shards", self.num_shards, 1, MAX_WORLD_SIZE)
        _integer("global_batch_size", self.global_batch_size, 1, 1 << 30)
        _integer("epochs", self.epochs, 1, 1_000_000)
        if self.max_steps is not None:
            _integer("max_steps", self.max_steps, 1, 1 << 40)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _number("learning_rate", self.learning_rate, 0.0, 1e6)
        _number("momentum", self.momentum, 0.0, 1.0)
        _number("weight_decay", self.weight_decay, 0.0, 1e6)
        _integer("bucket_cap_bytes", self.bucket_cap_bytes, 4, 1 << 40)
        _boolean("overlap", self.overlap)
        _integer("seed", self.seed, 0, (1 << 63) - 1)
        _integer("rep", self.rep, 0, 1 << 31)
        _integer("warmup_steps", self.warmup_steps, 0, 1 << 31)
        _integer("threads_per_rank", self.threads_per_rank, 1, MAX_THREADS)
        _number("emulate_latency_s", self.emulate_latency_s, 0.0, 60.0)
        _number("emulate_bandwidth_bits_per_s", self.emulate_bandwidth_bits_per_s, 0.0, 1e15)
        _number("timeout_s", self.timeout_s, 0.001, 86_400.0)
        if not isinstance(self.data_dir, str) or not self.data_dir:
            raise ConfigError("data_dir", self.data_dir, "the path of a folder")
        for key, value in self.task_options.items():
            _task_option(key, value)
        self._check_together()

    def _check_together(self) -> None:
        if self.world_size > self.num_shards:
            raise ConfigError(
                "world_size", self.world_size, f"at most num_shards ({self.num_shards})"
            )
        if self.global_batch_size % self.num_shards:
            raise ConfigError(
                "global_batch_size",
                self.global_batch_size,
                f"a multiple of num_shards ({self.num_shards})",
            )
        if self.algorithm == "serial" and self.world_size != 1:
            allowed = "1 with algorithm 'serial'; more workers need another algorithm, such as ring"
            raise ConfigError("world_size", self.world_size, allowed)
        if self.algorithm in ("serial", UNSYNCHRONIZED) and self.transport != "none":
            allowed = f"'none' with algorithm {self.algorithm!r}"
            raise ConfigError("transport", self.transport, allowed)
        if not self.synchronous and self.reduction != "float32":
            allowed = f"'float32' with algorithm {UNSYNCHRONIZED!r} (nothing is reduced)"
            raise ConfigError("reduction", self.reduction, allowed)
        if self.algorithm == "native" and self.transport != "process_group":
            raise ConfigError(
                "transport", self.transport, "'process_group' with algorithm 'native'"
            )
        if self.algorithm == "ddp" and self.transport != "gloo":
            raise ConfigError("transport", self.transport, "'gloo' with algorithm 'ddp'")
        for key in ("emulate_latency_s", "emulate_bandwidth_bits_per_s"):
            if getattr(self, key) and self.algorithm in ("serial", "native", "ddp", UNSYNCHRONIZED):
                allowed = f"0 with algorithm {self.algorithm!r}, whose messages dmlf does not carry"
                raise ConfigError(key, getattr(self, key), allowed)
        if self.algorithm == "ddp" and self.reduction != "float32":
            raise ConfigError(
                "reduction",
                self.reduction,
                "'float32' with algorithm 'ddp' (stock DDP adds floats)",
            )

    @property
    def emulates(self) -> bool:
        """Whether a link is imposed on the transport."""
        return bool(self.emulate_latency_s or self.emulate_bandwidth_bits_per_s)

    @property
    def synchronous(self) -> bool:
        """Whether all ranks take every step together."""
        return self.algorithm != UNSYNCHRONIZED

    @property
    def strategy(self) -> str:
        """Algorithm and transport in one word: `serial`, `ring-queue`, `ddp-gloo`."""
        return self.algorithm if self.transport == "none" else f"{self.algorithm}-{self.transport}"

    def as_mapping(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready plain values, keys in declaration order."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["hidden_sizes"] = list(self.hidden_sizes)
        values["task_options"] = dict(sorted(self.task_options.items()))
        return values

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from plain values. Raises ConfigError on an unknown key or a bad value."""
        known = {item.name for item in fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(
                    str(key), values[key], f"one of the keys {', '.join(sorted(known))}"
                )
        return cls(**values)

    def sha256(self) -> str:
        """Hash of everything that decides the result (not `rep`, `data_dir`, `timeout_s`)."""
        decisive = {k: v for k, v in self.as_mapping().items() if k not in _NOT_IN_HASH}
        return hashlib.sha256(canonical_json(decisive)).hexdigest()

    def trajectory(self) -> dict[str, Any]:
        """The fields that decide the parameters after each step, as plain values.

        Runs that agree in them pass through the same states, bit for bit: a state of one may be
        continued by the other. An exact sum does not depend on who adds in which order.
        """
        values = self.as_mapping()
        order = _ORDER_OF_ADDITIONS if self.reduction == "float32" else ()
        return {name: values[name] for name in (*_TRAJECTORY, *order)}

    def trajectory_sha256(self) -> str:
        """Hash of `trajectory`."""
        return hashlib.sha256(canonical_json(self.trajectory())).hexdigest()


def canonical_json(value: object) -> bytes:
    """Encode plain values to the one byte string that hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def split_strategy(strategy: str) -> tuple[str, str]:
    """Split `ring-queue` into algorithm and transport; `serial` has the transport `none`."""
    algorithm, _, transport = strategy.partition("-")
    return algorithm, transport or "none"


def _integer(key: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(key, value, f"an integer from {low} to {high}")


def _boolean(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(key, value, "true or false")


def _number(key: str, value: object, low: float, high: float) -> None:
    # Comparing is safe for integers of any size, which math.isfinite is not; NaN is in no range.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(key, value, f"a number from {low:g} to {high:g}")


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(key, value, f"one of {', '.join(allowed)}")


def _name(key: str, value: object, expected: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(key, value, expected)


def _task_option(key: str, value: object) -> None:
    _name("task_options", key, "names of letters, digits, '_' or '.'")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ConfigError(f"task_options.{key}", value, "a finite number")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"task_options.{key}", value, "a number or a string")
