"""Measures: how good, how alike, how near; numbers from arrays, nothing else."""
