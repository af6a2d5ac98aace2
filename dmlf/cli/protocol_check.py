"""The torch-free check behind `dmlf ps` and `dmlf ring`: train in processes, compare all bits."""

from __future__ import annotations

from dataclasses import replace

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, ReplicaDivergence
from dmlf.protocol import registry
from dmlf.training.replay import replay
from dmlf.training.result import RunResult
from dmlf.training.run import train


def check_protocol(
    algorithm: str,
    transport: str,
    *,
    world_size: int,
    num_servers: int,
    num_steps: int,
    parameter_dim: int,
    shard_size: int,
    seed: int,
    timeout_s: float,
) -> int:
    """Run and check `algorithm` in both reductions; print each finding; return the exit code.

    Every worker computes `shard_size` samples a step. Raises ConfigError on bad sizes.
    """
    for key, value in (("num_steps", num_steps), ("shard_size", shard_size)):
        if value < 1:
            raise ConfigError(key, value, "an integer of at least 1")
    samples = world_size * shard_size
    float32 = RunConfig(
        task="synthetic",
        algorithm=algorithm,
        transport=transport,
        world_size=world_size,
        num_servers=num_servers,
        num_shards=world_size,
        global_batch_size=samples,
        epochs=num_steps,
        max_steps=num_steps,
        learning_rate=0.05,
        # A bucket for each tensor where servers share them: else all but one would own nothing.
        bucket_cap_bytes=1 << 20 if num_servers == 1 else 4,
        seed=seed,
        timeout_s=timeout_s,
        task_options={"parameter_dim": parameter_dim, "num_samples": samples * 2},
    )
    exact = replace(float32, reduction="exact")
    serial = replace(exact, algorithm="serial", transport="none", world_size=1, num_servers=1)

    servers = registry()[algorithm].server_count(num_servers)
    beside = f", {servers} server{'s' * (servers > 1)}" if servers else ""
    print(
        f"{algorithm} over {transport}: {world_size} workers{beside}, {num_steps} steps, "
        f"{parameter_dim} parameters, {shard_size} samples per worker and step"
    )
    run = train(float32)
    exact_run = train(exact)
    findings = [
        (
            "float32: equal to the serial replay in the published order, bit for bit",
            final_state(run) == replay(0, float32),
        ),
        (
            "exact: equal to the serial run at world size 1, bit for bit",
            final_state(exact_run) == final_state(train(serial)),
        ),
    ]
    for name, result in (("float32", run), ("exact", exact_run)):
        findings += [
            (f"{name}: all replicas end with the same parameters", _replicas_equal(result)),
            (f"{name}: {_traffic(result)} as in the closed form", _traffic_as_predicted(result)),
        ]
    epochs = run.ranks[0].epochs
    before, after = epochs[0]["test_loss"], epochs[-1]["test_loss"]
    findings.append((f"training: test loss fell from {before:.4g} to {after:.4g}", after < before))
    for text, holds in findings:
        print(f"  {'ok  ' if holds else 'FAIL'}  {text}")
    print(f"final state, float32: {final_state(run)}")
    print(f"final state, exact:   {final_state(exact_run)}")
    return 0 if all(holds for _, holds in findings) else 1


def final_state(result: RunResult) -> str:
    """The SHA-256 of parameters and optimizer state, of all ranks together."""
    return result.final_state().sha256()


def _replicas_equal(result: RunResult) -> bool:
    """Whether every rank holds the same of what it holds."""
    try:
        result.final_state()
    except ReplicaDivergence:
        return False
    return True


def _counts(result: RunResult) -> tuple[int, int]:
    messages = sum(rank.messages_sent or 0 for rank in result.ranks)
    return messages, sum(rank.payload_bytes_sent or 0 for rank in result.ranks)


def _traffic(result: RunResult) -> str:
    messages, payload_bytes = _counts(result)
    return f"{messages} messages with {payload_bytes} bytes sent,"


def _traffic_as_predicted(result: RunResult) -> bool:
    first = result.ranks[0]
    return _counts(result) == (first.theoretical_messages, first.theoretical_payload_bytes)
