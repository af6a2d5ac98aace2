"""Verbs on folders of checkpoints: checkpoint show, checkpoint verify."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dmlf.checkpoint.snapshot import OwnLoop, RunState
from dmlf.errors import CheckpointError, ConfigError


def add_verbs(verbs: Any) -> None:
    """Add the verb and its two parts to the parser."""
    parser = verbs.add_parser(
        "checkpoint",
        help="list and verify the checkpoints of a run",
        description="Read the checkpoints in a folder, newest first. Every byte is verified; "
        "nothing is changed.",
    )
    parts = parser.add_subparsers(metavar="PART", required=True)
    for name, run, text in (
        ("show", _show, "list each checkpoint: step, configuration, size, and what is wrong"),
        ("verify", _verify, "the same; exits 1 if any checkpoint is invalid or there is none"),
    ):
        part = parts.add_parser(name, help=text, description=text.capitalize() + ".")
        part.add_argument(
            "folder", type=Path, metavar="FOLDER", help="where checkpoints were saved"
        )
        part.set_defaults(run=run)


def _show(parsed: argparse.Namespace) -> int:
    _list(parsed.folder)
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    valid, invalid = _list(parsed.folder)
    return 0 if valid and not invalid else 1


def _list(folder: Path) -> tuple[int, int]:
    """Print a line per checkpoint; return how many are valid and how many are not."""
    from dmlf.checkpoint.load import candidates, load_checkpoint

    if not folder.is_dir():
        raise ConfigError("folder", str(folder), "a folder of checkpoints")
    valid = invalid = 0
    for name in candidates(folder):
        try:
            loaded = load_checkpoint(folder / name, None)
        except CheckpointError as error:
            invalid += 1
            print(_printable(f"INVALID  {name}: {error.problem}"))
            continue
        valid += 1
        manifest, state = loaded.manifest, loaded.manifest.state
        size = sum(entry.size for entry in manifest.files.values())
        print(
            f"valid    {name}: step {state.step}, generation {state.generation}, "
            f"{_writer(state)}, state {manifest.state_sha256[:16]}, "
            f"{size / 1e6:.1f} MB in {len(manifest.files)} files"
        )
    print(f"{valid + invalid} checkpoints: {valid} valid, {invalid} invalid")
    return valid, invalid


def _writer(state: RunState) -> str:
    """The configuration that wrote it, or what a user's own loop has saved."""
    if not isinstance(state.config, OwnLoop):
        return f"config {state.config.sha256()[:16]}"
    items = state.user.get("items") if isinstance(state.user, dict) else None
    names = sorted(items) if isinstance(items, dict) else []
    return ascii(f"own loop with {', '.join(names) or 'no items'}")[1:-1]


def _printable(line: str) -> str:
    """The line itself; escaped where a hostile name would break it or the terminal."""
    return line if line.isprintable() else ascii(line)
