"""What another process is given to do of a pass, and what it gives back."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias

from analyzer import errors
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.passes.base import Loaded, Pass
from analyzer.passes.codec import decode, encode
from analyzer.passes.local import Steps
from analyzer.passes.tree import Block, Tree

LONGEST = 64  # batches that an actor is given at a time
TURNS = 16  # how often each actor is given some, in a run that is long enough

Numbered: TypeAlias = "tuple[int, Sequence[Sample]]"  # a batch


def parts_of(batches: Sequence[Numbered], count: int) -> list[list[Numbered]]:
    """What so many actors are given at a time: batches that are joined to one block, which is all that comes back."""
    most = max(1, min(LONGEST, len(batches) // (TURNS * count)))
    level = most.bit_length() - 1
    return [list(part) for _, part in groupby(batches, lambda batch: batch[0] >> level)]


class Actor:
    """Holds a pass that is set up, and does what it is given.

    Args:
        work: the pass, as `pickled` gives it.
        first: of an anchored pass the first sample of the run.
        kept, alone: as for `Steps`.
        threads: steps at a time.
    """

    def __init__(self, work: bytes, first: Sample | None, kept: bool, alone: bool, threads: int = 1) -> None:
        self.work: Pass[Any] = pickle.loads(work)
        self.kept, self.alone, self.threads = kept, alone, threads
        self.work.setup(Loaded(first, self.work.load(first)) if first is not None else None)

    def do(self, part: Sequence[Numbered]) -> bytes:
        """The blocks of a part, or why there are none; see `blocks_of`."""
        batches = dict(part)
        steps, tree = Steps(self.work, batches.__getitem__, self.kept, self.alone), Tree(self.work.merge)
        try:
            for block in steps.blocks(list(batches), self.threads):
                tree.add(block)
        except AnalyzerError as error:
            return refusal(error)
        return encode({"blocks": [vars(block) for block in tree]})


def refusal(error: Exception, trace: str = "") -> bytes:
    """An answer without blocks: one of our errors, or with where it was raised any other."""
    if isinstance(error, AnalyzerError):
        return encode({"error": [type(error).__name__, error.message, error.hint]})
    return encode({"error": ["", trace, ""]})


def blocks_of(answer: bytes) -> list[Block]:
    """What `Actor.do` gave.

    Raises:
        AnalyzerError: what it gave instead of blocks. RuntimeError: the same that is none of our errors.
    """
    found = decode(answer)
    if "error" in found:
        name, message, hint = found["error"]
        if not name:
            raise RuntimeError(f"in another process: {message}")
        raise getattr(errors, name, AnalyzerError)(message, hint)
    return [Block(**block) for block in found["blocks"]]


def provider_of(work: Pass[Any]) -> str:
    """Where its model runs, as it was asked for."""
    return str(getattr(getattr(work, "model", None), "provider", "cpu"))


def pickled(work: Pass[Any]) -> bytes:
    """
    Raises:
        UnsupportedError: another process cannot make the pass anew.
    """
    if type(work).__module__ == "__main__":
        hint = "put its class into a module of its own, and import it"
        raise UnsupportedError(f"{work.name} is defined in the program itself, which other processes do not read", hint)
    try:
        return pickle.dumps(work)
    except (TypeError, AttributeError, pickle.PickleError) as error:
        raise UnsupportedError(
            f"{work.name} cannot be sent to other processes: {error}", "use --engine local"
        ) from error
