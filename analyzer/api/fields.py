"""`receptive-field --effective` as a function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from analyzer.analysis.effective_field import Measure
from analyzer.api.data import Pictures, listed, opened_samples, samples_of
from analyzer.api.explaining import Picture, as_given
from analyzer.api.models import Asked, Preprocessing, for_pictures, kept, known_options
from analyzer.attribution.cards import first_shapes
from analyzer.attribution.effective_field import POSITIONS
from analyzer.attribution.effective_field import effective_field as field_of_arrays
from analyzer.attribution.field_views import EffectiveFields
from analyzer.passes import run
from analyzer.passes.effective_fields import MeasuringFields


def effective_field(
    model: Any,
    inputs: Pictures | Mapping[str, np.ndarray],
    layers: str | Sequence[str] | None = None,
    *,
    positions: int = POSITIONS,
    measure: Measure = "squared",
    seed: int = 0,
    provider: str = "cpu",
    input: Mapping[str, Any] | None = None,
    preprocess: Preprocessing = None,
    progress: Callable[[], None] | None = None,
    **options: Any,
) -> EffectiveFields:
    """The effective receptive field of layers over pictures: E |∂A_p/∂x|² around each unit p.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        inputs: pictures, as for `analyzer.compare`; or the preprocessed array, (N, …) in the model's own layout, or
            {input: array}.
        layers: tensor names, node names or globs; up to 12 feature maps, evenly over the depth, unless given.
        positions: units per layer and picture, drawn at random from those whose theoretical field lies inside the
            picture; where it does inside none, those nearest to the middle.
        measure: "squared", of which one gradient is an unbiased estimate over all channels of a unit (their signs are
            drawn at random); or "absolute", of one channel drawn at random.
        seed: of what is drawn.
        progress: called after each layer of each picture.
        provider, input, preprocess, options: as for `analyzer.explain`.

    Returns:
        {layer: its effective field} in the order of the graph, with `.figure()` and `.save(path)`.

    Raises:
        NotFoundError: no such layer. UnsupportedError: a layer has no channels over space, or no gradient.
        InputError: as for `analyzer.explain`; no picture could be measured.
    """
    asked = Asked.of(options, preprocess, input=input)
    known_options(options, "effective_field")
    loaded = kept(model, provider, asked.session)
    if not isinstance(inputs, list | tuple) and not isinstance(given := as_given(loaded, inputs), Picture):
        return field_of_arrays(
            loaded, given, layers, positions=positions, measure=measure, seed=seed, progress=progress
        )  # fmt: skip
    pictures = listed(inputs)
    samples = samples_of(pictures)
    explainer, card = for_pictures(model, provider, asked)
    samples = opened_samples(samples, pictures, card.feeds, 1)
    shapes = first_shapes(samples, [card.feeds])[0]
    work = MeasuringFields(explainer, card.feeds, shapes, layers, positions, measure, seed)
    work.progress = progress
    done = run(work, samples)
    for name, error in done.failed.items():
        warnings.warn(f"{name}: {error.message}", stacklevel=2)
    return cast(EffectiveFields, done.result)
