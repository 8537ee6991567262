"""From flags and model cards to preprocessing; shared by the commands that read pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.attribution import Model
    from analyzer.data import Sample
    from analyzer.images import ModelCard


def read_card(model: Model, labels: str | None, flags: dict[str, Any]) -> ModelCard:
    """The preprocessing, labels, task and default layer of the model: flags first, then TOML files, then its input.

    The model knows its task and labels from then on.
    """
    from analyzer.analysis.scores import input_quantisation
    from analyzer.commands.common import note
    from analyzer.errors import UnsupportedError
    from analyzer.graph.query import image_input
    from analyzer.images import model_card
    from analyzer.tasks import Declared

    graph = model.plain
    image = image_input(graph)
    if image.shape is None or len(image.shape) != 4:
        raise UnsupportedError(
            f"{graph.name}: the input {image.name!r} is not a batch of pictures: its shape is {image.shape}",
            "pictures need an input with four axes, such as [N, 3, H, W]; for others, use the Python API",
        )
    flags = {**flags, "labels_file": labels}
    card = model_card(model.loaded.path, flags, image.shape, image.dtype, input_quantisation(graph, image))
    if card.remark:
        note(f"{graph.name}: {card.remark}")
    model.declared, model.labels = Declared.of(card), card.labels
    return card


def read_task(model: Model, labels: str | None) -> tuple[str, ...] | None:
    """The labels, for a command that reads no pictures; the model knows its task and labels from then on."""
    from analyzer.errors import UnsupportedError
    from analyzer.images import load_labels

    try:
        return read_card(model, labels, {}).labels
    except UnsupportedError:  # no pictures: there is no card to read
        model.labels = load_labels(labels) if labels else None
        return model.labels


def first_shapes(samples: Sequence[Sample], cards: Sequence[ModelCard]) -> list[tuple[int, ...]]:
    """The shape of the input that each card makes of the first picture that can be read.

    Raises:
        InputError: none can be.
    """
    from analyzer.errors import InputError
    from analyzer.images import decode

    for number, sample in enumerate(samples):
        try:
            image = decode(sample.source)
        except InputError:
            if number + 1 == len(samples):
                raise
            continue
        return [card.preprocess.apply(image)[0].shape for card in cards]
    raise InputError("no pictures given", "add a folder of pictures with --data FOLDER")
