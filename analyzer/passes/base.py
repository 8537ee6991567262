"""What a pass is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

from analyzer.attribution import Model
from analyzer.data import Sample
from analyzer.images import Feeding, Preprocess, decode

T = TypeVar("T")


class Loaded(NamedTuple):
    """A sample, and what `Pass.load` made of it."""

    sample: Sample
    item: Any


class Remade:
    """What another process makes anew from the same arguments, instead of being sent what was made since."""

    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made._made_of = args, options
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), *self._made_of)


def _made_again(kind: type[Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return kind(*args, **options)


class Pass(Remade, ABC, Generic[T]):
    """Work on every sample, and how partial results are merged.

    An engine calls `setup` once in every process, `load` and `step` from several threads at once, and joins partial
    results by `merge`. Which samples make a batch, and which results are merged, depends on the order of the samples
    alone: the outcome is the same, to the byte, for any number of workers, shards and interruptions, even where
    `merge` rounds.

    A partial result is made of dictionaries, lists, tuples, texts, numbers and NumPy arrays: that is what the journal
    keeps.

    Attributes:
        name: what files that keep its results begin with.
        batch: samples per step.
        anchored: every result depends on the first sample too, which `setup` is given.
        tolerant: an error of `step` is one of its (single) sample, and the others go on.
        together: batches that `step_all` gains by being given at once, at most.
    """

    name = "pass"
    batch: int = 1
    together: int = 1
    anchored = False
    tolerant = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything that results depend on besides samples and our code, as plain data by name: of a model
        `loaded.identity` and `environment`, of preprocessing its `repr`."""

    def setup(self, first: Loaded | None) -> None:
        """Called once per process before the first step, and only where there is a step to be done.

        Args:
            first: of an anchored pass the first sample of the run that can be loaded, whatever the shard.
        """

    def load(self, sample: Sample) -> Any:
        """What `step` is given for a sample, made ahead of it: the decoded picture, (H, W, 3) uint8 RGB.

        Raises:
            AnalyzerError: the sample cannot be used; the others go on.
        """
        return decode(sample.source)

    @abstractmethod
    def step(self, batch: Sequence[Loaded]) -> T:
        """The partial result of the samples of a batch that could be loaded, at least one."""

    def step_all(self, batches: Sequence[Sequence[Loaded]]) -> list[T]:
        """`step` of several batches, with the same results to the byte; after an error they are done one by one."""
        return [self.step(batch) for batch in batches]

    def merge(self, left: T, right: T) -> T:
        """The partial result of both; `right` is of later samples. Neither is used again.

        Here dictionaries are added up, entry by entry.
        """
        ours: Any = left
        theirs: Any = right
        return cast(T, {name: value + theirs[name] for name, value in ours.items()})

    def holds(self, partial: T) -> bool:
        """Whether what was kept is still whole: False where a file that it names is gone."""
        return True

    def finish(self, total: T | None) -> Any:
        """The result: `total` is of all samples, None where none could be loaded."""
        return total


class InputPass(Pass[T]):
    """A pass whose steps are given inputs of a model."""

    def __init__(self, model: Model, preprocess: Preprocess | Feeding) -> None:
        self.model, self.feeding = model, Feeding.of(preprocess, model.image)

    @property
    def preprocess(self) -> Preprocess:
        """Of the picture."""
        return self.feeding.preprocess

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "model": self.model.loaded.identity,
            "environment": self.model.environment,
            "feeding": self.feeding.identity,
        }

    def load(self, sample: Sample) -> Any:
        """What the model is given for a picture, {input: (1, …)}."""
        return self.feeding.feed(sample.source).feeds
