"""Statements that say the same about several contestants, as one."""

from __future__ import annotations

from collections.abc import Sequence

from dmlf.benchmark.claims import Judged
from dmlf.benchmark.report.markdown import count, listing

_WHO = "{who}"


def collapsed(judged: Sequence[Judged]) -> list[str]:
    """The sentences in order; those that differ in their subject alone are one, with a count."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for item in judged:
        groups.setdefault((item.said_of(_WHO), item.finding.reservation), []).append(item)
    return [_sentence(group) for group in groups.values()]


def _sentence(group: Sequence[Judged]) -> str:
    reservation = group[0].finding.reservation
    shown = f" ({reservation.capitalize()}.)" if reservation else ""
    if len(group) == 1:
        return f"{group[0].text}{shown}"
    sizes: dict[str, list[str]] = {}
    for item in group:
        at = [] if item.claim.world_size is None else [str(item.claim.world_size)]
        sizes.setdefault(item.claim.subject, []).extend(at)
    names = [f"{n} at world size {listing(s)}" if s else n for n, s in sizes.items()]
    text = group[0].said_of(f"each of {count(len(group), 'contestant')} ({'; '.join(names)})")
    return f"{text[0].upper()}{text[1:]}{shown}"
