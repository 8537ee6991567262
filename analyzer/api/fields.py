"""`receptive-field`, and with --effective, as functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from analyzer.analysis import ReceptiveFields
from analyzer.analysis.effective_field import Measure
from analyzer.analysis.receptive_field import Gates, of_one_picture
from analyzer.analysis.receptive_field import receptive_field as fields_of_graph
from analyzer.api.data import Pictures, listed, opened_samples, samples_of
from analyzer.api.explaining import Picture, as_given
from analyzer.api.models import Asked, Preprocessing, for_pictures, kept, known_options
from analyzer.attribution.cards import first_shapes
from analyzer.attribution.effective_field import POSITIONS, measured_layers
from analyzer.attribution.effective_field import effective_field as field_of_arrays
from analyzer.attribution.field_views import EffectiveFields, draw_fields, picture_of, size_of
from analyzer.attribution.units import Units
from analyzer.errors import InputError
from analyzer.graph import Graph
from analyzer.passes import run
from analyzer.passes.effective_fields import MeasuringFields


def receptive_field(
    model: Any,
    wrt: str | None = None,
    gates: Gates = "global",
    axes: Sequence[int] | None = None,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
) -> ReceptiveFields:
    """The receptive field of every tensor of `model`.

    Args:
        model: path, bytes, ModelProto or Graph.
        wrt: the tensor whose elements are the pixels; the image input when None.
        gates: "global" includes the statistics of normalizations and squeeze-and-excitation; "cut" does not.
        axes: the spatial axes of `wrt`; found from its shape and its first consumers when None.
        input_shapes: {input: sizes} to fix symbolic dimensions when a model is read.

    Returns:
        {tensor: its field} in the order of the graph, with `.figure()` and `.save(path)`.

    Raises:
        InputError: the rank of `wrt` is not known.
    """
    graph = model if isinstance(model, Graph) else Graph.read(model, input_shapes=input_shapes)
    return replace(fields_of_graph(graph, wrt, gates, axes), draw=partial(_drawn, model, graph))


def _drawn(
    model: Any,
    graph: Graph,
    fields: ReceptiveFields,
    layer: str | Sequence[str] | None,
    at: tuple[int, ...] | None,
    picture: Any,
) -> np.ndarray:
    """The fields on a blank picture, or on one that is fed as the model's card says."""
    if picture is None:
        size, seen = size_of(graph, fields), None
    else:
        explainer, card = for_pictures(model, "cpu", Asked.of({}, None))
        if fields.input != explainer.image:
            raise InputError(f"these fields are counted in {fields.input!r}, not in pixels", "leave out the picture")
        samples = opened_samples(samples_of(picture), picture, card.feeds, 1)
        graph = explainer.graph(first_shapes(samples, [card.feeds])[0])
        fields = fields_of_graph(graph, fields.input, fields.gates, fields.input_axes)
        size, seen = picture_of(explainer, graph, fields, card.feeds, samples[0].source)
    return draw_layers(graph, fields, layer, at, size, seen)


def draw_layers(
    graph: Graph,
    fields: ReceptiveFields,
    layer: str | Sequence[str] | None,
    at: tuple[int, ...] | None,
    size: tuple[int, int],
    picture: np.ndarray | None,
) -> np.ndarray:
    """`draw_fields` of layers by name, of one picture where the file leaves the batch open."""
    graph = of_one_picture(graph) or graph
    units = {name: Units.of(graph, name) for name in measured_layers(graph, layer)}
    return draw_fields(units, fields, size, picture, at)


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
