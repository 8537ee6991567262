"""One-call functions."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from analyzer.attribution import Attribution, Job, Model, Question, answer
from analyzer.tasks import Declared

_KEPT = 4
_LARGEST = 256 << 20  # bytes of a model in memory that is kept
_models: OrderedDict[Any, Model] = OrderedDict()
_lock = threading.Lock()
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
    task: str | None = None,
    explain_input: str | None = None,
    **options: Any,
) -> Attribution:
    """Explain `target` by `method`, for a batch of images.

    Args:
        model: path, bytes or ModelProto. Sessions of recently used models are cached.
        inputs: the preprocessed array, (N, …) in the model's own layout and type, or {input: array}.
        method: see `analyzer.METHODS`.
        target: "top1" (what the model says, see docs/targets.md), a class index, a label, a word such as "positive",
            "all" or "character:3", `OUTPUT:TARGET`, or an expression over tensors of the file such as
            `boxes[:, 4:].max()`. A sequence with as many entries as images (more than one) gives each image its own
            target; any other sequence explains every image for each target, in one forward pass.
        layer: "auto", or the name (or glob) of a tensor or node of the file.
        provider: "cpu", "cuda", "cuda:1" or "auto".
        labels: class names, so that a target can be a label.
        output: name of the output that is explained, if it is not the one that looks most like an answer.
        arrays: {name: array} for use in an expression, such as a mask of pixels or the embedding of a reference.
        task: what kind of model it is, such as "segmentation", if that is not what it looks like.
        explain_input: the input whose map is computed, for a model with several; the picture where it is None.
        options: options of the method, and of the session: threads, level, allow_fallback, memory_limit.

    Returns:
        Attribution: `.raw`, `.heatmap`, `.scores`, `.target`, `.value`, `.layer`, `.method`, `.diagnosis`, `.task`. No
        row is there for an image of which the model says nothing, such as an empty mask.

    Raises:
        InputError: the model or the inputs cannot be used. NotFoundError: no such method, layer or label.
        UnsupportedError: a gradient rule is missing, the target does not depend on the layer, or the method is not
            defined for the model. ProviderError: the execution provider cannot be used.
    """
    session = {name: options.pop(name) for name in _SESSION if name in options}
    question = Question(
        (Job(method, layer, options),),
        target,
        output,
        labels,
        arrays or {},
        declared=Declared(task),
        explain_input=explain_input,
    )
    return answer(_model(model, provider, session), question, inputs)[0]


def _model(model: Any, provider: str, session: dict[str, Any]) -> Model:
    """A kept one, where `model` is a file that has not changed since, nor its external data, or has the same bytes."""
    what = _named(model)
    if what is None:
        return Model(model, provider, **session)
    key = (what, provider, tuple(sorted(session.items())))
    with _lock:
        found = _models.pop(key, None)
        if found is None or not found.loaded.current:
            found = Model(model, provider, **session)
        _models[key] = found
        if len(_models) > _KEPT:
            _models.popitem(last=False)
    return found


def _named(model: Any) -> str | bytes | None:
    """What tells a model from others: its path or a hash of its bytes; None where it is too large to be kept."""
    if isinstance(model, str | os.PathLike):
        return os.path.abspath(model)
    if isinstance(model, onnx.ModelProto):
        if model.ByteSize() > _LARGEST:
            return None
        model = model.SerializeToString(deterministic=True)
    return hashlib.sha256(model).digest() if isinstance(model, bytes) and len(model) <= _LARGEST else None
