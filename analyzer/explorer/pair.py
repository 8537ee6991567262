"""Two builds side by side: which layer is which, and how far each drifts on a picture."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from analyzer.errors import NotFoundError
from analyzer.explorer.bench import Bench
from analyzer.explorer.layers import Layer
from analyzer.explorer.pictures import Picture
from analyzer.validation.matching import match_by_activations, match_by_name
from analyzer.validation.metrics import Drift
from analyzer.validation.summaries import largest_jump


class Pair:
    """A reference and a candidate. Layers are counted as the reference's.

    Args:
        first: a picture, on which layers that share no name are matched by what they hold.
    """

    def __init__(self, reference: Bench, candidate: Bench, first: Picture) -> None:
        self.reference, self.candidate = reference, candidate
        self._first = first

    @cached_property
    def twins(self) -> dict[int, Layer]:
        """{number of the reference's layer: the candidate's}, matched as `compare` does."""
        ours = {layer.name: number for number, layer in enumerate(self.reference.layers)}
        graph = self.candidate.graph
        named = {m.reference: m.candidate for m in match_by_name(list(ours), graph)}
        known = self.candidate.find([*named.values()])
        found = {ours[name]: known[twin] for name, twin in named.items() if twin in known}
        left = [layer for number, layer in enumerate(self.reference.layers) if number not in found]
        taken = {layer.name for layer in found.values()}
        right = [layer for layer in self.candidate.layers if layer.name not in taken]
        if left and right:
            matches = match_by_activations(
                dict(zip([a.name for a in left], self.reference.read(self._first, left), strict=True)),
                dict(zip([b.name for b in right], self.candidate.read(self._first, right), strict=True)),
            )
            theirs = {layer.name: layer for layer in right}
            found |= {ours[m.reference]: theirs[m.candidate] for m in matches}
        alike = {n: t for n, t in found.items() if t.channels == self.reference.layers[n].channels}
        return dict(sorted(alike.items()))

    def twin(self, number: int) -> Layer:
        """The candidate's layer.

        Raises:
            NotFoundError: it has none.
        """
        if number not in self.twins:
            name = self.reference.layer(number).name
            raise NotFoundError(f"the candidate has no counterpart of {name}", "choose another layer")
        return self.twins[number]

    def maps(self, picture: Picture, number: int, query: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """The activations of both, (channels, h, w) float32 each.

        Args:
            query: of heads, see `Layer.of_query`.

        Raises:
            NotFoundError: they have no counterpart, or other sizes.
        """
        ours = self.reference.one(picture, self.reference.layer(number).of_query(query))
        theirs = self.candidate.one(picture, self.twin(number).of_query(query))
        if ours.shape != theirs.shape:
            name = self.reference.layer(number).name
            raise NotFoundError(f"{name} is {ours.shape} in the reference and {theirs.shape} in the candidate")
        return ours, theirs

    def drifts(self, picture: Picture) -> dict[str, Any]:
        """{"layers": SQNR in dB of each of the reference's layers, None without a counterpart, "first": the number of
        the layer where the noise grows most, None where none does}"""
        found: list[float | None] = [None] * len(self.reference.layers)
        rows = []
        for number in self.twins:
            try:
                ours, theirs = self.maps(picture, number)
            except NotFoundError:
                continue
            drift = Drift()
            drift.add(ours, theirs)
            found[number] = round(drift.sqnr, 2)
            rows.append({"layer": number, "sqnr_db": drift.sqnr})
        jump = largest_jump(rows)
        return {"layers": found, "first": None if jump is None or jump["at_db"] >= 100 else jump["layer"]}
