"""A rewrite's receipt: the largest difference between the outputs before and after it, on random input."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyzer.graph import Graph
from analyzer.runtime.session import Session

_KINDS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def receipt(before: Any, after: Graph, provider: str = "cpu", seed: int = 0, as_it_is: bool = False) -> float:
    """max |before(x) − after(x)| / max |before(x)| over the outputs of `before`, for one random x.

    Args:
        before: path or bytes of the model as it came.
        after: the graph made from it, with whatever was appended.
        as_it_is: run `before` with every optimizer on, those that we leave out included.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    disabled = [] if as_it_is else ["Pad_Fusion"]
    original = ort.InferenceSession(before, options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
    names = [o.name for o in original.get_outputs()]
    feeds = random_feeds({i.name: (i.type, i.shape) for i in original.get_inputs()}, seed)
    expected = original.run(names, feeds)
    found = Session(after, provider, outputs=names).run(feeds, names)
    return max((relative(np.asarray(a), found[n]) for n, a in zip(names, expected, strict=True)), default=0.0)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b| / max |a|."""
    if not a.size:
        return 0.0
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.max(np.abs(a64))) or 1.0
    return float(np.max(np.abs(a64 - b64))) / scale


def random_feeds(inputs: dict[str, tuple[str, list]], seed: int = 0, side: int = 64) -> dict[str, np.ndarray]:
    """Random values for each input; symbolic batch sizes become 1, other symbolic sizes `side`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (kind, shape) in inputs.items():
        dims = [d if isinstance(d, int) and d > 0 else (1 if axis == 0 else side) for axis, d in enumerate(shape)]
        if kind in _KINDS:
            feeds[name] = rng.standard_normal(dims).astype(_KINDS[kind])
        else:
            dtype = kind[7:-1].replace("bool", "bool")
            feeds[name] = rng.integers(0, 2 if "int64" in dtype or "int32" in dtype else 127, dims).astype(dtype)
    return feeds
