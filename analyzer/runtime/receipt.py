"""A rewrite's receipt: the largest difference between the outputs before and after it, on random input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.graph import Graph
from analyzer.runtime.custom_ops import register
from analyzer.runtime.session import DISABLED_OPTIMIZERS, Session
from analyzer.runtime.threads import plain_options

_KINDS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def receipt(before: Any, after: Graph, provider: str = "cpu", seed: int = 0, as_it_is: bool = False) -> float:
    """max |before(x) − after(x)| / max |before(x)| over the outputs of `before`, for one random x.

    Args:
        before: path or bytes of the model as it came.
        after: the graph made from it, with whatever was appended.
        as_it_is: run `before` with every optimizer on, those that we leave out included.
    """
    original = Plain(before) if as_it_is else Plain.original(before)
    feeds = random_feeds(original.inputs, seed)
    expected = original.run(feeds)
    found = Session(after, provider, outputs=list(expected)).run(feeds, list(expected))
    return max((relative(a, found[n]) for n, a in expected.items()), default=0.0)


class Plain:
    """A session as any user of onnxruntime creates it: on the CPU, at the default level, nothing switched off.

    Args:
        model: path or bytes.
        disabled: optimizers to leave out.
        custom_ops: as for `Session`.
    """

    def __init__(
        self, model: Any, disabled: Sequence[str] = (), level: str = "all", custom_ops: Sequence[str] = ()
    ) -> None:
        import onnxruntime as ort

        options = plain_options()
        register(options, custom_ops)
        if level == "disable":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        given = str(model) if isinstance(model, Path) else model
        self._session = ort.InferenceSession(
            given, options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
        self.inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]

    @classmethod
    def original(cls, model: Any, custom_ops: Sequence[str] = ()) -> Plain:
        """The model as it came, without what onnxruntime's optimiser does wrong, and unoptimised if it must be."""
        try:
            return cls(model, DISABLED_OPTIMIZERS, custom_ops=custom_ops)
        except Exception:
            return cls(model, level="disable", custom_ops=custom_ops)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{output: array}"""
        return dict(zip(self.outputs, map(np.asarray, self._session.run(self.outputs, dict(feeds))), strict=True))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b| / max |a|; values that are not finite must be the same."""
    if not a.size:
        return 0.0
    if a.dtype.kind not in "fiub" and a.dtype != np.float16:
        return float(np.any(a != b))
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a64)
    if not np.array_equal(a64[~finite], b64[~finite], equal_nan=True):
        return float("inf")
    scale = float(np.max(np.abs(a64[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(a64 - b64), where=finite, initial=0.0)) / scale


def random_feeds(
    inputs: Mapping[str, tuple[str, Sequence[Any]]],
    seed: int = 0,
    side: int = 64,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """Random values for each input; symbolic batch sizes become 1, other symbolic sizes `side`, if not in `sizes`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (kind, shape) in inputs.items():
        dims = [d if isinstance(d, int) and d > 0 else (1 if axis == 0 else side) for axis, d in enumerate(shape)]
        dims = list((sizes or {}).get(name, dims))
        if kind in _KINDS:
            feeds[name] = rng.standard_normal(dims).astype(_KINDS[kind])
        else:
            dtype = kind[7:-1]
            feeds[name] = rng.integers(0, 2 if "int64" in dtype or "int32" in dtype else 127, dims).astype(dtype)
    return feeds
