"""`record`: one side of a comparison, run where that side runs."""

from __future__ import annotations

from click import Choice

from analyzer.commands.common import Progress, note, tell_left_out
from analyzer.commands.compare import MODES
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
    workers_option,
)


class Record(Given):
    model: str = model_argument
    data: tuple[str, ...] = data_option
    store: str = option("--store", "Folder for the results.", required=True, type=WRITE_FOLDER)
    limit: int | None = limit_option
    methods: tuple[str, ...] = several("-m --method", "Maps to record.  [grad-cam, gradient]")
    mode: str = option("--mode", "As in `compare`.", type=Choice(list(MODES)), default="as-shipped")
    workers: int | None = workers_option
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
    from analyzer.commands.pictures import first_shapes
    from analyzer.data import find_pictures
    from analyzer.passes import run
    from analyzer.validation import EVIDENCE, Side, Store
    from analyzer.validation.recording import Recording

    samples = find_pictures(given.data, given.limit)
    explainer, card = given.setup.load(given.model, many=True, level=MODES[given.mode])
    (shape,) = first_shapes(samples, [card])
    side = Side(explainer, shape, store=Store(given.store))
    progress = Progress(len(samples), "record")
    work = Recording(side, card.preprocess, given.methods or EVIDENCE)
    done = run(work, samples, workers=given.workers, progress=progress.step)
    tell_left_out(done)
    for method, why in done.result.items():
        note(f"{method}: not available: {why}")
    note(f"{len(samples) - len(done.failed)} pictures recorded in {given.store}")
    return 5 if done.failed else 0
