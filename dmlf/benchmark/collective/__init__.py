"""How fast is an all-reduce, beside Gloo, Open MPI and what this machine can copy and add?

The path of one number: `measure` starts the ranks of a world size, in which every contestant has
its own connected transport (`rank`: dmlf's strategies, Gloo, and the machine's limit; `openmpi`:
processes of mpirun), and lets them take turns; `timing` times a turn and has its result checked;
`record` makes the JSON file. `load` reads it back, `summary` turns samples into bandwidths and
ratios, and `table`, `statements`, the figure and the report tell them.
"""
