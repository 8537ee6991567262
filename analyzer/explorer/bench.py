"""A model opened for exploration: what the panes of the explorer show, as arrays.

Nothing here knows of a browser. Sessions are kept by `runtime.pool.LIVE`, arrays of pictures by a pool of their own, so
that another unit, place or class of a picture costs one run at most.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.api.explaining import PictureView
from analyzer.attribution import METHODS, Attribution, Explainer, Job, Question, answer
from analyzer.attribution.asked import filled, task_for
from analyzer.attribution.cards import default_method
from analyzer.attribution.features import Taps
from analyzer.attribution.methods import options_of
from analyzer.attribution.model import sizes_of
from analyzer.attribution.projection import Projection, Projector
from analyzer.attribution.result import in_picture
from analyzer.attribution.shown import shown_outputs
from analyzer.attribution.units import STRONGEST, rgb
from analyzer.errors import AnalyzerError, InputError, NotFoundError, UnsupportedError
from analyzer.explorer.jobs import still_asked
from analyzer.explorer.layers import Layer, chosen, find_layers, spans, stages
from analyzer.explorer.pictures import Picture
from analyzer.explorer.traced import TargetGradient, slot_in
from analyzer.graph import Graph
from analyzer.graph.query import find_tensors
from analyzer.images import Drawing, Fed, Feeding, ModelCard
from analyzer.images.draw import fit
from analyzer.images.placement import Placement
from analyzer.images.views import one
from analyzer.passes.explaining import Explaining
from analyzer.runtime.pool import Pool
from analyzer.tasks import Declared, Prediction

POLICIES = ("gradient", "guided", "deconvnet")
SHOWN = 12  # predictions
SIDES = 448, 768  # of a picture that is drawn: its longer side in pixels, at least and at most
BUDGET = 512 << 20  # bytes of activations that are kept
NO_OPTIONS: Mapping[str, Any] = {}
TOGETHER = 128 << 20  # bytes of all layers of a picture, up to which they are read in one run


@dataclass(frozen=True)
class Evidence:
    """A map of a picture.

    Attributes:
        values: (H, W) over the input, in the numbers of the method.
        drawn: as its method draws it, (h, w, 3) uint8 RGB.
        title: what it is of.
    """

    values: np.ndarray
    drawn: np.ndarray
    title: str
    diagnosis: str
    layer: str


@dataclass(frozen=True)
class Origin:
    """A unit from which something is traced back. position: `STRONGEST` where it is strongest."""

    layer: str
    channel: int
    position: int


def first_readable(pictures: Iterable[Picture], feeds: Feeding) -> Picture:
    """The first picture that can be read.

    Raises:
        AnalyzerError: there is none: what is wrong with the first.
    """
    wrong: AnalyzerError | None = None
    for picture in pictures:
        try:
            feeds.feed(picture.source, SIDES[1])
            return picture
        except AnalyzerError as error:
            wrong = wrong or error
    raise wrong or InputError("no pictures given")


class Bench:
    """A model, its preprocessing, and what pictures show of it.

    Args:
        card: how pictures are prepared.
        first: a picture that can be read, by whose size the layers are found where the model leaves it open.
        wanted: names of tensors or nodes, or globs: no other layers are shown. Default: all.

    Raises:
        NotFoundError: no layer has one of the names that are wanted.
    """

    def __init__(self, explainer: Explainer, card: ModelCard, first: Picture, wanted: Sequence[str] = ()) -> None:
        self.explainer, self.card = explainer, card
        self.first, self._wanted = first, tuple(wanted)
        self._arrays = Pool(256, BUDGET)
        if wanted:
            _ = self.layers  # a name that there is not is refused at once

    # ---- The model ----

    @cached_property
    def layers(self) -> list[Layer]:
        found = find_layers(self.graph)
        if not found:
            raise UnsupportedError(f"{self.name}: no layer has channels", "see what it has with `inspect`")
        if not self._wanted:
            return found
        names = {value.name for pattern in self._wanted for value in find_tensors(self.graph, pattern)}
        if not (some := chosen(found, names)):
            raise NotFoundError(f"no layer with units is called {', '.join(self._wanted)}", "list them with `inspect`")
        return some

    def narrow(self) -> None:
        """From now on only the last layer of each size is shown, and the one that evidence is taken at."""
        self.layers = chosen(self.layers, stages(self.layers) | {self.layers[self._default].name})

    @property
    def graph(self) -> Graph:
        """The graph at the sizes of the first picture; for questions, not to be appended to."""
        return self._graph(self.fed(self.first))

    def find(self, names: Sequence[str]) -> dict[str, Layer]:
        """{name: layer} of tensors by name, also of those that `layers` leaves out."""
        return {layer.name: layer for layer in find_layers(self.graph, names) if layer.name in names}

    def layer(self, number: int) -> Layer:
        """Raises NotFoundError where there is none."""
        if not 0 <= number < len(self.layers):
            raise NotFoundError(f"there is no layer {number}", f"the model has {len(self.layers)}")
        return self.layers[number]

    @property
    def name(self) -> str:
        return str(self.explainer.loaded.path or self.explainer.loaded.name)

    @property
    def method(self) -> str:
        """The method that explains a prediction unless another is chosen."""
        return default_method(self.explainer, None)

    @property
    def _default(self) -> int:
        """The number of the layer that is shown first: the default one, or the last map."""
        try:
            named = self.evidence(self.first, None, "top1").layer
        except AnalyzerError:
            named = ""
        maps = [at for at, layer in enumerate(self.layers) if layer.grid] or [0]
        return next((at for at in maps if self.layers[at].name == named), maps[-1])

    def as_data(self) -> dict[str, Any]:
        """What the front end knows from the start."""
        return {
            "name": self.name,
            "sha256": self.explainer.loaded.sha256,
            "task": self.task,
            "layers": [layer.as_data() for layer in self.layers],
            "first": self._default,
            "methods": [name for name, method in METHODS.items() if method.kind != "relevance"],
            "options": {name: method.options for name, method in METHODS.items()},
            "method": self.method,
            "policies": list(POLICIES),
            "labels": list(self.card.labels or ()),
            "preprocessing": self.card.description,
            "fit": self.card.feeds.preprocess.resize,
        }

    @cached_property
    def task(self) -> str:
        """What the model does: "classification", "detection", …"""
        return task_for(self.explainer, self.question("top1"), self.feeds(self.first)).kind

    # ---- A picture ----

    def fed(self, picture: Picture) -> Fed:
        """The inputs of the model for a picture."""

        def made() -> tuple[Any, ...]:
            fed = self._feeds(picture).feed(picture.source, SIDES[1])
            return fed, *fed.feeds.values(), fed.image

        found: Fed = self._kept("fed", picture, make=made)[0]
        return found

    def _feeds(self, picture: Picture) -> Feeding:
        feeds = self.card.feeds
        if not picture.fit:
            return feeds
        how = replace(feeds.preprocess, resize=picture.fit)
        return replace(feeds, main=replace(feeds.main, preprocess=how))

    def drawn(self, picture: Picture, side: int) -> np.ndarray:
        """The picture, its longer side at most `side` pixels, (h, w, 3) uint8 RGB."""
        return fit(self.card.feeds.feed(picture.source, side).image, 1, side)

    def seen(self, picture: Picture) -> np.ndarray:
        """The picture as the network sees it, (h, w, 3) uint8 RGB."""
        feeds = self.fed(picture).feeds
        return self.card.feeds.preprocess.undo(feeds[self.explainer.image][0])

    def feeds(self, picture: Picture) -> dict[str, np.ndarray]:
        """The inputs of a run for a picture, repeated to the batch that the file fixes."""
        return self._filled(self.fed(picture))

    def _filled(self, fed: Fed) -> dict[str, np.ndarray]:
        return dict(filled(self.explainer, self.explainer.feeds(fed.feeds)))

    def _graph(self, fed: Fed) -> Graph:
        return self.explainer.graph_of(self._filled(fed))

    def predictions(self, picture: Picture) -> list[Prediction]:
        """What the model predicts for a picture, highest score first; boxes and keypoints are in its pixels."""
        return list(self._kept("predictions", picture, make=lambda: self._predicted(picture)))

    def _predicted(self, picture: Picture) -> tuple[Prediction, ...]:
        fed, feeds = self.fed(picture), self.feeds(picture)
        task = task_for(self.explainer, self.question("top1"), feeds)
        count = len(feeds[self.explainer.image])
        said = task.answer(shown_outputs(self.explainer, feeds, task.reading), 0, count)
        found = task.predictions(said, self.card.labels, SHOWN)
        return tuple(in_picture(one, fed) for one in found)

    def top(self, picture: Picture) -> int:
        """The class that the model ranks highest; -1 for none. Nothing is kept."""
        return next((one.index for one in self._predicted(picture) if one.index is not None), -1)

    def maps(self, picture: Picture, number: int) -> np.ndarray:
        """The activations of a layer, (channels, h, w) float32."""
        return self.one(picture, self.layer(number))

    def one(self, picture: Picture, layer: Layer) -> np.ndarray:
        """The same of a layer that need not be one of `layers`."""
        if not picture.frame and layer in self.layers and sum(one.numbers for one in self.layers) * 4 <= TOGETHER:
            return self.read(picture, self.layers)[self.layers.index(layer)]
        return self.read(picture, [layer])[0]

    def read(self, picture: Picture, layers: Sequence[Layer]) -> tuple[np.ndarray, ...]:
        """The same of several layers, in one run."""
        names = tuple((layer.name, layer.query) for layer in layers)
        return self._kept("maps", picture, names, make=lambda: self._read(picture, layers))

    def _read(self, picture: Picture, wanted: Sequence[Layer]) -> tuple[np.ndarray, ...]:
        feeds = self.feeds(picture)
        names = [layer.name for layer in wanted]
        sizes = tuple(sorted(sizes_of(feeds).items()))
        key = ("explorer", sizes, *names)
        taps = self.explainer.kept(key, lambda: Taps(self.explainer, self.explainer.graph_of(feeds), names))
        found = taps.run(feeds)
        return tuple(layer.maps(found[layer.name][:1]) for layer in wanted)

    def means(self, picture: Picture, layer: Layer) -> np.ndarray:
        """(channels,) the mean positive activation, max(x, 0), of each; nothing is kept."""
        return np.maximum(self._read(picture, [layer])[0], 0).mean((1, 2))

    def spans(self, picture: Picture, layer: Layer) -> list[list[list[int]]]:
        """See `layers.spans`."""
        fed = self.fed(picture)
        sizes = tuple(sorted(sizes_of(fed.feeds).items()))
        shape = self.seen(picture).shape
        size = int(shape[0]), int(shape[1])
        return self.explainer.remembered(("spans", layer.name, sizes), lambda: spans(self._graph(fed), layer, size))

    def project(self, picture: Picture, layer: Layer, channel: int, position: int, policy: str) -> Projection:
        """A unit projected back to the picture; see `Projector.run`.

        Raises:
            UnsupportedError: it is a head, or cannot be projected.
        """
        if layer.heads:
            raise UnsupportedError("attention is not projected", "choose a layer of tokens")
        feeds = self.feeds(picture)
        sizes = sizes_of(feeds)
        key = ("projector", tuple(sorted(sizes.items())), layer.name, policy)
        projector = self.explainer.kept(key, lambda: Projector(self.explainer, sizes, layer.name, policy))
        return projector.run(feeds, channel, position)

    def backward(self, picture: Picture, layer: Layer, origin: Origin, policy: str) -> np.ndarray:
        """∂(a unit)/∂(a layer before it), (channels, h, w) float32, by the rules of a policy."""
        feeds = self.feeds(picture)
        sizes = sizes_of(feeds)
        key = ("backward", tuple(sorted(sizes.items())), origin.layer, policy, layer.name)
        made = self.explainer.kept(key, lambda: Projector(self.explainer, sizes, origin.layer, policy, wrt=layer.name))
        return layer.maps(made.run(feeds, origin.channel, origin.position).pixels[:1])

    def sensitivity(self, picture: Picture, layer: Layer, target: str, policy: str) -> np.ndarray:
        """∂(a target)/∂(a layer), (channels, h, w) float32, by the rules of a policy.

        Raises:
            NotFoundError: the target is not in the picture. UnsupportedError: it does not depend on the layer.
        """
        feeds, question = self.feeds(picture), self.question(target)
        slot, sizes = slot_in(self.explainer, question, feeds), sizes_of(feeds)
        key = ("traced", tuple(sorted(sizes.items())), layer.name, policy, slot if isinstance(slot, str) else "")
        made = lambda: TargetGradient(self.explainer, sizes, question, slot, layer.name, policy)  # noqa: E731
        return layer.maps(self.explainer.kept(key, made).run(feeds, slot)[:1])

    def class_of(self, picture: Picture, target: str) -> int:
        """The class of a target.

        Raises:
            NotFoundError: it has none.
        """
        known = self.predictions(picture)
        number = next((one.index for one in known if one.target == target or target == "top1"), None)
        if number is None and target.isdecimal():
            number = int(target)
        if number is None:
            raise NotFoundError(f"{target!r} is no class", "choose a prediction")
        return number

    def pixels(self, projection: Projection) -> np.ndarray:
        """(H, W, C) in RGB order."""
        found = rgb(projection.pixels, projection.axes, self.card.feeds.preprocess.channels)[0]
        return np.ascontiguousarray(found)

    # ---- Evidence ----

    def explained(
        self,
        picture: Picture,
        method: str | None = None,
        target: str = "top1",
        number: int | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> Attribution:
        """The answer of a method with its options, by the default layer unless another is chosen."""
        layer = "auto" if number is None else self.layer(number).name
        if layer == "auto" and self.card.default_layer:
            layer = self.card.default_layer
        method = method or self.method
        question = self.question(target, Job(method, layer, options_of([method], options)[method]))

        def made() -> tuple[Any, ...]:
            work = Explaining(self.explainer, question, self.card, (target,))
            fed = self.fed(picture)
            found = answer(self.explainer, work.asked(fed), fed.feeds, still_asked)[0]
            seen = replace(found, view=PictureView(work, lambda _: fed, picture.name))
            return seen, seen.raw, seen.heatmap

        key = method, target, layer, *sorted(options.items())
        found: Attribution = self._kept("explained", picture, *key, make=made)[0]
        return found

    def evidence(
        self,
        picture: Picture,
        method: str | None,
        target: str,
        number: int | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> Evidence:
        """The map of a target, and what it is of.

        Raises:
            NotFoundError: the target is not in the picture.
        """
        found = self.explained(picture, method, target, number, options)
        if not len(found.heatmap):
            raise NotFoundError(f"the model finds no {target!r} in the picture")
        assert found.view is not None
        drawn = one(found.view.map(found, 0), Drawing(), SIDES, bare=True)
        values = np.asarray(found.in_units(0), np.float32)
        return Evidence(values, drawn, found.title(0), found.diagnosis[0], found.layer)

    def question(self, target: str, *jobs: Job) -> Question:
        return Question(jobs or (Job(),), target, labels=self.explainer.labels, declared=Declared.of(self.card))

    def _kept(self, *key: Hashable, make: Any) -> Any:
        owner, *rest = key
        picture = next(part for part in rest if isinstance(part, Picture))
        return self._arrays.get(owner, (picture.key, *(p for p in rest if p is not picture)), make)


def place_of(layer: Layer, y: int, x: int) -> int:
    """The number of a place in a layer's grid; `STRONGEST` where it is negative.

    Raises:
        NotFoundError: it lies outside.
    """
    if y < 0 or x < 0 or not layer.grid:
        return STRONGEST
    height, width = layer.grid
    if y >= height or x >= width:
        raise NotFoundError(f"{layer.name} has no place {y},{x}", f"its grid is {height}×{width}")
    return y * width + x


def as_data(prediction: Prediction, placement: Placement) -> dict[str, Any]:
    """A prediction as plain data; `seen` is its box in the picture as the network sees it."""
    box = prediction.box
    return {
        "target": prediction.target,
        "label": prediction.label,
        "score": float(prediction.score),
        "index": prediction.index,
        "box": None if box is None else [float(v) for v in box],
        "seen": None if box is None else [float(v) for v in placement.box_to_input((box[0], box[1], box[2], box[3]))],
        "points": [[float(v) for v in p] for p in prediction.points or ()],
    }
