"""Measures: how good, how alike, how near; numbers from arrays, nothing else. `from analyzer import metrics`."""

from analyzer.metrics.average_drop import average_drop, increase, kept
from analyzer.metrics.average_precision import Matched, average_precision, matched_to_truth
from analyzer.metrics.consistency import flip_consistency, shift_consistency
from analyzer.metrics.deletion import Curve, deletion, insertion, random_cells
from analyzer.metrics.energy import energy_inside, hit_rate
from analyzer.metrics.intervals import (
    Interval,
    bootstrap,
    mcnemar,
    paired_difference,
    pictures_needed,
    resampled,
    wilson,
)
from analyzer.metrics.max_sensitivity import max_sensitivity
from analyzer.metrics.mprt import mprt
from analyzer.metrics.overlap import heat_iou, top_iou
from analyzer.metrics.pointing_game import pointing_game
from analyzer.metrics.similarity import cosine_of, maximum_shift, spearman
from analyzer.metrics.text import edit_distance, text_similarity

__all__ = [
    "Curve",
    "Interval",
    "Matched",
    "average_drop",
    "average_precision",
    "bootstrap",
    "cosine_of",
    "deletion",
    "edit_distance",
    "energy_inside",
    "flip_consistency",
    "heat_iou",
    "hit_rate",
    "increase",
    "insertion",
    "kept",
    "matched_to_truth",
    "max_sensitivity",
    "maximum_shift",
    "mcnemar",
    "mprt",
    "paired_difference",
    "pictures_needed",
    "pointing_game",
    "random_cells",
    "resampled",
    "shift_consistency",
    "spearman",
    "text_similarity",
    "top_iou",
    "wilson",
]
