"""The optimizer as a parameter server: gradients are pushed, parameters are pulled.

Workers and servers run the same script with the same optimizer; only that of a server ever steps,
over the buckets that the server owns (`dmlf.protocol.ownership`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from dmlf.errors import ConfigError, GroupClosed, NonFiniteGradient, SchemaMismatch
from dmlf.group import Group
from dmlf.protocol import Algorithm, Member, Steps, Tag, broadcast, owner
from dmlf.runtime.cores import server_threads
from dmlf.strict_json import parse
from dmlf.torch.reducer import GradientReducer
from dmlf.torch.replicas import copy_from_rank

_NEW_SETTINGS = 1


class ServedReducer(GradientReducer):
    """What a worker, or a server, does in each step of `optimizer` over the `joint` group.

    Where the settings of worker 0's optimizer have changed (a schedule), they go to the servers
    first. A bucket is always the same server's, so none is left out.
    """

    def __init__(
        self,
        group: Group,
        joint: Group,
        named: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        algorithm: Algorithm,
        reduction: str,
        gradient_op: str,
        bucket_cap_mb: float,
    ) -> None:
        num_servers = joint.world_size - group.world_size
        super().__init__(
            joint,
            named,
            name="DistributedOptimizer",
            reduction=reduction,
            gradient_op=gradient_op,
            bucket_cap_mb=bucket_cap_mb,
            algorithm=algorithm,
            workers=group.world_size,
            threads=server_threads(num_servers) if group.is_server else 1,
        )
        self._named = named
        self._optimizer = optimizer
        self._is_server = group.is_server
        self._place = Member(group.rank, group.world_size, num_servers)
        self._told = _settings_of(optimizer)
        self._settings_come = False
        self._outgoing: dict[int, npt.NDArray[Any]] = {}

    def start(self) -> None:
        """Bring the parameters of worker 0 to all."""
        copy_from_rank(self._group, self._named, root=0)

    def serve(self) -> NoReturn:
        """Serve until a worker closes its group; then end the process, with exit code 0."""
        try:
            self.start()
            while True:
                try:
                    self._step(active=False)
                except NonFiniteGradient:
                    continue  # the workers know, too
        except GroupClosed as closed:
            if closed.cause is None or not closed.cause.endswith("closed it"):
                raise
        raise SystemExit(0)

    def reduce(self) -> None:
        """Push all gradients; pull the parameters that follow from them."""
        super().reduce()
        self.clear()

    def _ballot(self) -> bytes:
        changed = not self._is_server and _settings_of(self._optimizer) != self._told
        return bytes((_NEW_SETTINGS if changed else 0,)) + super()._ballot()

    def _learn(self, bits: bytes) -> None:
        self._settings_come = bits[0] == _NEW_SETTINGS
        super()._learn(bits[1:])
        if self._needed:
            self._needed = list(range(len(self._buckets)))

    def _protocol(self, at: Tag) -> Steps[None]:
        if self._settings_come:
            self._told = _settings_of(self._optimizer)
            data = json.dumps(self._told).encode()
            yield from broadcast(self._group.member, at, 0, lambda _src: data, self._take_settings)
        if self._needed:
            yield from self._algorithm.rank_step(self._place, at.step, len(self._needed))

    def _take_settings(self, _src: int, payload: Any) -> None:
        if self._is_server:
            for settings, told in zip(self._optimizer.param_groups, parse(payload), strict=True):
                settings.update({key: _tuples(value) for key, value in told.items()})

    def apply(self, step: int) -> None:
        """On a server: let its optimizer step over the buckets that it owns."""
        owned = [index for index in self._needed if self._owns(index)]
        for index in owned:
            self._buckets[index].hand_out(self._used[index])
        self._optimizer.step()
        self.clear()

    def read_parameters(self, bucket: int) -> npt.NDArray[Any]:
        """The parameters of a bucket, flattened: [bucket numel], in the group's memory."""
        held = self._buckets[bucket]
        if bucket not in self._outgoing:
            self._outgoing[bucket] = self._group.allocate(held.flat.size, held.flat.dtype)
        flat = self._outgoing[bucket]
        for place, parameter in zip(held.layout.placements, held.parameters, strict=True):
            torch.from_numpy(flat[place.slice]).copy_(parameter.detach().reshape(-1))
        return flat

    def write_parameters(self, bucket: int, payload: Any) -> None:
        """Replace the parameters of a bucket. Raises SchemaMismatch on a wrong payload."""
        held = self._buckets[bucket]
        flat = held.flat  # what was pushed from here has been read: the servers have answered
        if not isinstance(payload, np.ndarray) or payload.shape != flat.shape:
            raise SchemaMismatch(self._place.rank, f"[{flat.size}]", payload, "parameters")
        flat[...] = payload
        with torch.no_grad():
            for place, parameter in zip(held.layout.placements, held.parameters, strict=True):
                parameter.copy_(torch.from_numpy(flat[place.slice]).view(place.shape))

    def _owns(self, bucket: int) -> bool:
        server = self._place.rank - self._place.world_size
        return owner(bucket, self._place.num_servers) == server


def _settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The numbers and texts among the settings of every group of parameters.

    Raises ConfigError for a tensor, whose changes would not reach the servers.
    """
    for number, settings in enumerate(optimizer.param_groups):
        for key, value in settings.items():
            if isinstance(value, torch.Tensor):
                allowed = "a number: that is how its changes reach the servers"
                raise ConfigError(f"{key} of group {number}", "a tensor", allowed)
    return [
        {
            key: value
            for key, value in settings.items()
            if value is None or isinstance(value, bool | int | float | str | tuple)
        }
        for settings in optimizer.param_groups
    ]


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(value) if isinstance(value, list) else value
