"""Verbs that train: train, replay, data."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dmlf
from dmlf.benchmark import timeline_file, transcript_file
from dmlf.benchmark.files import write_json
from dmlf.benchmark.metrics import SCHEMA_VERSION, build_metrics, provenance
from dmlf.benchmark.transcript_file import write_transcript
from dmlf.cli.checkpoint_flags import add_checkpoint_flags, checkpoint_plan
from dmlf.cli.hosts import add_rendezvous_flags, rendezvous
from dmlf.cli.run_flags import add_run_flags, run_config
from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DmlfError
from dmlf.runtime.child import signal_on_parent_death
from dmlf.runtime.faults import POINTS, FaultKind, parse_fault
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.tasks import describe_dataset, resolve_task
from dmlf.training.plugged import plugged_into
from dmlf.training.run import replay_hash, train
from dmlf.training.torchrun import speaks_for_the_run

FAILURE = "failure.json"
BESIDE_METRICS = (FAILURE, transcript_file.NAME, timeline_file.NAME)
"""What `dmlf train` may write beside its output."""
ELASTIC_RESTARTS = 3
"""How many failures a run mends by default whose workers may come and go."""


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    parser = verbs.add_parser(
        "train",
        help="train one configuration and write its metrics",
        description="Train one configuration in processes of its own. Prints a summary; with "
        "--output it also writes metrics.json, or failure.json beside it if the run fails.",
    )
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write metrics.json")
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="wait until no other run of this host is being measured",
    )
    parser.add_argument(
        "--transcript",
        action="store_true",
        help=f"record hashes of every step in {transcript_file.NAME} beside the output, for "
        "`dmlf diff`; slows every step down",
    )
    parser.add_argument(
        "--timeline",
        type=int,
        nargs="?",
        const=100,
        default=0,
        metavar="STEPS",
        help=f"record when every rank did what in the first STEPS steps (100), in "
        f"{timeline_file.NAME} beside the output: a Chrome trace, for https://ui.perfetto.dev",
    )
    add_checkpoint_flags(parser)
    parser.add_argument(
        "--max-restarts",
        type=int,
        metavar="N",
        help="how many failures to recover from: a rank that dies or hangs is replaced, and "
        "training goes on from what the others hold, or from a checkpoint (default: 0, the first "
        f"failure ends the run; {ELASTIC_RESTARTS} where workers may come and go)",
    )
    parser.add_argument(
        "--min-workers",
        type=int,
        metavar="N",
        help="let workers leave (SIGTERM to one), and go on without those that are lost, while at "
        "least N remain; with --reduction exact the bits stay the same",
    )
    parser.add_argument(
        "--max-workers",
        type=int,
        metavar="N",
        help="let workers join (`dmlf worker`) until there are N; both limits are the world size "
        "unless they are given",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND:rank=R,step=S[,phase=P,round=K,bucket=B,generation=G,seconds=T,count=N]",
        help="break something on purpose, once, at this place; may be given several times. Kinds: "
        f"{', '.join(FaultKind)}; phases: those of messages, {', '.join(POINTS)}; count: of "
        "workers that join",
    )
    add_rendezvous_flags(parser)
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="end this run when the process that started it ends, even if that is killed",
    )
    parser.set_defaults(run=_train)

    parser = verbs.add_parser(
        "replay",
        help="train serially in the order of additions that an algorithm publishes",
        description="The reference of a float32 run: one process that adds the gradients in the "
        "published order. Its final state must equal the run's, bit for bit.",
    )
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write reference.json")
    parser.set_defaults(run=_replay)

    parser = verbs.add_parser(
        "data",
        help="find or download a task's data, verify and describe it",
        description="Load a task's data (downloading it if need be), verify it, and print or "
        "write its counts, shapes and SHA-256.",
    )
    add_run_flags(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the description"
    )
    parser.set_defaults(run=_data)


def constraints_path() -> Path | None:
    """The pinned dependencies, where this package is used from its source tree."""
    path = Path(dmlf.__file__).resolve().parent.parent / "constraints.txt"
    return path if path.is_file() else None


def check_writable(output: Path | None) -> None:
    """Refuse an output that could not be written, before any work is done."""
    if output is None:
        return
    if output.name in BESIDE_METRICS:
        raise ConfigError("output", str(output), f"another name: {output.name} is dmlf's own")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(output.parent, os.W_OK):
            raise PermissionError(13, "not writable", str(output.parent))
        for path in (output, *(output.with_name(name) for name in BESIDE_METRICS)):
            if path.exists() and not path.is_file():
                raise FileExistsError(17, "exists and is no regular file", str(path))
    except OSError as error:
        allowed = f"a file in a folder that can be written ({error.strerror}: {error.filename})"
        raise ConfigError("output", str(output), allowed) from None


def _train(parsed: argparse.Namespace) -> int:
    config = run_config(parsed)
    plan = checkpoint_plan(parsed)
    if not speaks_for_the_run(config.transport):
        train(
            config,
            transcript=parsed.transcript,
            timeline_steps=parsed.timeline,
            checkpoint=plan,
        )
        return 0
    check_writable(parsed.output)
    place = rendezvous(parsed)
    for key in ("transcript", "timeline"):
        if getattr(parsed, key) and parsed.output is None:
            raise ConfigError(key, getattr(parsed, key), "--output as well, to say where it goes")
    if parsed.end_with_parent:
        signal_on_parent_death(signal.SIGTERM)
    faults = [parse_fault(text) for text in parsed.fault]
    struck: dict[int, float] = {}
    started_at = datetime.now(UTC)
    try:
        result = train(
            config,
            exclusive=parsed.exclusive,
            transcript=parsed.transcript,
            timeline_steps=parsed.timeline,
            rendezvous=place,
            checkpoint=plan,
            restarts=_restart_policy(parsed),
            faults=faults,
            struck=struck,
        )
        metrics = build_metrics(result, sys.argv, constraints_path())
    except DmlfError as error:
        if isinstance(error, ConfigError) and not struck:
            faults = []  # the run never began: that they did not fire is no news
        if parsed.output is not None:
            parsed.output.unlink(missing_ok=True)  # of an earlier run: it says nothing of this one
            _write_failure(parsed.output.with_name(FAILURE), config, started_at, error)
        raise
    finally:
        for number, spec in enumerate(faults):
            did = "was injected" if number in struck else "DID NOT FIRE"
            print(f"dmlf: fault {spec} {did}", file=sys.stderr)
    if parsed.output is not None:
        if parsed.transcript:
            path = parsed.output.with_name(transcript_file.NAME)
            write_transcript(path, config, metrics["final_state_sha256"], result.transcript)
        if parsed.timeline:
            timeline_file.write_timeline(parsed.output.with_name(timeline_file.NAME), result)
        write_json(parsed.output, metrics)
        parsed.output.with_name(FAILURE).unlink(missing_ok=True)
    accuracy, speed = metrics["test_accuracy"], metrics["throughput_samples_per_s"]
    reached = "" if accuracy is None else f"test accuracy {accuracy:.2%}, "
    print(
        f"{config.task} {config.strategy} {config.reduction} world_size={result.world_size}: "
        f"{reached}{'no step measured' if speed is None else f'{speed:.0f} samples/s'}, "
        f"final state {metrics['final_state_sha256'][:16]}"
    )
    return 0


def _restart_policy(parsed: argparse.Namespace) -> RestartPolicy:
    restarts, least, most = parsed.max_restarts, parsed.min_workers, parsed.max_workers
    if restarts is None:
        restarts = 0 if least is None and most is None else ELASTIC_RESTARTS
    return RestartPolicy(restarts, min_workers=least, max_workers=most)


def _write_failure(path: Path, config: RunConfig, started_at: datetime, error: DmlfError) -> None:
    finished_at = datetime.now(UTC)
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "status": "failed",
            "config": config.as_mapping(),
            "error": {"type": type(error).__name__, "message": str(error)},
            "provenance": provenance(
                config,
                sys.argv,
                constraints_path(),
                started_at,
                finished_at,
                plugins=plugged_into(config),
            ),
        },
    )


def _replay(parsed: argparse.Namespace) -> int:
    config = run_config(parsed)
    check_writable(parsed.output)
    started_at = datetime.now(UTC)
    final_state_sha256 = replay_hash(config)
    if parsed.output is not None:
        reference = {
            "schema_version": SCHEMA_VERSION,
            "config": config.as_mapping(),
            "final_state_sha256": final_state_sha256,
            "provenance": provenance(
                config,
                sys.argv,
                constraints_path(),
                started_at=started_at,
                finished_at=datetime.now(UTC),
                plugins=plugged_into(config),
            ),
        }
        write_json(parsed.output, reference)
    print(f"replay of {config.strategy} world_size={config.world_size}: {final_state_sha256[:16]}")
    return 0


def _data(parsed: argparse.Namespace) -> int:
    config = run_config(parsed)
    check_writable(parsed.output)
    description = describe_dataset(config.task, resolve_task(config).load())
    if parsed.output is not None:
        write_json(parsed.output, description)
    for split in ("train", "test"):
        part: Any = description[split]
        print(f"{config.task} {split}: {part['samples']} samples of {part['inputs']['shape'][1:]}")
    return 0
