"""A script that ends in the way its first argument says, on rank 1."""

import os
import sys
import threading

import numpy as np

import dmlf

way = sys.argv[1]
group = dmlf.init()
if group.rank == 1:
    if way == "exit":
        sys.exit(int(sys.argv[2]))
    if way == "text":
        sys.exit("what went wrong")
    if way == "raise":
        {}["missing key"]
    if way == "kill":
        os.kill(os.getpid(), 9)
    if way == "leave":
        os._exit(7)
    if way == "order":
        group.barrier()
    if way == "wait":
        print("waiting", flush=True)
        threading.Event().wait()
if way == "long lines":
    for _ in range(20):
        print(str(group.rank) * 30_000)
elif way != "wait":
    group.all_reduce(np.zeros(3))
else:
    group.barrier()
