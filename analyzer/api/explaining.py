"""`explain` as a function."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from analyzer.api.models import THRESHOLDS, Asked, Names, Preprocessing, for_arrays, for_pictures, kept
from analyzer.attribution import Attribution, Explainer, Job, Question, answer
from analyzer.attribution.cards import default_method, opened
from analyzer.attribution.methods import METHODS, find_method
from analyzer.data import Sample
from analyzer.errors import InputError
from analyzer.images import Drawing, Fed, Feeding, Map, ModelCard
from analyzer.images.feeding import Slot
from analyzer.images.mask import read_mask
from analyzer.images.objects import as_array, is_pil, pixels_of
from analyzer.passes.asking import ONLY_KEPT
from analyzer.passes.explaining import Explaining
from analyzer.tasks import Declared

Given: TypeAlias = "str | os.PathLike[str] | bytes | np.ndarray | Mapping[str, np.ndarray] | Any"


def explain(
    model: Any,
    inputs: Given,
    method: str | None = None,
    target: Any = "top1",
    layer: str | None = None,
    provider: str = "cpu",
    labels: Names = None,
    output: str | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    task: str | None = None,
    explain_input: str | None = None,
    *,
    input: Mapping[str, Any] | None = None,
    reference: Any = None,
    mask: str | os.PathLike[str] | None = None,
    preprocess: Preprocessing = None,
    placement: str = "effective",
    **options: Any,
) -> Attribution:
    """Explain `target` by `method`, for a picture as the command `explain` does, or for the model's own input.

    A picture is a path, the bytes of a file, an image of Pillow, (height, width, 3) uint8 pixels, or such a tensor of
    PyTorch, channels first or last, of uint8 or from 0 to 1. It is prepared as the model's TOML file says, or as is
    guessed. An array or tensor with the rank and type of the model's input is the model's input as it is.

    Args:
        model: path, bytes or ModelProto; or an `Explainer`, which keeps its own provider and session. Sessions of
            recently used models are cached.
        inputs: a picture; or the preprocessed array, (N, …) in the model's own layout and type; or {input: array}.
        method: see `analyzer.METHODS`. Default: grad-cam; for text, detections and keypoints, layer-cam.
        target: "top1" (what the model says, see docs/targets.md), a class index, a label, a word such as "positive",
            "all" or "character:3", `OUTPUT:TARGET`, or an expression over tensors of the file such as
            `boxes[:, 4:].max()`. A sequence with as many entries as images (more than one) gives each image its own
            target; any other sequence explains every image for each target, in one forward pass.
        layer: the name (or glob) of a tensor or node of the file, or "auto". Default: as the model's TOML file says,
            else chosen automatically.
        provider: "cpu", "cuda", "cuda:1" or "auto".
        labels: class names or a file of them, so that a target can be a label. Default: those of the model's TOML file.
        output: name of the output that is explained, if it is not the one that looks most like an answer.
        arrays: {name: array} for use in an expression, such as a mask of pixels or the embedding of a reference.
        task: what kind of model it is, such as "segmentation", if that is not what it looks like.
        explain_input: the input whose map is computed, for a model with several; the picture where it is None.
        input: {input: value} of a picture model's other inputs: a file, a picture, an array or numbers.
        reference: picture for targets such as `embedding.cosine(reference)`.
        mask: mask image for targets such as `logits.where(mask)`; pixels above half its maximum are selected.
        preprocess: how pictures are prepared: a `Preprocess`, or keys of the model's TOML file such as
            {"preset": "imagenet"}.
        placement: where the units of a layer are put in the image: "effective" (chosen by measurement), "half-pixel"
            (evenly spaced) or "theoretical" (the middles of receptive fields).
        options: options of the method; of the preprocessing, called as for the command (preset, mean, std, scale,
            layout, channels, white, size, resize, score_threshold, iou_threshold); and of the session: threads, level,
            allow_fallback, memory_limit, custom_ops, cache, sandbox.

    Returns:
        Attribution: `.raw`, `.heatmap`, `.scores`, `.target`, `.value`, `.layer`, `.method`, `.diagnosis`, `.task`,
        `.predictions`, `.overlay()`, `.plot()`, `.save()`. No row is there for an image of which the model says
        nothing, such as an empty mask.

    Raises:
        InputError: the model or the inputs cannot be used. NotFoundError: no such method, layer or label.
        UnsupportedError: a gradient rule is missing, the target does not depend on the layer, or the method is not
            defined for the model. ProviderError: the execution provider cannot be used.
    """
    taken = METHODS[method].options if method in METHODS else ()
    more = {"labels": labels, "task": task, "input": input, "explain_input": explain_input}
    asked = Asked.of(options, preprocess, tuple(taken), **more)
    loaded = kept(model, provider, asked.session)
    given = as_given(loaded, inputs)
    known: dict[str, Any] = {"target": target, "output": output, "arrays": arrays or {}, "placement": placement}
    if isinstance(given, Picture):
        found, card = for_pictures(loaded, provider, asked)
        method = method or default_method(found, output)
        references = {} if reference is None else {"reference": card.feeds.feed(as_source(reference)).feeds}
        masks = {} if mask is None else {"mask": read_mask(os.fspath(mask), card.preprocess)}
        known |= {"arrays": {**known["arrays"], **masks}, "references": references}
        question = _question(method, layer, options, card, found, **known)
        return _of_picture(found, card, question, given)
    if mask is not None or reference is not None:
        raise InputError("reference and mask are prepared like a picture", "pass arrays={'mask': array} instead")
    flags = {name: value for name, value in asked.flags.items() if name in THRESHOLDS}
    options |= {name: value for name, value in asked.flags.items() if name not in flags}  # of no method: refused
    found, read = for_arrays(loaded, provider, replace(asked, flags=flags))
    method = method or default_method(found, output)
    question = _question(method, layer, options, read, found, explain_input=explain_input, **known)
    answered = answer(found, question, given)[0]
    return replace(answered, view=_array_view(found, read, question, given))


def _question(
    method: str, layer: str | None, options: Mapping[str, Any], card: ModelCard | None, model: Explainer, **known: Any
) -> Question:
    find_method(method, options)
    layer = layer or (card.default_layer if card is not None else None) or "auto"
    declared = Declared.of(card) if card is not None else model.declared
    return Question((Job(method, layer, dict(options)),), labels=model.labels, declared=declared, **known)


# ---- What is given ----


@dataclass(frozen=True)
class Picture:
    """A picture: what `Feeding.feed` takes, and what it is called."""

    source: Any
    name: str = "picture"


def as_given(model: Explainer, inputs: Given) -> Picture | np.ndarray | Mapping[str, np.ndarray]:
    """A picture, or arrays that are the model's input as they are.

    Raises:
        InputError: it is neither.
    """
    if isinstance(inputs, Mapping):
        return {name: as_array(array) for name, array in inputs.items()}
    if isinstance(inputs, str | os.PathLike | bytes | bytearray | memoryview) or is_pil(inputs):
        return Picture(as_source(inputs), os.fspath(inputs) if isinstance(inputs, str | os.PathLike) else "picture")
    array, pixels = as_array(inputs), pixels_of(inputs)
    taken = model.plain[model.image]
    slot = Slot(taken.name, tuple(taken.shape or ()), str(taken.dtype))
    if slot.fits(array):
        return array
    if taken.name in model.without_batch and slot.fits(array[None]):
        return array[None]
    if pixels is not None:
        return Picture(pixels)
    if array.dtype == np.uint8 and array.ndim == len(slot.shape) == 4:
        raise InputError(
            f"{_described(array)} is not the input {slot.text}",
            "a picture is one (height, width, 3) uint8 array: array[0]",
        )
    if taken.shape is None or array.ndim == len(slot.shape):
        return array
    raise InputError(
        f"{_described(array)} is neither a picture nor the input {slot.text}",
        "a picture is (height, width, 3) uint8, or from 0 to 1; the input has its batch axis: array[None]",
    )


def as_source(picture: Any) -> Any:
    """A picture as `Feeding.feed` takes it.

    Raises:
        InputError: it is none.
    """
    if isinstance(picture, str | os.PathLike):
        return Path(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    pixels = pixels_of(picture)
    if pixels is None:
        raise InputError(f"{_described(as_array(picture))} is not a picture", "give (height, width, 3) uint8 pixels")
    return pixels


def _described(array: np.ndarray) -> str:
    return f"an array of {array.dtype} and shape {list(array.shape)}"


# ---- Answers ----

_HELD = 4 << 20  # bytes of a picture that its answer holds; a larger file is read again when the answer is drawn


def _of_picture(model: Explainer, card: ModelCard, question: Question, picture: Picture) -> Attribution:
    work = Explaining(model, question, card, _targets(question.target))
    sample = _sample(card.feeds, picture)
    fed = work.load(sample)
    if fed.remark:
        warnings.warn(f"{picture.name}: {fed.remark}", stacklevel=3)
    found = answer(model, work.asked(fed), fed.feeds)[0]
    if isinstance(picture.source, Path) and fed.main.frames.nbytes > _HELD:
        return replace(found, view=PictureView(work, lambda _: work.load(sample), picture.name))
    return replace(found, view=PictureView(work, lambda _: fed, picture.name))


def _sample(feeding: Feeding, picture: Picture) -> Sample:
    """The picture, or the only one in its file.

    Raises:
        InputError: a video, or several inputs in one file.
    """
    samples, _ = opened([Sample(picture.name, 0, picture.source)], [picture.name], feeding)
    if len(samples) != 1:
        raise InputError(f"{picture.name} has {len(samples)} pictures", "explain one at a time: a frame, or a row")
    return samples[0]


def _targets(target: Any) -> tuple[str, ...]:
    several = isinstance(target, Sequence | np.ndarray) and not isinstance(target, str)
    return tuple(map(str, target)) if several else (str(target),)


def _array_view(
    model: Explainer, card: ModelCard | None, question: Question, given: np.ndarray | Mapping[str, np.ndarray]
) -> PictureView | None:
    """The input as a picture, its preprocessing undone, where it is one."""
    feeds = model.feeds(given)
    image = feeds[model.image]
    if card is None or question.explain_input not in (None, model.image) or image.ndim != 4:
        return None
    feeding = Feeding.of(card.preprocess, model.image)
    card = replace(card, feeding=feeding)

    def seen(at: int) -> Fed:
        row = feeding.main.as_is(image[at : at + 1])
        return Fed(model.rows(feeds, [at]), row, row)

    return PictureView(Explaining(model, question, card, _targets(question.target)), seen)


@dataclass(frozen=True)
class PictureView:
    """What the command shows of an answer; see `attribution.result.View`."""

    work: Explaining
    feds: Callable[[int], Fed]
    name: str = "picture"
    first: int = 0

    @property
    def labels(self) -> Sequence[str] | None:
        return self.work.card.labels

    def of(self, image: int) -> PictureView:
        return replace(self, first=self.first + image)

    def fed(self, image: int) -> Fed:
        return self.feds(self.first + image)

    def data_of(self, found: Attribution) -> dict[str, Any]:
        result = self.work.result_of(self.name, self.fed(0), [found])
        return {key: value for key, value in result.items() if key not in (*ONLY_KEPT, "remark")}

    def about(self, found: Attribution, row: int) -> str:
        return self.work.about(found, row)

    def map(self, found: Attribution, row: int) -> Map:
        return self.work.maps(self.fed(0), [found])[row]

    def figure(self, found: Attribution, **drawing: Any) -> np.ndarray:
        return replace(self.work, drawing=Drawing(**drawing)).figure(self.fed(0), [found])
