"""`record`: one side of a comparison, run where that side runs."""

from __future__ import annotations

from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    Progress,
    model_argument,
    note,
    preprocess_options,
    provider_option,
    stacked,
    with_session,
)
from analyzer.commands.compare import MODES, pictures


@click.command(name="record")
@model_argument
@click.option("-d", "--data", "data", multiple=True, required=True, type=InputPath(), help="Pictures, or folders.")
@click.option("--store", required=True, type=OutputPath(file_okay=False), help="Folder for the results.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many pictures, evenly spread.")
@click.option("-m", "--method", "methods", multiple=True, help="Maps to record.  [grad-cam, gradient]")
@click.option(
    "--mode", type=click.Choice(list(MODES)), default="as-shipped", show_default=True, help="As in `compare`."
)
@stacked(preprocess_options)
@provider_option
@with_session
def command(
    model: str,
    data: tuple[str, ...],
    store: str,
    limit: int | None,
    methods: tuple[str, ...],
    mode: str,
    provider: str,
    session: dict[str, Any],
    **preprocess: Any,
) -> int:
    """Run MODEL over pictures as `compare` would and keep what it gives, to be compared on another machine.

    \b
    here:   onnx-analyzer record fp32.onnx --data photos/ -p cuda --store results/
    there:  onnx-analyzer compare fp32.onnx int8.onnx --data photos/ -p cuda --candidate-provider cpu --store results/

    The other machine needs both files, the pictures and the folder, but not the provider. Record the reference: the
    candidate is asked for maps of the reference's classes. A record that was cut off goes on.
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card
    from analyzer.images import decode
    from analyzer.validation import METHODS, Side, Store

    names = pictures(data, limit)
    options = session | {"level": MODES[mode]}
    explainer = Explainer(model, provider, **options)
    card = read_card(explainer, None, dict(preprocess))
    side, missing = None, dict[str, str]()
    progress = Progress(len(names), "record")
    for path in names:
        array = card.preprocess.apply(decode(str(path)))[0]
        if side is None:
            side = Side(explainer, array.shape, store=Store(store))
        missing |= side.record(array, methods or METHODS)
        progress.step()
    for method, why in missing.items():
        note(f"{method}: not available: {why}")
    note(f"{len(names)} pictures recorded in {store}")
    return 0
