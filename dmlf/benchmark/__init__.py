"""From a run's raw samples to a report: metrics, checks, statistics, claims, figures, text.

The path of one number: `metrics` turns a finished run into metrics.json (validated by `schema`,
written by `files`); `gather` reads what a plan expects, lets `checks` judge each run, and writes
one tidy `table`; `statistics` and `points` summarise runs; `claims` states what they show;
`plots` draws and `report` writes. Importing this package loads none of it.
"""
