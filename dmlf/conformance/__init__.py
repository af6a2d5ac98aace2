"""What every algorithm and every transport must do, as tests that anybody can run on their own.

`dmlf conformance --algorithm NAME --transport NAME` runs them, and so does
`pytest dmlf/conformance` on all that there are. docs/plugins.md says how to read the outcome.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dmlf.env import require_pytest

FOLDER = Path(__file__).resolve().parent


def run(algorithms: Sequence[str], transports: Sequence[str]) -> int:
    """Run the tests on these algorithms and transports with pytest; return its exit code.

    Raises DependencyMissing.
    """
    # Of no project: neither dmlf's own settings nor those of the current folder apply.
    arguments = ["-c", os.devnull, f"--rootdir={FOLDER}", "--import-mode=importlib"]
    # Where five fail the rest teach nothing, and each may take until its deadline.
    arguments += ["-p", "no:cacheprovider", "-q", "-rs", "--maxfail=5"]
    for kind, names in (("algorithm", algorithms), ("transport", transports)):
        if names:
            arguments.append(str(FOLDER / f"test_{kind}s.py"))
            arguments += [f"--{kind}={name}" for name in names]
    return int(require_pytest().main(arguments))
