"""Partial results, joined in an order that depends on the samples alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Block:
    """Batches index · 2^level … (index + 1) · 2^level − 1.

    Attributes:
        partial: their result; None where no sample could be loaded.
        failed: {number of the sample: (why it is not in it, what to do)}.
        content: a hash of what the samples hold.
    """

    level: int
    index: int
    partial: Any
    failed: dict[int, tuple[str, str]]
    content: str

    @property
    def start(self) -> int:
        return self.index << self.level

    @property
    def stop(self) -> int:
        return (self.index + 1) << self.level


class Tree:
    """Blocks of batches. Two are joined as soon as both halves of a larger one are there, and never otherwise.

    So what is merged with what does not depend on the order in which batches are finished, and about log₂ n blocks are
    kept for n batches that were finished one after the other.

    Args:
        merge: of two partial results, the earlier first.
    """

    def __init__(self, merge: Callable[[Any, Any], Any]) -> None:
        self.merge = merge
        self._blocks: dict[tuple[int, int], Block] = {}

    def add(self, block: Block) -> None:
        """Take in a block of batches none of which is here."""
        while (twin := self._blocks.pop((block.level, block.index ^ 1), None)) is not None:
            left, right = (twin, block) if twin.index < block.index else (block, twin)
            block = Block(
                block.level + 1,
                block.index >> 1,
                self._joined(left.partial, right.partial),
                left.failed | right.failed,
                chained(left.content, right.content),
            )
        self._blocks[block.level, block.index] = block

    def _joined(self, left: Any, right: Any) -> Any:
        if left is None or right is None:
            return right if left is None else left
        return self.merge(left, right)

    def __iter__(self) -> Iterator[Block]:
        """By the batches that they cover."""
        return iter(sorted(self._blocks.values(), key=lambda b: b.start))

    def total(self) -> Any:
        """The result of all batches that are here; None where there is none."""
        total = None
        for block in self:
            total = self._joined(total, block.partial)
        return total

    @property
    def failed(self) -> dict[int, tuple[str, str]]:
        """As `Block.failed`, of all samples in their order."""
        return dict(sorted((n, why) for b in self for n, why in b.failed.items()))


def chained(*hashes: str) -> str:
    """The hash of hashes."""
    return hashlib.sha256("\0".join(hashes).encode()).hexdigest()
