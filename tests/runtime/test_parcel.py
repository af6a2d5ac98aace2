"""Objects with descriptors reach a process that runs already."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import psutil
import pytest

from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context
from dmlf.runtime.parcel import receive_parcel, send_parcel
from dmlf.transport import TRANSPORTS
from tests.runtime.programs import echo_over_parcels

TIMEOUT_S = 30.0


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_links_travel_to_a_running_process(transport: str) -> None:
    context = process_context([], 1)
    own, theirs = context.Pipe(duplex=True)
    process = context.Process(target=echo_over_parcels, args=(theirs,))
    process.start()
    theirs.close()
    try:
        for generation in range(3):
            endpoints = TRANSPORTS[transport](context, 2)
            send_parcel(own, endpoints[1], TIMEOUT_S)
            link = endpoints[0].connect()
            values = np.arange(5, dtype=np.float32) * (generation + 1)
            link.send(1, Message(Tag(generation, 0, 0, Phase.PUSH, 0, 0), values))
            answer = link.recv(1, 30.0)
            assert answer.tag.generation == generation
            np.testing.assert_array_equal(answer.payload, values * 2)
            link.close()
        send_parcel(own, None, TIMEOUT_S)
        process.join(30.0)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        own.close()


def test_many_descriptors_arrive_each_in_its_place() -> None:
    """More than the kernel passes at once, and none is left open."""
    own, theirs = get_context("spawn").Pipe(duplex=True)
    before = psutil.Process().num_fds()
    pipes = [get_context("spawn").Pipe(duplex=False) for _ in range(150)]
    send_parcel(own, [end for pair in pipes for end in pair], TIMEOUT_S)
    came = receive_parcel(theirs)
    for number, (reader, writer) in enumerate(zip(came[::2], came[1::2], strict=True)):
        writer.send(number)
        assert pipes[number][0].poll(10.0)
        assert reader.recv() == number
    for end in [*came, *(end for pair in pipes for end in pair)]:
        end.close()
    assert psutil.Process().num_fds() == before
    for end in (own, theirs):
        end.close()


def test_a_parcel_larger_than_a_pipe_is_sent_as_it_is_taken() -> None:
    own, theirs = get_context("spawn").Pipe(duplex=True)
    values = np.arange(300_000)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_parcel, own, values, TIMEOUT_S)
        np.testing.assert_array_equal(receive_parcel(theirs), values)
        sent.result(TIMEOUT_S)
    for end in (own, theirs):
        end.close()


@pytest.mark.parametrize("what", ["a letter", "descriptors"])
def test_who_takes_nothing_is_not_waited_for_long(what: str) -> None:
    own, theirs = get_context("spawn").Pipe(duplex=True)

    def fill_the_pipe() -> None:
        while True:
            send_parcel(own, np.arange(300_000) if what == "a letter" else [own], 0.05)

    with pytest.raises(TimeoutError):
        fill_the_pipe()
    theirs.close()
    with pytest.raises(BrokenPipeError):
        send_parcel(own, None, 0.05)
    own.close()
