"""`mine` as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyzer.api.data import File, Pictures, listed, opened_samples, samples_of
from analyzer.api.models import Asked, Preprocessing, for_pictures, known_options
from analyzer.deprecated import renamed
from analyzer.errors import InputError
from analyzer.images import Feeding
from analyzer.mining import MiningResult
from analyzer.mining import mine as mine_pictures
from analyzer.mining.patches import check_projectable
from analyzer.passes import Workers
from analyzer.report.gallery import write_results


def mine(
    model: Any,
    pictures: Pictures,
    layer: str | Sequence[str] | None = None,
    preprocess: Preprocessing | Feeding = None,
    k: int = 9,
    out: File | None = None,
    batch: int = 8,
    shard: tuple[int, int] = (1, 1),
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
    *,
    unit: Sequence[int] = (),
    draw: int = 16,
    policy: str | None = "deconvnet",
    provider: str = "cpu",
    limit: int | None = None,
    every: int = 1,
    input: Mapping[str, Any] | None = None,
    explain_input: str | None = None,
    **options: Any,
) -> MiningResult:
    """Find the pictures that activate each channel most: the k strongest activations, one position per picture.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        pictures: as for `analyzer.compare`. Memory does not grow with their number.
        layer: the name (or glob) of a tensor or node, or several. Default: as the model's TOML file says, else chosen
            automatically.
        preprocess: as for `analyzer.explain`; of a fixed size.
        k: number of activations per channel.
        out: folder for figures, a gallery and all results as JSON; an interrupted run resumes. Nothing is written
            unless it is given.
        batch: pictures per run of the model.
        shard: (i, n): only the i-th of n equal parts of the pictures; run once without it to merge.
        workers: pictures at a time, one per CPU unless given; or an engine, `analyzer.Processes()`, `analyzer.Ray()`.
        progress: called with the number of pictures after each batch.
        unit: channels to draw. draw: how many are drawn, strongest first, if none are named.
        policy: how activations are projected to pixels: "deconvnet", "guided", "gradient", or None for not at all.
        provider, limit, every, input, explain_input, options: as for `analyzer.explain` and `analyzer.compare`.

    Returns:
        MiningResult: `.rankings` and `.statistics` by layer.

    Raises:
        InputError: the folder is in use; no picture; the input size is open.
        NotFoundError, UnsupportedError: a layer does not exist or has no channels.
    """
    pictures = listed(pictures)
    journal = renamed(options, "folder", "out", out)
    layer = renamed(options, "layers", "layer", layer)
    feeding, how = (preprocess, None) if isinstance(preprocess, Feeding) else (None, preprocess)
    options.setdefault("threads", 1)
    asked = Asked.of(options, how, input=input, explain_input=explain_input)
    known_options(options, "mine")
    samples = samples_of(pictures, limit)
    explainer, card = for_pictures(model, provider, asked)
    feeding = feeding or card.feeds
    samples = opened_samples(samples, pictures, feeding, every)
    layers = [layer] if isinstance(layer, str) else list(layer or ()) or [card.default_layer or "auto"]
    if policy == "none":
        policy = None
    if policy and out is not None:
        check_projectable(explainer, layers, policy)
    if shard != (1, 1) and journal is None:
        raise InputError("a shard needs a folder in which the parts meet", "pass out='folder'")
    found = mine_pictures(explainer, samples, layers, feeding, k, journal, batch, shard, workers, progress)
    if out is not None and shard == (1, 1):
        title = Path(explainer.loaded.path or explainer.loaded.name).name
        write_results(explainer, found, feeding, Path(out), title, tuple(unit), draw, policy)
    return found
