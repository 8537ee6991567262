"""A task: what the output that is explained means, and what can be asked of it.

One class per kind; `recognise` chooses one. Inside a graph, a task of classes gives a row of scores per picture, from
which a class can be chosen at run time; every other target becomes an expression (`targets`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np

from analyzer.analysis.scores import REAL, Quantisation
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Builder, Value
from analyzer.graph.nodes import count
from analyzer.metrics.masks import Mask

TOP1 = -1  # as a class: the one that the task explains by default
Slot: TypeAlias = "str | int | None"  # an expression, a class, or a class that is given at run time
Labels: TypeAlias = "Sequence[str] | None"


@dataclass(frozen=True)
class Role:
    """An output of the model, and what it holds; its task where that is a row of classes or values."""

    output: str
    role: str
    task: Task | None = None


@dataclass(frozen=True)
class Prediction:
    """Something that the model says of a picture.

    Attributes:
        target: what to ask for to explain it, as on the command line.
        label: its name.
        score: as the model outputs it, in units of `Task.unit`.
        index: the class, or the number of the value; None where there is none.
        slot: what explains it: an expression, or a class.
        box: x0, y0, x1, y1 in pixels of the model's input; None for what has no place.
        corners: x, y of the four corners of a box that is not upright, one after the other; None for others.
        points: x, y, visibility of each keypoint, in pixels of the model's input.
        layer: the feature map to explain it by; "" for the model's.
        scaled: the input with the width and height that `box` is scaled by, instead of those of the model's input; ""
            if it is not.
        mask: its pixels, in those of the model's input; None for what has no mask.
    """

    target: str
    label: str
    score: float
    index: int | None
    slot: str | int
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, ...], ...] | None = None
    layer: str = ""
    scaled: str = ""
    mask: Mask | None = None
    corners: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class Agreement:
    """How far two answers agree, by the measure of the task: 1 is full agreement, unless `measure` says otherwise."""

    measure: str
    value: float
    agrees: bool


@dataclass(frozen=True)
class Task:
    """The output that is explained, and how to read it.

    Attributes:
        output: the model's output.
        logits: the tensor that the output is computed from, before a squashing function or an ArgMax.
        stripped: the operators that were removed between the two.
        batched: whether the first axis of `logits` counts pictures.
        space: spatial axes of `logits`.
        evidence: why it was recognised as this kind, in words.
        others: the model's other outputs, and what they seem to hold.
        quantisation: what the numbers of `output` stand for.
    """

    output: Value
    logits: Value
    stripped: tuple[str, ...] = ()
    batched: bool = True
    space: tuple[int, ...] = ()
    evidence: str = ""
    others: tuple[Role, ...] = ()
    quantisation: Quantisation = REAL

    kind: ClassVar[str] = "raw"
    role: ClassVar[str] = "numbers of unknown meaning"
    by_class: ClassVar[bool] = True  # whether a class can be chosen at run time; otherwise targets are expressions
    method: ClassVar[str] = "grad-cam"  # by which it is explained unless another is asked for
    probable: ClassVar[bool] = False  # whether predictions have probabilities: see `certainty`
    per_picture: ClassVar[bool] = False  # whether a target means what is found in a picture
    sized: ClassVar[bool] = True  # of those: whether what there is to find depends on the size of the input

    # ---- Inside a graph ----

    def flat(self, op: Builder) -> Value:
        """The logits as (N, classes), appended."""
        return self._rows(op, self.logits)

    def shown(self, op: Builder) -> Value:
        """What the model outputs as (N, classes), appended, in a type that ArgMax has kernels for."""
        value, shown, shape = self.output, self.output.shape, self.logits.shape
        if shown is not None and shape is not None and shown[:1] != shape[:1]:
            value = op.reshape_like(value, self.logits)
        return self._rows(op, op.cast(value, COMPARABLE.get(str(value.dtype), np.dtype(np.float32))))

    def top(self, op: Builder) -> Value:
        """(N,) the class that TOP1 stands for, −1 where there is nothing to explain."""
        return op.ArgMax(self.shown(op), axis=1, keepdims=0)

    def spread(self, op: Builder, chosen: Value) -> tuple[Value, Value]:
        """(a tensor, its cotangent) that stand for the score of the classes that are chosen.

        Args:
            chosen: (N, classes), 1 for the class of a picture and 0 for others.
        """
        flat = self.flat(op)
        return flat, op.cast(chosen, flat.dtype)

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        """(N,) the probability of what `spread` stands for; by a softmax where the model has no other function."""
        rows = op.Sigmoid(tensor) if self._sigmoid else op.Softmax(tensor, axis=1)
        return op.ReduceSum(op.Mul(rows, cotangent), [1], keepdims=0)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(N, classes) of scores as `read` gives them; NaN stays.

        They are left as they are where the model has squashed them, or all rows are distributions up to rounding.
        """
        if "LogSoftmax" in self.stripped:
            return np.exp(scores)
        return scores if self.stripped or self._distributed(scores) else self._squashed(scores)

    def _squashed(self, scores: np.ndarray) -> np.ndarray:
        """The function that makes probabilities of logits."""
        return softmax(scores)

    def _distributed(self, scores: np.ndarray) -> bool:
        """Whether rows sum to 1; the rounding of quantized ones adds up as that of independent numbers."""
        known = scores[np.isfinite(scores).all(axis=1)]
        step = 0.0 if self.quantisation == REAL else float(np.max(self.quantisation.scale))
        allowed = 1e-3 + step * math.sqrt(scores.shape[1])
        return bool((known >= 0).all() and (abs(known.sum(axis=1) - 1) <= allowed).all())

    @property
    def _indexed(self) -> bool:
        """Whether the file ends with an ArgMax: all that it says is the index of the class."""
        return "ArgMax" in self.stripped

    @property
    def _score_unit(self) -> str:
        """The unit of scores of classes, by the function that they went through."""
        if self._indexed:
            return "chosen class"
        if "LogSoftmax" in self.stripped:
            return "log-probability"
        return "probability" if self.stripped else "logit"

    @property
    def _sigmoid(self) -> bool:
        return any("Sigmoid" in name for name in self.stripped)

    def _rows(self, op: Builder, value: Value) -> Value:
        return op.Reshape(value, [0, -1] if self.batched else [1, -1], allowzero=0)

    @property
    def classes(self) -> int | None:
        """Number of classes (numbers, for other kinds) per picture, None if it is not fixed."""
        shape = self.logits.shape
        return None if shape is None else count([d for i, d in enumerate(shape) if i or not self.batched])

    def layers_in(self, op: Builder) -> Value | None:
        """(N, classes) the index in `layers` of the layer of every class, appended; None where that does not depend on
        what the model chooses when it runs."""
        return None

    def level_in(self, op: Builder, chosen: Value) -> Value:
        """(N,) the index in `layers` of the layer that the classes chosen are explained by, appended."""
        raise NotImplementedError

    # ---- What is to be explained ----

    @property
    def layers(self) -> tuple[str, ...]:
        """The feature maps that targets are explained by, where different ones are; else ()."""
        return ()

    def slot(self, target: int, reference: bool = False) -> str | int:
        """A class, or TOP1, as what can be compiled; an expression where `by_class` is False.

        Args:
            reference: whether there is a picture to compare with.
        """
        return target

    def expression(self, index: int) -> str:
        """The score of a class as an expression, for when another output's classes are chosen at run time."""
        if self.space or not self.batched or len(self.logits.shape or ()) != 2:
            raise InputError(
                f"classes of output {self.output.name!r} can only be explained alone",
                f"use --output {self.output.name}",
            )
        return f"{quoted(self.logits.name)}[:, {index}]"

    def title(self, target: int, output: np.ndarray, labels: Labels = None) -> str:
        """What a target that is an expression is called.

        Args:
            target: a class, or TOP1.
            output: of one picture.
        """
        return self.label(target, labels)

    # ---- What the model says ----

    @property
    def reading(self) -> dict[str, Quantisation]:
        """{output: what its numbers stand for} of the outputs that it reads."""
        return {self.output.name: self.quantisation}

    def said(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """What it reads of the model's outputs, quantised numbers as what they mean."""
        return outputs[self.output.name]

    def answer(self, said: Mapping[str, np.ndarray], index: int = 0, count: int = 1) -> Any:
        """`said` of one of `count` pictures."""
        return self.of(said[self.output.name], index, count)

    @property
    def usual(self) -> tuple[str, Mapping[str, Any]]:
        """Whose preprocessing is usual for the model, and its keys (`images.card.PREPROCESS_KEYS`); none if unknown."""
        return "", {}

    def chosen(self, target: int, output: Any, labels: Labels = None) -> list[Prediction]:
        """The predictions of one picture that a class, or TOP1, means, where `per_picture` is True."""
        return []

    def fixed(self, target: int | str, labels: Labels = None) -> str | int | None:
        """What stands for a class, a label or a word in every picture, where `per_picture` is True; None where that
        depends on the picture.

        Raises:
            InputError, NotFoundError: there is no such prediction in any picture.
        """
        return None

    def class_of(self, index: int) -> int:
        """The class that a score is of, by its place among the scores."""
        return index

    def of(self, output: np.ndarray, index: int, count: int) -> np.ndarray:
        """The part of an output that is of one of `count` pictures."""
        return output[index : index + 1] if count > 1 and len(output) == count else output

    def read(self, output: np.ndarray, count: int) -> np.ndarray:
        """(N, classes) as the model outputs them."""
        return output.reshape(count if self.batched else 1, -1)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """(N,) the class that TOP1 stands for, the first of several.

        Raises:
            UnsupportedError: there are no scores.
        """
        if not scores.size:
            raise UnsupportedError(f"the output {self.output.name!r} is empty for this picture: it has no scores")
        return np.asarray(scores.argmax(axis=-1))

    def top1(self, classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`classes`, TOP1 replaced by `best`."""
        return np.where(classes == TOP1, self.best(scores), classes)

    def predictions(self, output: np.ndarray, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        """What the model says of one picture, the surest first.

        Args:
            output: of that picture, quantised numbers as what they mean.
            limit: how many at most.
        """
        return []

    def certainty(self, found: Prediction, output: Any) -> float:
        """The probability of a prediction, by the output for another version of its picture."""
        raise NotImplementedError

    def resolve(self, word: str, output: np.ndarray, labels: Labels = None) -> list[Prediction] | None:
        """The predictions that a word such as `positive` or `character:3` means; None for no such word."""
        return self.predictions(output, labels) if word == "all" else None

    @property
    def threshold(self) -> float:
        """Scores above it are positive."""
        return 0.0

    @property
    def words(self) -> tuple[str, ...]:
        """Targets that can be asked for by a word."""
        return ("all",)

    def label(self, index: int, labels: Labels) -> str:
        """The name of a class."""
        return labels[index] if labels is not None and 0 <= index < len(labels) and labels[index] else str(index)

    @property
    def unit(self) -> str:
        """What a score is: "probability", "logit"…"""
        return ""

    def says_nothing(self, output: np.ndarray) -> bool:
        """Whether there is nothing to explain by default in the output for one picture."""
        return False

    @property
    def nothing(self) -> str:
        """What to say where there is nothing to explain."""
        return "the model predicts nothing"

    def nearest(self, output: Any, labels: Labels = None, target: int = TOP1) -> Prediction | None:
        """What comes nearest to being a prediction (of a class), though its score is too low; None for tasks without
        a threshold."""
        return None

    def check_labels(self, labels: Labels) -> None:
        """InputError if there are more or fewer names than classes."""
        wanted = self.label_counts
        if labels is not None and wanted and len(labels) not in wanted:
            text = " or ".join(map(str, wanted))
            raise InputError(
                f"{len(labels)} labels are given, and output {self.output.name!r} has {self.classes} classes",
                f"give {text} labels, one per line, in the order of the classes",
            )

    @property
    def label_counts(self) -> tuple[int, ...]:
        """How many labels fit; () for any number."""
        return ()

    @property
    def doubt(self) -> str:
        """Why the numbers may not mean what they seem to; "" where they do."""
        return ""

    def described(self) -> str:
        """What kind of task it is, and why, in one sentence."""
        return f"{self.kind}: {self.evidence}"

    # ---- Comparing and drawing ----

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """How far two outputs for one picture agree; here, whether the same class is the highest."""
        same = bool((self.best(self.read(reference, 1)) == self.best(self.read(candidate, 1))).all())
        return Agreement("top class", float(same), same)

    def mask(self, output: np.ndarray) -> np.ndarray | None:
        """(h, w) the class of every pixel of the model's input, 0 for background; None for tasks without masks."""
        return None

    # ---- As data ----

    def as_data(self) -> dict[str, Any]:
        """All of it, for `task_from`."""
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("output", "logits"):
            value = data[name]
            data[name] = [value.name, value.shape, str(value.dtype)]
        data["others"] = [[r.output, r.role, r.task.as_data() if r.task else None] for r in self.others]
        return {"class": type(self).__name__, **data}

    @classmethod
    def restored(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Attributes of its own, from what `as_data` made of them."""
        return data


@dataclass(frozen=True)
class Finding(Task):
    """A task that finds things in a picture, by scores of candidates; several outputs may be read together."""

    method: ClassVar[str] = "layer-cam"  # what is found is local, and averages over a map are not
    per_picture: ClassVar[bool] = True

    def top(self, op: Builder) -> Value:
        scores = self.shown(op)
        if self.classes is None:  # there may be none
            scores = op.Pad(scores, [0, 0, 0, 1])
        best = op.ReduceMax(scores, [1], keepdims=0)
        sure = op.GreaterOrEqual(best, op.scalar(self.threshold, best))
        return op.Where(sure, op.ArgMax(scores, axis=1, keepdims=0), op.constant(np.array([TOP1], np.int64)))

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        return op.ReduceSum(op.Mul(op.cast(self.shown(op), tensor.dtype), cotangent), [1], keepdims=0)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return scores

    def said(self, outputs: Mapping[str, np.ndarray]) -> Any:
        return {name: outputs[name] for name in self.reading}

    def answer(self, said: Mapping[str, np.ndarray], index: int = 0, count: int = 1) -> Any:
        return {name: self.of(said[name], index, count) for name in self.reading}

    @property
    def unit(self) -> str:
        return "score"


def softmax(scores: np.ndarray) -> np.ndarray:
    """Along the last axis; NaN in rows that are not finite."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


LAYERS = "xai/layers"  # among what the model says: what `Task.layers_in` gives
COMPARABLE = {name: np.dtype(np.float64) for name in ("float64", "int32", "uint32", "int64", "uint64")}


def check_class(task: Task, index: int) -> None:
    """InputError where the model has no class of that index."""
    width = task.classes if index > TOP1 else None
    if width is not None and index >= width:
        raise InputError(f"class {index} does not exist: the model has {width} classes (0 to {width - 1})")


def ranked(scores: np.ndarray) -> np.ndarray:
    """The classes of one picture, highest score first, in the order in which `argmax` takes them."""
    return np.argsort(np.where(np.isnan(scores), -np.inf, -scores.astype(np.float64)), kind="stable")


def seed(op: Builder, task: Task, classes: Value, known: bool = False) -> tuple[Value, Value, Value]:
    """(a tensor, its cotangent, the classes chosen) of one class per picture.

    TOP1 is the class that the output ranks highest, not the one with the highest logit: over positions, and where
    rounding or saturation makes scores equal, the two differ.

    Args:
        classes: (N,) int64.
        known: no class is TOP1.
    """
    chosen = classes
    if not known:
        chosen = op.Where(op.Less(classes, np.int64(0)), task.top(op), classes)
    width = task.classes
    if width is not None:
        indices = op.constant(np.arange(width, dtype=np.int64)[None], "classes")
    else:
        limit = op.Squeeze(op.shape(task.flat(op), 1, 2), [0])
        indices = op.Range(np.int64(0), limit, np.int64(1))
    tensor, cotangent = task.spread(op, op.Equal(indices, op.Unsqueeze(chosen, [1])))
    return tensor, cotangent, chosen


def label_of_two(index: int, labels: Labels, names: tuple[str, str]) -> str:
    """The name of one of two classes: of two labels its own; a single label is that of class 1."""
    known = labels if labels is not None and len(labels) == 2 else (names[0], labels[0] if labels else names[1])
    return (known[index] or str(index)) if index in (0, 1) else str(index)


def quoted(name: str) -> str:
    """A tensor's name as an expression takes it."""
    return name if name.isidentifier() else f'"{name}"'
