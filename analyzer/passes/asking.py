"""What passes have in common that ask a question about every picture and write what they found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analyzer.attribution import Model, Question
from analyzer.data import Sample
from analyzer.images import Fed, Feeding, ModelCard
from analyzer.passes.base import Pass

_SHAPES = 8  # of pictures whose questions are kept
ONLY_KEPT = ("places", "files")  # of a result: what only a resumed run needs


def shown(found: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Results without what only a resumed run needs."""
    return [{key: value for key, value in result.items() if key not in ONLY_KEPT} for result in found or ()]


@dataclass
class Asking(Pass[list[dict[str, Any]]]):
    """A result per picture, as plain data.

    A result names its `picture`, the `places` that its files were asked for, and the `files` that were written.
    """

    model: Model
    question: Question
    card: ModelCard
    _asked: dict[Any, Question] = field(default_factory=dict, init=False, repr=False, compare=False)

    tolerant = True

    @abstractmethod
    def places(self, picture: str) -> list[str]:
        """Where what is written for a picture goes."""

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "model": self.model.loaded.identity,
            "environment": self.model.environment,
            "question": self.question.key,
            "feeding": self.feeding.identity,
        }

    @cached_property
    def feeding(self) -> Feeding:
        """How the model is fed: the card's, or that of a single input."""
        return self.card.feeding or Feeding.of(self.card.preprocess, self.model.image)

    def load(self, sample: Sample) -> Fed:
        """All inputs of the model, and the picture to draw on."""
        return self.feeding.feed(sample.source)

    def merge(self, left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return left + right

    def holds(self, partial: list[dict[str, Any]]) -> bool:
        return all(
            result["places"] == self.places(result["picture"]) and all(Path(f).exists() for f in result["files"])
            for result in partial
        )

    def asked(self, fed: Fed, **changes: Any) -> Question:
        """The question, changed, with what the model is given for a mid-grey picture of that size; hashed once."""
        key = (fed.main.frames.shape, repr(changes))
        found = self._asked.get(key)
        if found is None:
            found = replace(self.question, grey=self.feeding.grey(fed), **changes)
            if len(self._asked) >= _SHAPES:
                self._asked.clear()
            self._asked[key] = found
        return found
