"""`dream` as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any, Literal

import numpy as np

from analyzer.api.data import File, Pictures, listed, samples_of
from analyzer.api.models import Asked, Names, Preprocessing, for_pictures, known_options
from analyzer.attribution import Explainer
from analyzer.attribution.dream import Dream, Dreamer
from analyzer.attribution.parametrizations import DreamOptions, mean_spectrum
from analyzer.attribution.units import STRONGEST, WHOLE, parse_unit
from analyzer.data import Sample
from analyzer.errors import InputError, UnsupportedError
from analyzer.images import ModelCard, decode, encode, grid, showing, write_png
from analyzer.images.read import read_array
from analyzer.tasks import recognise
from analyzer.tasks.detection import Detection
from analyzer.tasks.targets import resolve_class

RATES = {"fourier": 0.05, "maco": 0.1, "pixels": 1.0}  # of steps, unless one is given


@dataclass(repr=False)
class Dreams:
    """Pictures that maximize units of one layer. In a notebook they show themselves.

    Attributes:
        units: what each picture maximizes, as it was asked for. channels: the channel, or class, of each; None for a
            direction.
        dreams: for each `.image`, (H, W, 3) uint8 RGB, `.score`, `.scores` and, of several variants, `.similarity`.
    """

    model: str
    layer: str
    units: list[str]
    channels: list[int | None]
    dreams: list[Dream]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[np.ndarray]:
        """The pictures, (H, W, 3) uint8 RGB each."""
        return [dream.image for dream in self.dreams]

    def stacked(self) -> np.ndarray:
        """The pictures as one array, (pictures, H, W, 3) uint8 RGB, as `dream --raw` writes them."""
        return np.stack(self.images)

    def as_data(self) -> dict[str, Any]:
        """What `dream --format json` prints, as plain data."""
        rows = [
            {
                "unit": unit,
                "channel": channel,
                "first": dream.scores[0] if dream.scores else None,
                "score": dream.score,
                "similarity": dream.similarity,
                "stopped": dream.stopped or None,
            }
            for unit, channel, dream in zip(self.units, self.channels, self.dreams, strict=True)
        ]
        options = dict(self.options)
        if "parametrization" in options:
            options["parametrisation"] = options["parametrization"]  # its earlier name
        return {"model": self.model, "layer": self.layer, "options": options, "units": rows}

    def figure(self) -> np.ndarray:
        """All pictures with their titles, as `dream -o` writes them: (H, W, 3) uint8 RGB."""
        titles = [f"{unit} ({dream.score:.3g})" for unit, dream in zip(self.units, self.dreams, strict=True)]
        return grid(self.images, titles, title=f"maximizing {self.layer}")

    def save(self, path: File) -> None:
        """Write `figure` as .png, .jpg or .webp."""
        write_png(path, self.figure())

    def __repr__(self) -> str:
        """«Dreams(channel 3 (12.5) of conv4)»"""
        said = ", ".join(f"{unit} ({dream.score:.3g})" for unit, dream in zip(self.units, self.dreams, strict=True))
        return f"Dreams({said} of {self.layer})"

    def _repr_png_(self) -> bytes:
        return encode(self.figure())

    def _repr_html_(self) -> str:
        return showing.page(repr(self), self.figure())


def dream(
    model: Any,
    unit: int | str | Iterable[int | str] = (),
    target: int | str | Iterable[int | str] = (),
    layer: str | None = None,
    *,
    direction: File | np.ndarray | Sequence[File | np.ndarray] = (),
    labels: Names = None,
    steps: int = 128,
    rate: float | None = None,
    parametrization: Literal["fourier", "maco", "pixels"] = "fourier",
    decorrelate: bool = True,
    jitter: int = 8,
    degrees: float = 10.0,
    rescale: bool = True,
    decay: float = 0.0,
    blur: float = 0.0,
    blur_every: int = 4,
    clip_norm: float = 0.0,
    clip_contribution: float = 0.0,
    seed: int = 0,
    picture_size: tuple[int, int] | None = None,
    variants: int = 1,
    diversity: float = 0.5,
    photos: Pictures = (),
    provider: str = "cpu",
    input: Mapping[str, Any] | None = None,
    preprocess: Preprocessing = None,
    progress: Callable[[], None] | None = None,
    **options: Any,
) -> Dreams:
    """Generate the picture that maximizes a unit, class or direction, by gradient ascent on the input.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        unit: unit to maximize, or several: a channel of the layer, or "CHANNEL@y,x".
        target: class to maximize instead, or several: index or label.
        layer: the name (or glob) of a tensor or node. Default: as the model's TOML file says, else chosen
            automatically.
        direction: weights of the layer's channels to maximize instead, (channels,), or several: an array, or a .npy
            file.
        labels: class names, or a file of them.
        steps, rate, parametrization, decorrelate, jitter, degrees, rescale, decay, blur, blur_every, clip_norm,
            clip_contribution, seed, picture_size, variants, diversity: see `analyzer.DreamOptions`; the rate
            is 0.05 for fourier, 0.1 for maco and 1 for pixels.
        photos: photographs whose spectrum maco keeps, in any form that `analyzer.mine` takes.
        progress: called after each step.
        provider, input, preprocess, options: as for `analyzer.explain`.

    Returns:
        Dreams: `.images`, `.dreams`, `.figure()`, `.save()`.

    Raises:
        InputError: not either units, classes or directions. NotFoundError: no such layer, unit or label.
        UnsupportedError: the model has no score per class.
    """
    asked = Asked.of(options, preprocess, labels=labels, input=input)
    known_options(options, "dream")
    settings = DreamOptions(
        steps=steps,
        rate=RATES.get(parametrization, 0.05) if rate is None else rate,
        parametrization=parametrization,
        decorrelate=decorrelate,
        jitter=jitter,
        degrees=degrees,
        rescale=rescale,
        decay=decay,
        blur=blur,
        blur_every=blur_every,
        clip_norm=clip_norm,
        clip_contribution=clip_contribution,
        seed=seed,
        picture_size=picture_size,
        variants=variants,
        diversity=diversity,
    )
    units, targets = _texts(unit), _texts(target)
    directions = [direction] if isinstance(direction, str | PathLike | np.ndarray) else list(direction)
    check_units(units, targets, directions)
    explainer, card = for_pictures(model, provider, asked)
    given = listed(photos)
    spectrum = photographed(card, samples_of(given) if given else [], settings)
    return maximized(explainer, card, layer, units, targets, directions, settings, progress, spectrum)


def photographed(card: ModelCard, photos: Sequence[Sample], options: DreamOptions) -> np.ndarray | None:
    """The mean spectrum of photographs as the network sees them, if the parametrization needs it.

    Raises:
        InputError: there are none.
    """
    if options.parametrization != "maco":
        return None
    how = card.preprocess if options.picture_size is None else card.preprocess.replace(size=options.picture_size)
    seen = (how.undo(how.apply(decode(photo.source))[0][0]) for photo in photos)
    return mean_spectrum(seen, options)


def check_units(units: Sequence[str], targets: Sequence[str], directions: Sequence[Any] = ()) -> None:
    """Raise InputError unless there are either units, classes or directions."""
    if sum(map(bool, (units, targets, directions))) != 1:
        raise InputError(
            "give either units or classes to maximize, or directions",
            "-u CHANNEL with -l LAYER, -t CLASS, or --direction FILE with -l LAYER",
        )


def _texts(given: int | str | Iterable[int | str]) -> list[str]:
    return [str(given)] if isinstance(given, int | str) else [str(each) for each in given]


def maximized(
    explainer: Explainer,
    card: ModelCard,
    layer: str | None,
    units: Sequence[str],
    targets: Sequence[str],
    directions: Sequence[File | np.ndarray],
    options: DreamOptions,
    progress: Callable[[], None] | None = None,
    spectrum: np.ndarray | None = None,
) -> Dreams:
    """The pictures of units of a layer, of classes, or of directions: `options.variants` of each."""
    name = layer or card.default_layer or "auto"
    if targets:
        graph = explainer.graph({explainer.image: card.preprocess.shape(explainer.fixed_batch or 1)})
        task = recognise(graph, None, explainer.declared, card.labels)
        if isinstance(task, Detection):
            raise UnsupportedError(
                f"{task.output.name!r} has no score per class ({task.described()})", "-u CHANNEL with -l LAYER"
            )
        name = task.logits.name
    dreamer = Dreamer(explainer, name, card.preprocess)
    places: list[tuple[int | np.ndarray, int]]
    if targets:
        classes = [resolve_class(target, card.labels) for target in targets]
        names, places = [card.label(channel) for channel in classes], [(channel, WHOLE) for channel in classes]
    elif directions:
        names = [f"direction {n}" if isinstance(d, np.ndarray) else str(d) for n, d in enumerate(directions)]
        places = [(np.asarray(d if isinstance(d, np.ndarray) else read_array(d)), WHOLE) for d in directions]
    else:
        parsed = [parse_unit(dreamer.units, text) for text in units]
        names = [f"channel {text}" for text in units]
        places = [(channel, WHOLE if at == STRONGEST else at) for channel, at in parsed]
    if any(isinstance(channel, int) and channel < 0 for channel, _ in places):
        raise InputError("-u max needs a picture, and dream starts without one", "give the number of a channel")
    found = [dreamer.runs(channel, at, options, progress, spectrum) for channel, at in places]
    model, count = str(explainer.loaded.path or explainer.loaded.name), options.variants
    titles = [name if count == 1 else f"{name}, {n + 1} of {count}" for name in names for n in range(count)]
    channels = [channel if isinstance(channel, int) else None for channel, _ in places for _ in range(count)]
    return Dreams(model, dreamer.units.name, titles, channels, [d for each in found for d in each], asdict(options))
