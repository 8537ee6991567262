"""From flags and model cards to preprocessing; shared by the commands that read pictures."""

from __future__ import annotations

from typing import Any


def read_card(explainer: Any, labels: str | None, flags: dict[str, Any]) -> Any:
    """The preprocessing, labels and default layer of the model: flags first, then TOML files, then its input."""
    from analyzer.errors import UnsupportedError
    from analyzer.graph.query import image_input
    from analyzer.images import model_card

    graph = explainer.plain
    image = image_input(graph)
    if image.shape is None or len(image.shape) != 4:
        raise UnsupportedError(
            f"{graph.name}: the input {image.name!r} is no batch of pictures: its shape is {image.shape}",
            "use the Python API with arrays instead",
        )
    flags = {**flags, "labels_file": labels}
    return model_card(explainer.loaded.path, flags, image.shape, image.dtype)
