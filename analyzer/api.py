"""One-call functions over `Explainer`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.attribution import Attribution, Explainer

_KEPT = 4
_explainers: OrderedDict[Any, Explainer] = OrderedDict()
_SESSION = ("threads", "level", "allow_fallback", "memory_limit")


def explain(
    model: Any,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    method: str = "grad-cam",
    target: Any = "top1",
    layer: str = "auto",
    provider: str = "cpu",
    labels: Sequence[str] | None = None,
    output: str | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> Attribution:
    """What `target` rests on, by `method`, for a batch of images.

    Args:
        model: path, bytes or ModelProto. Sessions of the last few paths are kept and used again.
        inputs: the preprocessed array, (N, …) in the model's own layout and type, or {input: array}.
        method: see `analyzer.METHODS`.
        target: "top1", a class index, a label, or an expression over tensors of the file such as
            `boxes[:, 4:].max()`. A sequence gives each image its own target where it has as many entries as there
            are images (more than one); otherwise every image is explained for each of its targets, and all targets
            share one forward pass.
        layer: "auto", or the name (or glob) of a tensor or node of the file.
        provider: "cpu", "cuda", "cuda:1" or "auto".
        labels: class names, so that a target can be a label.
        output: which output holds the scores, where that is not clear.
        arrays: further names that an expression may use: a mask of pixels, the embedding of a reference.
        options: of the method, and of the session: threads, level, allow_fallback, memory_limit.

    Returns:
        Attribution: `.raw`, `.heatmap`, `.scores`, `.target`, `.layer`, `.method`, `.diagnosis`.

    Raises:
        InputError: the model or the inputs cannot be used. NotFoundError: no such method, layer or label.
        UnsupportedError: a gradient rule is missing, the target does not depend on the layer, or the method is not
            defined for the model. ProviderError: the provider cannot be had.
    """
    session = {name: options.pop(name) for name in _SESSION if name in options}
    explainer = _explainer(model, provider, session)
    explainer.labels = labels
    explainer.arrays = arrays or {}
    return explainer.explain(inputs, method, target, layer, output, **options)


def _explainer(model: Any, provider: str, session: dict[str, Any]) -> Explainer:
    """A kept one where `model` is a file that has not changed since, nor its external data."""
    if not isinstance(model, str | os.PathLike):
        return Explainer(model, provider, **session)
    key = (os.path.abspath(model), provider, tuple(sorted(session.items())))
    if key not in _explainers or not _explainers[key].loaded.current:
        _explainers[key] = Explainer(model, provider, **session)
        if len(_explainers) > _KEPT:
            _explainers.popitem(last=False)
    _explainers.move_to_end(key)
    return _explainers[key]
