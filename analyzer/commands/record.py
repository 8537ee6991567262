"""`record`: one side of a comparison, run where that side runs."""

from __future__ import annotations

from click import Choice

from analyzer.commands.common import Progress, note
from analyzer.commands.compare import MODES, pictures
from analyzer.commands.options import (
    WRITE_FOLDER,
    Given,
    Setup,
    data_option,
    group,
    limit_option,
    model_argument,
    option,
    several,
)


class Record(Given):
    model: str = model_argument
    data: tuple[str, ...] = data_option
    store: str = option("--store", "Folder for the results.", required=True, type=WRITE_FOLDER)
    limit: int | None = limit_option
    methods: tuple[str, ...] = several("-m --method", "Maps to record.  [grad-cam, gradient]")
    mode: str = option("--mode", "As in `compare`.", type=Choice(list(MODES)), default="as-shipped")
    setup: Setup = group(Setup)


@Record.command("record")
def command(given: Record) -> int:
    """Run MODEL over pictures as `compare` would and keep what it gives, to be compared on another machine.

    \b
    here:   onnx-analyzer record fp32.onnx --data photos/ -p cuda --store results/
    there:  onnx-analyzer compare fp32.onnx int8.onnx --data photos/ -p cuda --candidate-provider cpu --store results/

    The other machine needs both files, the pictures and the folder, but not the provider. Record the reference: the
    candidate is asked for maps of the reference's classes. A record that was cut off goes on.
    """
    from analyzer.images import decode
    from analyzer.validation import EVIDENCE, Side, Store

    names = pictures(given.data, given.limit)
    explainer, card = given.setup.load(given.model, level=MODES[given.mode])
    side, missing = None, dict[str, str]()
    progress = Progress(len(names), "record")
    for path in names:
        array = card.preprocess.apply(decode(str(path)))[0]
        if side is None:
            side = Side(explainer, array.shape, store=Store(given.store))
        missing |= side.record(array, given.methods or EVIDENCE)
        progress.step()
    for method, why in missing.items():
        note(f"{method}: not available: {why}")
    note(f"{len(names)} pictures recorded in {given.store}")
    return 0
