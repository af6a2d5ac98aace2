"""What a reviewer of a systems paper checks, with the command for each point."""

from __future__ import annotations

from collections.abc import Iterator

from dmlf.benchmark.report.markdown import code, table
from dmlf.benchmark.report.material import Material


def section(material: Material) -> Iterator[str]:
    """The checklist of artifact evaluation (ACM, "Artifact Review and Badging", version 1.1)."""
    commits = {run.git_commit for run in material.table.runs if run.git_commit is not None}
    commit = next(iter(commits)) if len(commits) == 1 else None
    yield "## Artifact checklist"
    rows = [
        ["available", "the sources of these runs", _checkout(commit)],
        ["available", "every dependency with its exact version", code("less constraints.txt")],
        ["functional", "it installs, and its tests pass", code("make test")],
        [
            "functional",
            "the whole pipeline runs, small, in about a minute",
            code("snakemake --configfile workflow/config/smoke.yaml --directory /tmp/smoke"),
        ],
        [
            "functional",
            "the protocols hold under every interleaving and single fault",
            code("dmlf simulate ring --explore --world-size 3"),
        ],
        [
            "reproduced",
            "the hashes and checks of these results, recomputed",
            code("dmlf verify results"),
        ],
        ["reproduced", "every run, figure and sentence of this report", code("make run")],
        [
            "reproduced",
            "the same bits from every exact strategy at six world sizes",
            code("snakemake equality --configfile workflow/config/equality.yaml"),
        ],
        [
            "reproduced",
            "orderings, shapes and ratios agree with those of another machine",
            code("dmlf compare THEIR_RESULTS results"),
        ],
    ]
    yield table(("badge", "what to check", "command"), rows)
    yield (
        "Absolute times are not expected to be the same elsewhere. Final hashes are, where the "
        "processor's instruction set, torch and the threads of a rank are."
    )


def _checkout(commit: str | None) -> str:
    if commit is None:
        return "not named: the runs know no commit, or several"
    return code(f"git checkout {commit[:12]}")
