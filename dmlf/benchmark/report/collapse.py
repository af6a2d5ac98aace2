"""Statements that say the same about several contestants, as one."""

from __future__ import annotations

from collections.abc import Sequence

from dmlf.benchmark.claims import Judged, Outcome
from dmlf.benchmark.report.markdown import count, listing

_WHO = "{who}"


def collapsed(judged: Sequence[Judged]) -> list[str]:
    """The sentences in order; those that differ in their subject alone are one, with a count."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for item in judged:
        key = _reason(item) if item.outcome == Outcome.NO_DATA else item.said_of(_WHO)
        groups.setdefault((key, item.finding.reservation), []).append(item)
    return [_sentence(group) for group in groups.values()]


def _reason(item: Judged) -> str:
    """Why nothing is said; `each` where it says that of the subject itself."""
    reason = item.finding.numbers["reason"]
    for name in (item.claim.who, item.claim.subject):
        if reason.startswith(f"{name} "):
            return f"each{reason.removeprefix(name)}"
    return reason


def _sentence(group: Sequence[Judged]) -> str:
    reservation = group[0].finding.reservation
    shown = f" ({reservation.capitalize()}.)" if reservation else ""
    if len(group) == 1:
        return f"{group[0].text}{shown}"
    names = _names(group)
    if group[0].outcome == Outcome.NO_DATA:
        kinds = listing(list(dict.fromkeys(i.claim.kind.replace("_", " ") for i in group)))
        return f"No statement in {len(group)} comparisons ({kinds}; {names}): {_reason(group[0])}."
    text = group[0].said_of(f"each of {count(len(group), 'contestant')} ({names})")
    return f"{text[0].upper()}{text[1:]}{shown}"


def _names(group: Sequence[Judged]) -> str:
    """Every subject once, with its world sizes."""
    sizes: dict[str, list[str]] = {}
    for item in group:
        own = sizes.setdefault(item.claim.subject, [])
        if item.claim.world_size is not None and str(item.claim.world_size) not in own:
            own.append(str(item.claim.world_size))
    return "; ".join(f"{n} at world size {listing(s)}" if s else n for n, s in sizes.items())
