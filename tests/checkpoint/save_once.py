"""python -m tests.checkpoint.save_once FOLDER STEP KEEP: one save, in a process that may die."""

from __future__ import annotations

import sys
from pathlib import Path

from dmlf.checkpoint import CheckpointStore
from dmlf.errors import CheckpointWriteError
from tests.checkpoint.snapshots import CONFIG, snapshot

WRITE_ERROR = 7
"""The exit status that says CheckpointWriteError, on one line."""


def main() -> int:
    folder, step, keep = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        with CheckpointStore(folder, CONFIG, keep=keep) as store:
            store.save(snapshot(step))
    except CheckpointWriteError as error:
        print(error)
        return WRITE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
