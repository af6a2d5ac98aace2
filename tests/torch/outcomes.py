"""What became of every one of torch's tests over backend `dmlf`, and its table for the docs.

python -c "from tests.torch import suite; suite.main([])" > lines
python -m tests.torch.outcomes lines        # records them, and writes docs/backend-tests.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dmlf

RECORD = Path(__file__).with_name("outcomes.json")
DOCUMENT = Path(dmlf.__file__).parents[1] / "docs" / "backend-tests.md"

_NEEDS = {
    "monitored_barrier": "torch itself has `monitored_barrier` for Gloo only",
}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Names of tests: passed; skipped and failed with the reason."""

    passed: list[str]
    skipped: dict[str, str]
    failed: dict[str, str]

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> Outcomes:
        """From what `suite.main` prints."""
        found = cls([], {}, {})
        for line in sorted(lines, key=lambda line: str(line["name"])):
            name, reason = line["name"], line["reason"].strip().rpartition("\n")[2]
            if line["outcome"] == "passed":
                found.passed.append(name)
            elif line["outcome"] == "skipped":
                found.skipped[name] = reason
            else:
                found.failed[name] = next((_NEEDS[key] for key in _NEEDS if key in name), reason)
        return found


def recorded() -> Outcomes:
    """The outcomes of the last full run."""
    return Outcomes(**json.loads(RECORD.read_text(encoding="utf-8")))


def render(outcomes: Outcomes) -> str:
    """The document: one line per test that passes, one row per reason for the others."""
    counts = f"{len(outcomes.passed)} pass, {len(outcomes.skipped)} are skipped"
    parts = [
        "# torch's own tests over backend `dmlf`",
        "",
        "Made by `python -m tests.torch.outcomes`; see [backend.md](backend.md). "
        "All of `torch.testing._internal.distributed.distributed_test`, with 3 ranks on the CPU: "
        f"{counts}, {len(outcomes.failed)} cannot pass.",
        "",
        "## Cannot pass",
        "",
        *_table(outcomes.failed),
        "",
        "## Pass",
        "",
        *(f"- `{name}`" for name in outcomes.passed),
        "",
        "## Skipped, by torch's own reason",
        "",
        *_table(outcomes.skipped),
        "",
    ]
    return "\n".join(parts)


def _table(reasons: dict[str, str]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(f"`{name}`")
    rows = sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        "| number | reason | tests |",
        "|---|---|---|",
        *(f"| {len(names)} | {reason} | {', '.join(names)} |" for reason, names in rows),
    ]


def main(path: str) -> None:
    """Record the outcomes that `path` holds, and write the document."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    outcomes = Outcomes.of(json.loads(line) for line in lines if line.startswith('{"name"'))
    RECORD.write_text(json.dumps(asdict(outcomes), indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(render(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
