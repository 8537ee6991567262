"""`features` as a function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analyzer.api.explaining import Given, Picture, as_given
from analyzer.api.models import Asked, Preprocessing, for_pictures, kept, known_options
from analyzer.attribution.features import FeatureMaps
from analyzer.attribution.features import features as features_of_arrays


def features(
    model: Any,
    inputs: Given,
    layers: str | Iterable[str],
    provider: str = "cpu",
    *,
    input: Mapping[str, Any] | None = None,
    preprocess: Preprocessing = None,
    **options: Any,
) -> FeatureMaps:
    """The activations of `layers` for a picture or a batch.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        inputs: a picture, or arrays, as for `analyzer.explain`.
        layers: tensor names, node names or globs of the file.
        provider, input, preprocess, options: as for `analyzer.explain`.

    Returns:
        {tensor name: array} in the order of the graph, with `.figure()` and `.save()`.

    Raises:
        NotFoundError: no such tensor; the hint suggests similar names. InputError: as for `analyzer.explain`.
    """
    asked = Asked.of(options, preprocess, input=input)
    known_options(options, "features")
    loaded = kept(model, provider, asked.session)
    given = as_given(loaded, inputs)
    if not isinstance(given, Picture):
        return features_of_arrays(loaded, given, layers)
    found, card = for_pictures(loaded, provider, asked)
    fed = card.feeds.feed(given.source).feeds
    maps = features_of_arrays(found, found.batch([found.feeds(fed)]), layers)
    count = found.fixed_batch or 1  # a batch that the file fixes is filled up with the picture
    rows = {name: a[: len(a) // count] if a.ndim and len(a) % count == 0 else a for name, a in maps.items()}
    return FeatureMaps(rows, maps.layouts)
