"""How a rank waits for a message: it looks for it a while, and then sleeps.

Between two looks it offers its core to whoever can run there (sched_yield(2)). So the rank that it
waits for is never kept from a core, also where ranks outnumber the cores: these take turns without
ever sleeping. Where nobody else can run the call returns at once, and the core stays awake; to be
woken from sleep takes a virtual machine's core longer than a small all-reduce.
"""

from __future__ import annotations

import threading

LOOK_S = 1e-3
"""How long a rank looks before it sleeps: longer than ranks of one step are apart, mostly."""


def may_look() -> bool:
    """Whether this thread may: beside the main one it would keep the interpreter from that."""
    return threading.current_thread() is threading.main_thread()
