"""Which layer of one file is which of another: by name, then by name without decoration, then by what it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.graph import Graph
from analyzer.graph.through import dequantized
from analyzer.metrics.similarity import cosine_of

# What quantisers, converters and exporters add to a name.
_DECORATION = re.compile(
    r"(_DequantizeLinear_Output|_QuantizeLinear_Output|_QuantizeLinear_Input|_dequantized?|_cast_\d+|_cast|_fp(16|32)|:0)+$"
)
POOR, SURE = 0.9, 0.99  # cosines below which a match by name is doubted, and above which another one convinces
ALIKE = 0.6  # the lowest cosine at which two layers of the same shape are matched
SCALED = 0.05  # what a layer of another magnitude counts less: x and x / 2 have the same cosine


@dataclass(frozen=True)
class Match:
    """A layer of both files, and how it was recognised: "name", "name, dequantised", "name alike", "activations"."""

    reference: str
    candidate: str
    rule: str


def match_by_name(reference: Sequence[str], candidate: Graph) -> list[Match]:
    """A match for every reference layer whose name the candidate has, in the order given.

    A layer that the candidate quantises is read after its DequantizeLinear: reading it before would turn the
    integer kernels back to floating point.
    """
    plain = {undecorated(n): n for n, v in reversed(list(candidate.values.items())) if v.inputs}
    found = []
    for name in reference:
        if name in candidate and candidate[name].inputs:
            behind = dequantized(candidate[name])
            if behind is None:
                found.append(Match(name, name, "name"))
            else:
                found.append(Match(name, behind.name, "name, dequantised"))
        elif undecorated(name) in plain:
            value = candidate[plain[undecorated(name)]]
            value = dequantized(value) or value
            if value.dtype is None or np.dtype(value.dtype).kind not in "iu":
                found.append(Match(name, value.name, "name alike"))
    return found


def match_by_activations(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    reference_shapes: Mapping[str, tuple[int, ...]] | None = None,
    candidate_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Match]:
    """The matching in the order of both graphs with the largest sum of cosines; equal shapes only.

    Args:
        reference, candidate: activations of the same pictures in the order of their graphs, whole or sampled.
        reference_shapes, candidate_shapes: of the whole layers, channels first; the arrays' own when None.
    """
    reference_shapes = reference_shapes or {n: a.shape for n, a in reference.items()}
    candidate_shapes = candidate_shapes or {n: a.shape for n, a in candidate.items()}
    left, right = list(reference), list(candidate)
    alike = np.zeros((len(left), len(right)))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            if reference_shapes[a] == candidate_shapes[b]:
                x, y = reference[a].astype(np.float64), candidate[b].astype(np.float64)
                score = cosine_of(x, y)
                alike[i, j] = score - SCALED * (1 - _ratio(x, y)) if score >= ALIKE else 0.0
    best = np.zeros((len(left) + 1, len(right) + 1))
    for i in range(len(left)):
        for j in range(len(right)):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + alike[i, j])
    found = []
    i, j = len(left), len(right)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append(Match(left[i], right[j], "activations"))
    return found[::-1]


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Of the smaller norm to the larger one."""
    smaller, larger = sorted(float(np.linalg.norm(np.nan_to_num(x))) for x in (a, b))
    return smaller / larger if 0 < larger < np.inf else 1.0


def without_shifted_names(
    matches: Sequence[Match],
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    reference_shapes: Mapping[str, tuple[int, ...]],
    candidate_shapes: Mapping[str, tuple[int, ...]],
) -> list[Match]:
    """The matches by name, unless automatic names have shifted: then those by activations come first.

    Names have shifted where layers are unlike their namesakes and nearly equal to layers with other namesakes.
    A single one may also be a layer that differs: then its namesake comes after its equal, and is no other layer.

    Args:
        reference, candidate: activations of one picture, of all layers.
    """

    def cosine(match: Match) -> float:
        a, b = reference[match.reference], candidate[match.candidate]
        same = math.prod(reference_shapes[match.reference]) == math.prod(candidate_shapes[match.candidate])
        return cosine_of(a.astype(np.float64), b.astype(np.float64)) if same and a.size == b.size else 0.0

    by_name = {m.reference: (m, cosine(m)) for m in matches}
    taken = {m.candidate for m, value in by_name.values() if value >= SURE}
    found = match_by_activations(reference, candidate, reference_shapes, candidate_shapes)
    shifted = [
        m
        for m in found
        if m.reference in by_name
        and by_name[m.reference][1] < POOR
        and m.candidate not in taken | {by_name[m.reference][0].candidate}
        and cosine(m) >= SURE
    ]
    order = {name: place for place, name in enumerate(candidate)}
    sure = {m.candidate for m in found if cosine(m) >= SURE}
    namesakes = [(by_name[m.reference][0].candidate, m.candidate) for m in shifted]
    if len(shifted) < 2 and not any(own in sure or order[own] < order[other] for own, other in namesakes):
        return list(matches)
    known = {m.reference for m in found}, {m.candidate for m in found}
    return [*found, *(m for m in matches if m.reference not in known[0] and m.candidate not in known[1])]


def undecorated(name: str) -> str:
    return _DECORATION.sub("", name)
