"""The engine of a cluster: Ray's actors, each of which holds the model and its sessions, do the batches."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from analyzer import errors
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.passes.base import Loaded, Pass
from analyzer.passes.codec import decode, encode
from analyzer.passes.local import Steps
from analyzer.passes.tree import Block, Tree

LONGEST = 64  # batches that an actor is given at a time
REACHED_IN = 10.0  # seconds
TURNS = 16  # how often each actor is given some, in a run that is long enough

_Numbered = tuple[int, Sequence[Sample]]  # a batch


@dataclass(frozen=True)
class Ray:
    """A Ray cluster that does the batches of a pass, instead of threads of this process.

    The results are those of one machine, to the byte, as long as its nodes have the same kind of processor. Every node
    needs this package, and reads the model and the pictures by the same paths.

    Attributes:
        address: "auto" for the cluster that this machine belongs to, "ray://HOST:PORT", or any other that `ray.init`
            takes; a private cluster of this machine, stopped at the end, unless given.
        count: actors. Default: one per GPU where the model runs on one, else one per CPU of the cluster.
        gpus: of each actor; with the CUDA provider 1 unless given.
    """

    address: str | None = None
    count: int | None = None
    gpus: float | None = None

    def blocks(
        self, work: Pass[Any], batches: Sequence[_Numbered], first: Sample | None, kept: bool, alone: bool
    ) -> Iterator[Block]:
        """Blocks, in the order in which they are finished.

        Args:
            batches: with their numbers. first: of an anchored pass the first sample of the run.
            kept, alone: as for `Steps`.

        Raises:
            UnsupportedError: Ray is missing, or there is no cluster at the address.
            AnalyzerError: what `Pass.step` raises, unless the pass is tolerant.
        """
        with _cluster(self.address, self.count) as ray:
            gpus = self._gpus(work)
            count = self.count or int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1)) or 1
            parts = _parts(batches, count)
            given = ray.data.from_items([{"part": pickle.dumps(p)} for p in parts], override_num_blocks=len(parts))
            rows = given.map_batches(
                _Actor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(count, len(parts))),
                fn_constructor_args=(_pickled(work), first, kept, alone),
                **({"num_gpus": gpus} if gpus else {"num_cpus": 1}),
            )
            for row in rows.iter_rows():
                if row["error"]:
                    raise _error(decode(row["error"]))
                yield Block(**decode(row["block"]))

    def _gpus(self, work: Pass[Any]) -> float:
        on_gpu = getattr(getattr(work, "model", None), "provider", "cpu") == "cuda"
        return self.gpus if self.gpus is not None else float(on_gpu)


def _parts(batches: Sequence[_Numbered], count: int) -> list[list[_Numbered]]:
    """What actors are given at a time: batches that are joined to one block, which is all that is sent back."""
    most = max(1, min(LONGEST, len(batches) // (TURNS * count)))
    level = most.bit_length() - 1
    return [list(part) for _, part in groupby(batches, lambda batch: batch[0] >> level)]


class _Actor:
    """Holds a pass that is set up, and does what it is given."""

    def __init__(self, work: bytes, first: Sample | None, kept: bool, alone: bool) -> None:
        self.work: Pass[Any] = pickle.loads(work)
        self.kept, self.alone = kept, alone
        self.work.setup(Loaded(first, self.work.load(first)) if first is not None else None)

    def __call__(self, given: dict[str, Any]) -> dict[str, list[bytes]]:
        """{"block": blocks as bytes, "error": empty, or why there is none}"""
        found: dict[str, list[bytes]] = {"block": [], "error": []}
        try:
            for part in given["part"]:
                batches = dict(pickle.loads(part))
                steps, tree = Steps(self.work, batches.__getitem__, self.kept, self.alone), Tree(self.work.merge)
                for block in steps.blocks(list(batches), 1):
                    tree.add(block)
                found["block"] += [encode(vars(block)) for block in tree]
        except AnalyzerError as error:
            return {"block": [b""], "error": [encode([type(error).__name__, error.message, error.hint])]}
        return {"block": found["block"], "error": [b""] * len(found["block"])}


def _pickled(work: Pass[Any]) -> bytes:
    try:
        return pickle.dumps(work)
    except (TypeError, AttributeError, pickle.PickleError) as error:
        raise UnsupportedError(f"{work.name} cannot be sent to a cluster: {error}", "use --engine local") from error


def _error(said: list[str]) -> AnalyzerError:
    """An error of an actor again."""
    kind = getattr(errors, said[0], AnalyzerError)
    return kind(*said[1:]) if issubclass(kind, AnalyzerError) else AnalyzerError(*said[1:])


def _reach(address: str | None) -> None:
    """OSError where nothing answers at HOST:PORT, for which Ray waits for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), REACHED_IN).close()


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what Ray's native part writes to stderr about itself."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _cluster(address: str | None, count: int | None) -> Iterator[Any]:
    """The ray module, connected; what was connected already stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is raised here
    try:
        import ray
        import ray.data
    except ImportError as error:
        hint = 'install it with: pip install "onnx-analyzer[ray]"'
        raise UnsupportedError(f"the engine needs Ray, which cannot be imported: {error}", hint) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    connected = ray.is_initialized()
    if not connected:
        private = {"address": "local", "include_dashboard": False, "num_cpus": count}
        try:
            _reach(address)
            with _hushed():
                ray.init(
                    log_to_driver=False, logging_level=logging.ERROR, **({"address": address} if address else private)
                )
        except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
            hint = "start one with `ray start --head`, or leave --address out for a private one"
            raise UnsupportedError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}", hint) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()
