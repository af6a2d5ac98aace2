# A Snakemake that is killed leaves its lock files behind, and the next one would refuse to start.
# The kernel gives up a lock with the process that holds it: whoever gets this one knows that no
# other Snakemake is at work in this folder, and that any lock files are stale. A job of a cluster, on a node that may not see the lock, takes no part.
import fcntl
from pathlib import Path

if workflow.is_main_process:
    Path(".snakemake").mkdir(exist_ok=True)
    ALIVE = open(".snakemake/alive", "w")
    try:
        fcntl.flock(ALIVE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # Snakemake's own message says what to do
    else:
        for lock_file in Path(".snakemake", "locks").glob("*.lock"):
            lock_file.unlink()
