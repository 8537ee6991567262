"""Raw: numbers whose meaning was not recognized."""

from __future__ import annotations

import math

import numpy as np

from analyzer.graph.nodes import fixed_sizes
from analyzer.tasks.base import Labels, Task, quoted


class Raw(Task):
    """Nothing is known: a target is an index into all numbers, and by default the highest of them is explained."""

    kind = "raw"

    def label(self, index: int, labels: Labels) -> str:
        """Where the number stands: `output[0, 3, 17]`."""
        sizes = fixed_sizes(self.logits.shape or [])
        if sizes is None or not 0 <= index < math.prod(sizes[int(self.batched) :]):
            return f"number {index}"
        place = np.unravel_index(index, sizes[int(self.batched) :])
        return f"{quoted(self.logits.name)}[{', '.join([':'] * self.batched + [str(int(i)) for i in place])}]"

    @property
    def words(self) -> tuple[str, ...]:
        return ()

    @property
    def doubt(self) -> str:
        shape = self.output.shape or self.logits.shape or []
        name, sizes = quoted(self.output.name), ", ".join(str(d) if isinstance(d, int) else "?" for d in shape)
        lengths = {i: d for i, d in enumerate(shape) if i and isinstance(d, int) and d > 1}
        axis = min(lengths, key=lengths.__getitem__, default=len(shape) - 1)
        length = shape[axis] if shape else None
        index = min(4, length - 1) if isinstance(length, int) else 4
        return (
            f"what output {name} [{sizes}] means was not recognized ({self.evidence}), so the highest of its numbers "
            f"is explained. Select the numbers that matter with an expression, such as -t "
            f"'{name}[{':, ' * axis}{index}].max()', or write what it is in a TOML file beside the model "
            "(docs/targets.md)"
        )
