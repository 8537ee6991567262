"""Short sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.recurrent import Step, once, run

LONGEST = 8  # steps that are written out


@idiom(run)
def written_out(
    op: Builder, node: Primal, step: Step, z: Value, states: Sequence[Value], running: Value | None
) -> tuple[Value, Sequence[Value]]:
    """Up to eight steps, where the file says how many, are written out: no body is called once a step, as of a Scan."""
    count = op.dim(z, 0)
    if count is None or count > LONGEST:
        return NotImplemented
    results = []
    for t in range(count):
        goes_on = None if running is None else op.Gather(running, np.int64(t), axis=0)
        result, states = once(op, step, op.Gather(z, np.int64(t), axis=0), states, goes_on)
        results.append(op.Unsqueeze(result, [0]))
    return op.Concat(*results, axis=0), states
