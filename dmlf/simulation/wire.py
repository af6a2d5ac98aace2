"""All links of a simulated group, and what message faults do to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from dmlf.simulation.agenda import Agenda, Event
from dmlf.simulation.faults import MESSAGE_KINDS, Fault, FaultKind, mistagged, other_links
from dmlf.simulation.network import Envelope, Link
from dmlf.simulation.process import Outgoing


class FaultLog:
    """Which faults have fired, and what they excuse.

    fired: faults by kind. stalled_ns: how long they hold things up altogether. last_ns: when the
    last of them ends. is_harmful: one of them entitles ranks to fail. only_non_finite: no harmful
    one but NON_FINITE has fired.
    """

    def __init__(self) -> None:
        self.fired: Counter[FaultKind] = Counter()
        self.stalled_ns = 0
        self.last_ns = 0
        self.is_harmful = False
        self.only_non_finite = True

    def fire(self, fault: Fault, now_ns: int) -> None:
        """Note that `fault` happens now."""
        self.fired[fault.kind] += 1
        self.last_ns = max(self.last_ns, now_ns)
        if fault.kind in (FaultKind.DELAY, FaultKind.PAUSE, FaultKind.REORDER):
            self.stalled_ns += fault.detail
            self.last_ns = max(self.last_ns, now_ns + fault.detail)
        else:
            self.harm(fault.kind)

    def harm(self, kind: FaultKind) -> None:
        """Note that ranks may fail from now on."""
        self.is_harmful = True
        self.only_non_finite = self.only_non_finite and kind is FaultKind.NON_FINITE


class Wire:
    """Links by (src, dst). Posts `deliver` and `late` events; the world executes them."""

    def __init__(
        self, group_size: int, faults: Iterable[Fault], agenda: Agenda, log: FaultLog
    ) -> None:
        ranks = range(group_size)
        self.links = {(src, dst): Link() for src in ranks for dst in ranks}
        self.sent = 0
        self._group_size = group_size
        self._agenda = agenda
        self._log = log
        self._faults = {
            (fault.rank, fault.peer, fault.index): fault
            for fault in faults
            if fault.kind in MESSAGE_KINDS
        }

    def send(self, src: int, message: Outgoing) -> None:
        """Put a message on its link, with the fault planned for it, if any."""
        link = self.links[src, message.dst]
        envelope = Envelope(message.tag, message.payload, message.tag, message.live)
        fault = self._faults.get((src, message.dst, len(link.history)))
        link.history.append(envelope)
        self.sent += 1
        if fault is None:
            self._put(src, message.dst, envelope)
        else:
            self._log.fire(fault, self._agenda.now_ns)
            self._send_faulty(src, message.dst, envelope, fault)

    def deliver(self, src: int, dst: int) -> None:
        """Move the first message in flight to the receiver."""
        link = self.links[src, dst]
        link.inbox.append(link.in_flight.popleft())
        if link.in_flight:
            self._agenda.post(Event("deliver", src, dst), link.in_flight[0].ready_ns)

    def release_late(self, src: int, dst: int) -> None:
        """Put a message that was held back on its link, behind those that overtook it."""
        link = self.links[src, dst]
        envelope = link.late.popleft()
        if link.history[-1].origin != envelope.origin:
            self._log.harm(FaultKind.REORDER)
        self._put(src, dst, envelope)

    def _put(self, src: int, dst: int, envelope: Envelope) -> None:
        link = self.links[src, dst]
        link.in_flight.append(envelope)
        if len(link.in_flight) == 1:
            self._agenda.post(Event("deliver", src, dst), envelope.ready_ns)

    def _send_faulty(self, src: int, dst: int, envelope: Envelope, fault: Fault) -> None:
        link, now_ns = self.links[src, dst], self._agenda.now_ns
        match fault.kind:
            case FaultKind.DROP:
                pass
            case FaultKind.DELAY:
                self._put(src, dst, replace(envelope, ready_ns=now_ns + fault.detail))
            case FaultKind.REORDER:
                link.late.append(envelope)
                self._agenda.post(Event("late", src, dst), now_ns + fault.detail)
            case FaultKind.DUPLICATE:
                self._put(src, dst, envelope)
                self._put(src, dst, replace(envelope, live=None, is_copy=True))
            case FaultKind.CORRUPT:
                tag = mistagged(envelope.tag, 1, self._group_size)
                changed = envelope.tag if fault.detail == 0 else tag
                self._put(src, dst, replace(envelope, tag=changed, is_damaged=True))
            case FaultKind.MISTAG:
                tag = mistagged(envelope.tag, fault.detail, self._group_size)
                self._put(src, dst, replace(envelope, tag=tag, origin=tag))
            case FaultKind.MISDIRECT:
                self._put(*other_links(self._group_size, src, dst)[fault.detail], envelope)
            case _:
                self._put(src, dst, self._stale(link, envelope, fault.detail))
                self._put(src, dst, envelope)

    @staticmethod
    def _stale(link: Link, envelope: Envelope, index: int) -> Envelope:
        """A message that comes again: from an earlier generation, or from earlier on the link."""
        if index >= 0:
            return replace(link.history[index], live=None, is_copy=True)
        tag = envelope.tag._replace(generation=envelope.tag.generation - 1)
        return replace(envelope, tag=tag, origin=tag, live=None, is_copy=True)
