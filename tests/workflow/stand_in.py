"""Takes the place of `dmlf/cli/__init__.py` in a copy of the repository: every verb in no time.

It writes whatever file it is asked for, notes when it began and ended in calls.jsonl, and fails
when the file named `fail` holds a part of its arguments; `fail_after`: once it has written;
`hang`: it writes a part and waits to be killed.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    began = time.monotonic()
    arguments = sys.argv[1:]
    output = Path(arguments[arguments.index("--output") + 1])
    doomed = Path("fail")
    code = 0
    if doomed.exists() and doomed.read_text() in " ".join(arguments):
        print("dmlf: the reason of the failure")
        code = 1
    elif Path("hang").exists() and Path("hang").read_text() in " ".join(arguments):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("half of")
        while True:
            signal.pause()
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(arguments))
        if output.suffix == ".svg":
            output.with_suffix(".png").write_text("png")
        if output.name == "report.md":
            output.with_suffix(".html").write_text("page")
            output.with_name("findings.json").write_text("{}")
        if "--timeline" in arguments and arguments[0] == "train":
            output.with_name("timeline.json").write_text("{}")
        if arguments[0] == "project":
            for name in ("projected_efficiency", "projected_sensitivity"):
                figure = Path(arguments[arguments.index("--figures") + 1]) / f"{name}.svg"
                figure.parent.mkdir(parents=True, exist_ok=True)
                figure.write_text("svg")
                figure.with_suffix(".png").write_text("png")
        if output.name == "runs.csv":
            output.with_name("epochs.csv").write_text("epochs")
    after = Path("fail_after")
    if after.exists() and after.read_text() in " ".join(arguments):
        code = 1
    call = {"arguments": arguments, "began": began, "ended": time.monotonic()}
    with Path("calls.jsonl").open("a") as log:
        log.write(json.dumps(call) + "\n")
    return code
