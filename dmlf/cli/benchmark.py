"""Verbs that read results: gather, plot, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    parser = verbs.add_parser(
        "gather",
        help="bring the metrics of many runs into one table",
        description="Read the metrics of all expected runs, check each, and write one CSV row "
        "per run; missing, failed and skipped runs are rows as well.",
    )
    parser.add_argument(
        "--expected",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON list of the runs that there should be",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write the table of runs; that of epochs goes beside it",
    )
    parser.set_defaults(run=_gather)

    parser = verbs.add_parser("plot", help="draw one figure, as SVG and PNG")
    parser.add_argument("name", metavar="NAME", help="the figure, as in report/figures/NAME.svg")
    parser.add_argument("--table", type=Path, metavar="FILE", help="runs.csv; needed by all others")
    parser.add_argument(
        "--collectives",
        type=Path,
        metavar="FILE",
        help="what `dmlf collective` wrote; needed by the figures collective and cost_model",
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="what `dmlf train --timeline` wrote; needed by the figure step",
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="what `dmlf faults` wrote; needed by the figure faults",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write the figure (.svg)",
    )
    parser.set_defaults(run=_plot)

    parser = verbs.add_parser(
        "report",
        help="write the report from the table, as Markdown and as one page of HTML",
        description="Write the report at FILE (.md), the same as one self-contained page beside it "
        "(.html), and its claims and noise verdicts as data (findings.json).",
    )
    parser.add_argument(
        "--table", type=Path, required=True, metavar="FILE", help="what `dmlf gather` wrote"
    )
    parser.add_argument(
        "--collectives",
        type=Path,
        metavar="FILE",
        help="what `dmlf collective` wrote; the report says so where it is absent",
    )
    parser.add_argument(
        "--projection",
        type=Path,
        metavar="FILE",
        help="what `dmlf project` wrote; the report says so where it is absent",
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="what `dmlf faults` wrote; the report says so where it is absent",
    )
    parser.add_argument(
        "--overhead",
        type=Path,
        metavar="FILE",
        help="what `dmlf overhead` wrote; the report says so where it is absent",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where `dmlf plot` wrote the figures",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="where to write the report (.md)"
    )
    parser.set_defaults(run=_report)


def _gather(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.gather import gather

    gather(parsed.expected, parsed.output)
    return 0


def _plot(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.plots import (
        FAULTS,
        RECORD_FIGURES,
        STEP,
        check_name,
        draw,
        draw_faults,
        draw_record,
        draw_step,
    )
    from dmlf.errors import ConfigError

    check_name(parsed.name)
    needed = {
        **dict.fromkeys(RECORD_FIGURES, "collectives"),
        STEP: "timeline",
        FAULTS: "faults",
    }.get(parsed.name, "table")
    source = getattr(parsed, needed)
    if source is None:
        raise ConfigError(needed, None, f"--{needed} FILE, which the figure {parsed.name} shows")
    if parsed.name in RECORD_FIGURES:
        draw_record(parsed.name, source, parsed.output)
    elif parsed.name == STEP:
        draw_step(source, parsed.output)
    elif parsed.name == FAULTS:
        draw_faults(source, parsed.output)
    else:
        draw(parsed.name, source, parsed.output)
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.report import write_report

    write_report(
        parsed.table,
        parsed.figures,
        parsed.output,
        parsed.collectives,
        parsed.projection,
        parsed.faults,
        parsed.overhead,
    )
    return 0
