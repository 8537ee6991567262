"""How alike two texts are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions of one symbol that turn a into b (Levenshtein 1966)."""
    row = np.arange(len(b) + 1)
    for symbol in a:
        before, row = row, np.empty_like(row)
        row[0] = before[0] + 1
        for i, other in enumerate(b):
            row[i + 1] = min(before[i] + (symbol != other), before[i + 1] + 1, row[i] + 1)
    return int(row[-1])


def text_similarity(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """1 − edit distance / length of the longer text, in [0, 1]; 1 for two empty ones."""
    longer = max(len(a), len(b))
    return 1 - edit_distance(a, b) / longer if longer else 1.0
