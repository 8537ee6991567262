"""The engine of a cluster: Ray's actors, each of which holds the model and its sessions, do the batches."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from analyzer.data import Sample
from analyzer.errors import UnsupportedError
from analyzer.passes.actor import Actor, Numbered, blocks_of, parts_of, pickled, provider_of
from analyzer.passes.base import Pass
from analyzer.passes.tree import Block

REACHED_IN = 10.0  # seconds


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
        self, work: Pass[Any], batches: Sequence[Numbered], first: Sample | None, kept: bool, alone: bool
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
            parts = parts_of(batches, count)
            given = ray.data.from_items([{"part": pickle.dumps(p)} for p in parts], override_num_blocks=len(parts))
            rows = given.map_batches(
                _RayActor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(count, len(parts))),
                fn_constructor_args=(pickled(work), first, kept, alone),
                **({"num_gpus": gpus} if gpus else {"num_cpus": 1}),
            )
            for row in rows.iter_rows():
                yield from blocks_of(row["answer"])

    def _gpus(self, work: Pass[Any]) -> float:
        return self.gpus if self.gpus is not None else float(provider_of(work) == "cuda")


class _RayActor(Actor):
    def __call__(self, given: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"answer": [self.do(pickle.loads(part)) for part in given["part"]]}


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
    terminated = signal.getsignal(signal.SIGTERM)
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
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own prints a stack and loses what is to be said
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()
