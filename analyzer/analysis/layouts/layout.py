"""What the axes of a feature map mean: `Layout`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analyzer.graph.nodes import Shape


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor are: one letter per axis, N batch, C channels, D H W space, L tokens, ? unknown.

    For tokens, `grid` is (h, w); `prefix` and `suffix` count the class, register or query tokens before and after it.
    """

    axes: str
    grid: tuple[int | None, ...] = ()
    prefix: int = 0
    suffix: int = 0

    @classmethod
    def of(cls, axes: str, shape: Shape) -> Layout:
        """The layout of a tensor of this shape, no axis of which is L."""
        return cls(axes, grid_of(axes, shape))

    @property
    def spatial(self) -> tuple[int, ...]:
        """The axes that carry space."""
        return tuple(i for i, a in enumerate(self.axes) if a in "DHWL")

    @property
    def channel(self) -> int:
        """The axis of the channels."""
        return self.axes.index("C")

    @property
    def tokens(self) -> slice:
        """The places of the grid among all tokens."""
        return slice(self.prefix, -self.suffix or None)

    @property
    def count(self) -> int:
        """Number of tokens, those outside the grid included; the sizes of the grid are fixed."""
        return self.prefix + math.prod(g or 0 for g in self.grid) + self.suffix

    @property
    def is_map(self) -> bool:
        """Whether this is a feature map: channels over space, and nothing else."""
        return "C" in self.axes and bool(self.spatial) and set(self.axes) <= set("NCDHWL")

    def __str__(self) -> str:
        if "L" not in self.axes:
            return self.axes
        size = "×".join(str(g) if g else "?" for g in self.grid)
        front = f" + {self.prefix} at the start" if self.prefix else ""
        return f"{self.axes} tokens {size}{front}" + (f" + {self.suffix} at the end" if self.suffix else "")


def grid_of(axes: str, shape: Shape) -> tuple[int | None, ...]:
    """The sizes in space, None where one is not fixed."""
    return tuple(d if isinstance(d, int) else None for a, d in zip(axes, shape, strict=False) if a in "DHW")
