"""One synchronisation of gradients: from `.grad` of every rank to the sum, or mean, in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dmlf.errors import ConfigError, NonFiniteGradient
from dmlf.group import Group, default_group, init, is_initialized
from dmlf.numerics.exact import MAX_TERMS
from dmlf.protocol import Accumulator, Algorithm, Steps, Tag
from dmlf.torch.bucket import GradientBucket, gradient_buckets

_ACTIVE = 1 << 15
REDUCTIONS = ("float32", "exact")
GRADIENT_OPS = ("mean", "sum")


class GradientReducer:
    """Sums the gradients of `named` parameters over all ranks of a group, when it is told to.

    Fulfils `dmlf.runtime.Local`. A parameter that has no gradient on some ranks counts as zero
    there; one that has none on any rank is left alone, and a bucket of such is not sent.
    group: of all who take part. workers: how many of them, the first, have gradients; all by
    default. name: of what is synchronised, for errors. algorithm: of the group where it is None.
    threads: how many add what is received.
    """

    def __init__(
        self,
        group: Group,
        named: Mapping[str, torch.Tensor],
        *,
        name: str,
        reduction: str,
        gradient_op: str,
        bucket_cap_mb: float,
        algorithm: Algorithm | None = None,
        workers: int | None = None,
        threads: int = 1,
    ) -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("gradient_op", gradient_op, GRADIENT_OPS)
        if isinstance(bucket_cap_mb, bool) or not bucket_cap_mb > 0:
            raise ConfigError("bucket_cap_mb", bucket_cap_mb, "MiB, more than 0")
        self.exact = reduction == "exact"
        self._is_sum = gradient_op == "sum"
        self.active: list[int] = []  # the ranks that had gradients in the last step
        self._last_active: list[int] = []  # the same, of the last step in which there were any
        self._group = group
        self._algorithm = algorithm or group.algorithm
        self._workers = group.world_size if workers is None else workers
        cap_bytes = max(4, int(bucket_cap_mb * 2**20))
        divisor = self._workers if gradient_op == "mean" else 1
        self._buckets = gradient_buckets(
            group,
            named,
            exact=self.exact,
            divisor=divisor,
            cap_bytes=cap_bytes,
            threads=threads,
        )
        self._numbers = np.cumsum([0, *(len(bucket.parameters) for bucket in self._buckets)])
        self._text = f"{name} step ({len(named)} gradients, {reduction}, {gradient_op})"
        self._hooks: list[Any] = []
        self._learned: bytes | None = None
        self._local_terms = 0
        self._num_terms = 0
        self._used: list[list[bool]] = []
        self._needed: list[int] = []

    def watch(self, before: Callable[[], None]) -> None:
        """Have `before` called within backward, as often as a parameter gets its gradient.

        A mean may be averaged again, with what a pass adds to it; a sum must not be summed again.
        """
        for bucket in self._buckets:
            for index, parameter in enumerate(bucket.parameters):
                if self._is_sum:

                    def check(_: Any, bucket: GradientBucket = bucket, index: int = index) -> None:
                        bucket.check_cleared(index)

                    self._hooks.append(parameter.register_hook(check))  # type: ignore[no-untyped-call]

                def hook(_: Any, bucket: GradientBucket = bucket, index: int = index) -> None:
                    before()
                    if not self.exact:
                        bucket.move_in(index)

                handle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                self._hooks.append(handle)

    def release(self) -> None:
        """Leave parameters and gradients alone from now on; their memory was the group's."""
        while self._hooks:
            self._hooks.pop().remove()
        self.clear()

    def add_pass(self) -> None:
        """Take note of the end of a backward pass; in `exact` its gradients become a term."""
        if self._is_sum:  # also what this pass has not touched
            for bucket in self._buckets:
                for index in range(len(bucket.parameters)):
                    bucket.check_cleared(index)
        self._local_terms += 1
        if self.exact:
            for bucket in self._buckets:
                bucket.add_term()

    def reduce(self) -> None:
        """Replace `.grad` of all parameters by the sum, or mean, over all ranks.

        Raises NonFiniteGradient, on all ranks alike, with `.grad` cleared.
        """
        self._step(active=True)

    def accompany_all(self, after_each: Callable[[], None] = lambda: None) -> int | None:
        """Take part in what others `reduce`, without gradients, until all ranks are here.

        after_each: called when others have reduced. `.grad` is None afterwards.
        Returns a rank that was there to the last; None if there has been no step at all.
        """
        self.clear()
        self._step(active=False)
        while self.active:
            after_each()
            self._step(active=False)
        return self._last_active[0] if self._last_active else None

    def clear(self) -> None:
        """Forget all gradients."""
        self.forget_terms()
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.grad = None

    def forget_terms(self) -> None:
        """Begin anew: no pass has been added."""
        self._local_terms = 0
        for bucket in self._buckets:
            bucket.forget_terms()

    def _step(self, active: bool) -> None:
        self._is_active = active

        try:
            self._group.call(
                self._text, self._protocol, self, bits=self._ballot(), learn=self._learn
            )
        except NonFiniteGradient:
            self.clear()
            raise
        self.forget_terms()

    def _protocol(self, at: Tag) -> Steps[None]:
        if self._needed:
            num_buckets = len(self._needed)
            yield from self._algorithm.worker_step(self._group.member, at.step, num_buckets)

    def _ballot(self) -> bytes:
        """What this rank has: 16 bits per rank (active, number of terms), a bit per parameter."""
        numbers = np.zeros(self._workers, "<u2")
        used = np.zeros(self._numbers[-1], np.bool_)
        if self._is_active:
            numbers[self._group.rank] = _ACTIVE | min(self._local_terms, _ACTIVE - 1)
            used[:] = [has for bucket in self._buckets for has in bucket.has_gradient()]
        return numbers.tobytes() + np.packbits(used).tobytes()

    def _learn(self, bits: bytes) -> None:
        """Take in what all ranks together have, which seldom changes."""
        if bits == self._learned:
            return
        self._learned = bits
        size = 2 * self._workers
        numbers = np.frombuffer(bits[:size], "<u2")
        used = np.unpackbits(np.frombuffer(bits[size:], np.uint8), count=self._numbers[-1])
        self.active = [int(rank) for rank in np.flatnonzero(numbers)]
        self._last_active = self.active or self._last_active
        self._num_terms = int((numbers & (_ACTIVE - 1)).sum())
        if self.exact and self._num_terms > MAX_TERMS:
            allowed = f"at most {MAX_TERMS} backward passes in a step, of all ranks together"
            raise ConfigError("reduction", "exact", f"{allowed} (there were {self._num_terms})")
        self._used = [part.tolist() for part in np.split(used != 0, self._numbers[1:-1])]
        self._needed = [index for index, part in enumerate(self._used) if any(part)]

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """The accumulator of a bucket, with this rank's gradients in it."""
        return self._buckets[self._needed[bucket]].accumulator(self._num_terms)

    def apply(self, step: int) -> None:
        """Hand out the sums; the step is committed."""
        if self._is_active:
            for index in self._needed:
                self._buckets[index].hand_out(self._used[index])

    def read_parameters(self, bucket: int) -> Any:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")

    def write_parameters(self, bucket: int, payload: Any) -> None:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")


def group_of_process(transport: str | None = None) -> Group:
    """The group of this process; where there is none, `dmlf.init` makes it, over `transport`."""
    if not is_initialized():
        return init(transport=transport)
    if transport is not None:
        allowed = "None, as there is a group already; give it to dmlf.init(), or to its launcher"
        raise ConfigError("transport", transport, allowed)
    return default_group()


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError if `value` is none of `allowed`."""
    if value not in allowed:
        raise ConfigError(key, value, ", ".join(allowed))
