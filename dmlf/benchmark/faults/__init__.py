"""What faults do to a run, and what it costs to be ready for them.

A campaign (`plans`, `campaign`) breaks runs at random and holds their ends against those of
undisturbed ones; `left` sees what they leave behind. `overhead` measures steps that could recover
against steps that could not. `load` reads both back, `summary` counts, and `statements` says what
they show.
"""
