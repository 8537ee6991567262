"""`record`: one side of a comparison, run where that side runs."""

from __future__ import annotations

from click import Choice

from analyzer.commands.common import Progress, note, tell_left_out
from analyzer.commands.compare import MODES
from analyzer.commands.options import (
    METHOD,
    READ_ANY_MODEL,
    WRITE_FOLDER,
    DataSet,
    Engine,
    Given,
    Setup,
    argument,
    group,
    option,
    several,
)


class Record(Given):
    model: str = argument(type=READ_ANY_MODEL)
    data: DataSet = group(DataSet)
    store: str = option("--store", "Folder for the results.", required=True, type=WRITE_FOLDER, metavar="FOLDER")
    methods: tuple[str, ...] = several(
        "-m --method", "Methods whose maps are recorded. Repeatable. Default: as for `compare`.", **METHOD
    )
    mode: str = option("--mode", "As for `compare`.", type=Choice(MODES), default="as-shipped")
    engine: Engine = group(Engine)
    setup: Setup = group(Setup)


@Record.command("record")
def command(given: Record) -> int:
    """Run the reference model of a comparison on this machine, so that another can compare with it.

    \b
    Example, on the machine with the GPU, then on the other:
      onnx-analyzer record fp32.onnx photos/ -p cuda --store results/
      onnx-analyzer compare fp32.onnx int8.onnx photos/ --store results/ \\
          -p cuda --candidate-provider cpu

    The other machine needs both models, the pictures and the folder, but not the execution provider. Record the
    reference, not the candidate: the candidate's maps are of the classes that the reference predicts. An interrupted
    run resumes.
    """
    from analyzer.api.comparing import MODES as LEVELS
    from analyzer.attribution.cards import first_shapes
    from analyzer.passes import run
    from analyzer.validation import Store
    from analyzer.validation.recording import Recording
    from analyzer.validation.runner_side import side_of

    samples = given.data.samples()
    explainer, card = given.setup.load(given.model, many=True, level=LEVELS[given.mode])
    samples = given.data.opened(samples, card.feeds)
    (shape,) = first_shapes(samples, [card.feeds])
    side = side_of(explainer, shape, Store(given.store))
    progress = Progress(len(samples), "record")
    work = Recording(side, card.feeds, given.methods)
    done = run(work, samples, workers=given.engine.workers, progress=progress.step)
    tell_left_out(done)
    for method, why in done.result.items():
        note(f"{method}: not available: {why}")
    note(f"{len(samples) - len(done.failed)} pictures recorded in {given.store}")
    return given.engine.code(len(done.failed), len(samples))
