"""From a transport's name to its endpoints: shipped, registered and installed ones alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from typing import TypeVar

from dmlf.plugins import Registry, module_of
from dmlf.transport.base import Endpoint

CreateEndpoints = Callable[[BaseContext, int], Sequence[Endpoint]]
"""(multiprocessing context, group size) -> one endpoint per rank, which `Process` can carry."""

F = TypeVar("F", bound=CreateEndpoints)

TRANSPORTS: Registry[CreateEndpoints] = Registry(
    "transport",
    decorator="@register_transport",
    shipped={
        "queue": "dmlf.transport.queue",
        "shm": "dmlf.transport.shm.transport",
        "tcp": "dmlf.transport.tcp.transport",
        "process_group": "dmlf.transport.process_group",
    },
    reserved=("none", "gloo"),
)
"""All transports by name."""


def register_transport(name: str) -> Callable[[F], F]:
    """Register the decorated function, which makes a group's endpoints, as the transport `name`.

    Raises PluginError where the name is taken.
    """

    def decorate(create_endpoints: F) -> F:
        TRANSPORTS.register(name, create_endpoints, module_of(create_endpoints))
        return create_endpoints

    return decorate
