"""Transport `shm`: registered buffers in anonymous shared memory; a send moves a token, not bytes.

Every rank writes to one arena of its own and maps the arenas of all others read-only, so each
word of shared memory has one writer. Gradients live in the arena (`Transport.allocate`); a send
writes a token (tag, offset, length, dtype) of 256 bytes, and the receiver adds straight from the
sender's memory. A payload that lies elsewhere is copied into the arena first.

Why nobody reads what has been overwritten:

- A registered buffer is the protocol's business: `Send` says that a payload keeps its value until
  the receiver has received it or the step is over, `Recv` that it is read before the receiver does
  anything but receive from other ranks. A protocol that keeps both rules (the simulator holds every
  registered one to them) writes to a buffer again only when the reader's later message, or the
  commit of the step, has told it so: the commit is a barrier, which a rank enters after its last
  read and leaves after all have entered. Between steps nothing is in flight.
- Copies, and the tokens themselves, are this transport's business: the receiver publishes how
  many messages of a link it has done with (`recv` does so for those before), and the
  sender uses a block or a segment of tokens again only when that count has passed it. Nobody
  ever waits for such space: when all of it is in use, more is taken from the arena, so ranks that
  all send before any receives cannot block one another.
- A token is complete before its sequence number is: the number is written last, and processors
  show stores in that order (`order` in `kernel.py` sees to it where they would not).

Nothing has a name in the file system: the memory is a memfd, inherited by the ranks, which the
kernel frees with its last process, whatever was killed. Pages exist once touched, so an arena may
be as large as the machine's memory and costs nothing until it is used.
"""

from dmlf.transport.shm.transport import (
    ShmEndpoint,
    ShmTransport,
    create_endpoints,
    create_memory,
)

__all__ = ["ShmEndpoint", "ShmTransport", "create_endpoints", "create_memory"]
