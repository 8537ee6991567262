"""A question about a model: methods, targets and everything else that the answer depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from analyzer.attribution.lines import Placed, check_placement
from analyzer.errors import InputError
from analyzer.tasks import Declared
from analyzer.tasks.base import Slot
from analyzer.tasks.targets import is_expression, is_word, resolve_class

Inputs: TypeAlias = "np.ndarray | Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Job:
    """A method, the layer it explains by, and its options."""

    method: str = "grad-cam"
    layer: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on except the model and its inputs: methods, targets and more. A value.

    Together with the model's identity and onnx-analyzer's code, it is the complete cache key of an answer.

    Attributes:
        jobs: methods with their layers and options; they share one run.
        target: see `analyzer.explain`.
        output: name of the output that is explained; None for the one that looks most like an answer.
        labels: class names, so that a target can be a label.
        arrays: {name: array} for use in a target.
        references: {name: inputs of a reference picture}, for `.cosine(name)` in a target.
        grey: the model's inputs for a mid-grey picture, (1, …), if the preprocessing is known.
        explain_input: the input whose maps and gradients are asked for; None for the picture.
        runtime: the runtime that the graph is written for; see `Policy.on`.
        placement: where the units of a layer are in the image: "effective", "half-pixel" or "theoretical"; see
            `centers`.
        declared: what the model's card says of its task.
    """

    jobs: tuple[Job, ...] = (Job(),)
    target: Any = "top1"
    output: str | None = None
    labels: Sequence[str] | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    references: Mapping[str, Inputs] = field(default_factory=dict)
    grey: Inputs | None = None
    explain_input: str | None = None
    runtime: str = "onnxruntime"
    placement: Placed = "effective"
    declared: Declared = field(default_factory=Declared)

    def __post_init__(self) -> None:
        check_placement(self.placement)

    @cached_property
    def key(self) -> str:
        """The hash of all of it: arrays by their bytes."""
        digest = hashlib.sha256()
        for part in fields(self):
            _add(digest, getattr(self, part.name))
        return digest.hexdigest()

    def compiled(self, slots: Sequence[Slot]) -> Question:
        """What the graph of this question depends on: its target as `slots`, without classes given at run time."""
        return replace(self, target=tuple(slots), labels=None, grey=None)

    def compiled_key(self, slots: Sequence[Slot]) -> str:
        """The key of `compiled(slots)`, hashed once."""
        chosen = tuple(slots)
        if chosen not in self._compiled_keys:
            self._compiled_keys[chosen] = self.compiled(chosen).key
        return self._compiled_keys[chosen]

    @cached_property
    def _compiled_keys(self) -> dict[tuple[Slot, ...], str]:
        return {}

    def slots(self, count: int) -> list[Any]:
        """For each target an expression, a word, or the class of each of `count` images, (count,) int64.

        Raises:
            InputError: no target is given, or one is none. NotFoundError: no such label.
        """
        if count not in self._slots:
            self._slots[count] = self._resolved(count)
        return list(self._slots[count])

    @cached_property
    def _slots(self) -> dict[int, list[Any]]:
        return {}

    def _resolved(self, count: int) -> list[Any]:
        target = self.target
        if self._is_text(target):
            return [target]
        if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
            return [np.full(count, resolve_class(target, self.labels), np.int64)]
        given = list(target) if isinstance(target, Sequence | np.ndarray) else [target]
        if not given:
            raise InputError("no target is given", "pass 'top1', a class index or a label")
        if any(self._is_text(t) for t in given):
            return [t if self._is_text(t) else np.full(count, resolve_class(t, self.labels)) for t in given]
        classes = [resolve_class(t, self.labels) for t in given]
        if len(classes) == count and count > 1:
            return [np.array(classes, np.int64)]
        return [np.full(count, c, np.int64) for c in classes]

    def _is_text(self, target: Any) -> bool:
        """Whether a target is an expression or a word, not a class."""
        return is_expression(target) or is_word(target, self.labels)


def _add(digest: Any, value: Any) -> None:
    """Adds a value to a hash, its kind and length included, so that no two values add the same."""
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"map {len(value)}".encode())
        for name in sorted(value):
            _add(digest, str(name))
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}".encode())
        for entry in value:
            _add(digest, entry)
    elif isinstance(value, Declared):
        _add(digest, value.key)
    elif isinstance(value, Job):
        _add(digest, (value.method, value.layer, value.options))
    else:
        text = repr(value)
        digest.update(f"{type(value).__name__} {len(text)} {text}".encode())
