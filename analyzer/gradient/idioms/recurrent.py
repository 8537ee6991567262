"""Steps that are written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.recurrent import Step, once, run

SHORT = 8  # steps of which a Scan takes longer
LONGEST = 128

Result = tuple[Value, Sequence[Value]]


@idiom(run, "onnxruntime", "tensorrt")
def short_written_out(
    op: Builder, node: Primal, step: Step, z: Value, states: Sequence[Value], running: Value | None, backward: bool
) -> Result:
    """Up to eight steps, where the file says how many, are written out: no body is called once a step, as of a Scan."""
    count = op.dim(z, 0)
    if count is None or count > SHORT:
        return NotImplemented
    return written_out(op, step, z, states, running, backward, count)


@idiom(run, "others")
def all_written_out(
    op: Builder, node: Primal, step: Step, z: Value, states: Sequence[Value], running: Value | None, backward: bool
) -> Result:
    """All steps are written out, because other runtimes do not run a Scan from the last step to the first; the file has
    to say how many, at most 128."""
    count = op.dim(z, 0)
    if count is None:
        raise node.refuse(
            "the number of steps is open, and only onnxruntime runs a gradient of them: fix the input sizes"
        )
    if count > LONGEST:
        raise node.refuse(
            f"it has {count} steps, more than the {LONGEST} that are written out for runtimes without Scan"
        )
    return written_out(op, step, z, states, running, backward, count)


def written_out(
    op: Builder,
    step: Step,
    z: Value,
    states: Sequence[Value],
    running: Value | None,
    backward: bool,
    count: int,
) -> Result:
    """`run` as operators of the graph."""
    results = []
    for t in range(count)[:: -1 if backward else 1]:
        goes_on = None if running is None else op.Gather(running, np.int64(t), axis=0)
        result, states = once(op, step, op.Gather(z, np.int64(t), axis=0), states, goes_on)
        results.append(op.Unsqueeze(result, [0]))
    return op.Concat(*results[:: -1 if backward else 1], axis=0), states
