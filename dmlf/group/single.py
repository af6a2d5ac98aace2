"""What the driver of a single all-reduce asks for: the one bucket."""

from __future__ import annotations

from typing import Any

from dmlf.protocol import Accumulator


class SingleBucket:
    """Fulfils `dmlf.runtime.Local` for one bucket, and has nothing to apply it to."""

    def __init__(self, bucket: Accumulator | None) -> None:
        self._bucket = bucket

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """The bucket."""
        assert self._bucket is not None
        return self._bucket

    def apply(self, step: int) -> None:
        """The sum stands where the bucket was: nothing is left to do."""

    def read_parameters(self, bucket: int) -> Any:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")

    def write_parameters(self, bucket: int, payload: Any) -> None:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")
