"""Chunks cover a bucket once, in order, and are as even as they can be."""

import pytest

from dmlf.protocol import chunk_slices


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("numel", [0, 1, 2, 6, 7, 8, 9, 101, 1_000_003])
def test_chunks_cover_the_bucket_evenly(numel: int, num_chunks: int) -> None:
    chunks = chunk_slices(numel, num_chunks)
    assert len(chunks) == num_chunks
    assert [chunk.start for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])]
    assert chunks[-1].stop == numel
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_the_first_chunks_are_the_longer_ones() -> None:
    assert chunk_slices(8, 3) == (slice(0, 3), slice(3, 6), slice(6, 8))
