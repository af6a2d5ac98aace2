"""How a rank leaves the others when it has done its part."""

from __future__ import annotations

import sys

from dmlf.errors import TransportError
from dmlf.transport import Transport


def close_links(transport: Transport, rank: int) -> None:
    """Close the links of a rank whose report is made: that stands, whatever becomes of them.

    Who has not got a message that it needs fails for it itself.
    """
    try:
        transport.close()
    except TransportError as error:
        print(f"dmlf: rank {rank} is done, but at the end {error}", file=sys.stderr)
