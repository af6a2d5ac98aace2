"""What a rank leaves in its pulse, for a launcher that reads it when it likes."""

from __future__ import annotations

import math
import os
import signal

from dmlf.runtime import process_context
from dmlf.runtime.pulse import Pulse, Reading


def leave_and_die(pulse: Pulse) -> None:
    pulse.beat()
    pulse.stepped(7)
    pulse.note({"epoch 0": {"test_loss": math.inf}, "so far": [7, None, "\n"]})
    pulse.note({"so far": [8, "x" * 100_000]})
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_has_left_can_be_read() -> None:
    pulse = Pulse()
    assert (pulse.read(), pulse.noted()) == (Reading(0, 0), [])
    process = process_context([], 1).Process(target=leave_and_die, args=(pulse,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert pulse.read() == Reading(1, 7)
    first, second = pulse.noted()
    assert first == {"epoch 0": {"test_loss": math.inf}, "so far": [7, None, "\n"]}
    assert second == {"so far": [8, "x" * 100_000]}
    assert pulse.noted() == []


def test_a_note_in_the_middle_of_being_written_is_read_once_it_is_whole() -> None:
    launcher = Pulse()
    rank = Pulse(os.dup(launcher.descriptor))
    rank.note({"a": 1})
    place = os.fstat(launcher.descriptor).st_size
    os.pwrite(launcher.descriptor, b'{"b": ', place)
    assert launcher.noted() == [{"a": 1}]
    assert launcher.noted() == []
    os.pwrite(launcher.descriptor, b'2}\n{"c"', place + 6)
    assert launcher.noted() == [{"b": 2}]
    os.pwrite(launcher.descriptor, b": 3}\n", place + 13)
    assert launcher.noted() == [{"c": 3}]
