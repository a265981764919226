"""Benchmarks: each compares two ways of doing the same in one run and reports the ratio.

`python -m benchmarks` runs them all; `python -m benchmarks.pick` runs one. Tables go to the screen, JSON to
benchmarks/results/. Run them from the repository's folder.
"""
