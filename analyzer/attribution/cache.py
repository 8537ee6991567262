"""Rewritten graphs kept between processes: a model's normal form, and that with a method appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from analyzer.attribution.registry import find_method
from analyzer.attribution.targets import Scores
from analyzer.graph import Source, loose
from analyzer.store import Cache, key_of, packed, unpacked

if TYPE_CHECKING:
    from analyzer.attribution.engine import Compiled

PROTO, ABOUT = "proto", "about"
Stub = tuple[onnx.ModelProto, dict[str, np.ndarray]]  # as `Graph.stub` gives it


class GraphCache:
    """The cache as one model sees it. Its weights stay in its file; only those that a rewrite made are kept.

    Models without a content hash (given as ModelProto) and those with weights mapped from other files are not kept:
    hashing these would take longer than rewriting the graph.
    """

    def __init__(self, cache: Cache, loaded: Source) -> None:
        self.cache, self.loaded = cache, loaded
        self.known = bool(loaded.sha256) and not loaded.mapped

    def source(self, key: Any) -> Source | None:
        """The normal form for input shapes, or None."""
        found = self._get("source", key)
        if found is None:
            return None
        return replace(self.loaded, proto=_proto(found), weights=self._weights(found, unpacked(found[ABOUT])))

    def keep_source(self, key: Any, source: Source) -> None:
        self._put("source", key, source.proto, source.weights, {})

    def compiled(self, key: Any) -> tuple[list[Compiled], Stub] | None:
        """Methods over the model, and the stub of their graph, or None."""
        from analyzer.attribution.engine import Compiled

        found = self._get("compiled", key)
        if found is None:
            return None
        about = unpacked(found[ABOUT])
        known = about["scores"]
        output, logits = (loose(*known[name]) for name in ("output", "logits"))
        scores = Scores(output, logits, tuple(known["stripped"]), known["batched"], tuple(known["space"]))
        done = [
            Compiled(
                None,
                find_method(one["method"], {}),
                one["layer"],
                [(a, b, c) for a, b, c in one["slots"]],
                scores,
                about["outputs"],
                about["target_inputs"],
                one["details"],
            )
            for one in about["methods"]
        ]
        return done, (_proto(found), self._weights(found, about))

    def keep_compiled(self, key: Any, done: Sequence[Compiled], stub: Stub) -> None:
        first, scores = done[0], done[0].scores
        about = {
            "methods": [
                {"method": one.method.name, "layer": one.layer, "slots": one.slots, "details": one.details}
                for one in done
            ],
            "outputs": first.outputs,
            "target_inputs": first.target_inputs,
            "scores": {
                "output": [scores.output.name, scores.output.shape],
                "logits": [scores.logits.name, scores.logits.shape],
                "stripped": scores.stripped,
                "batched": scores.batched,
                "space": scores.space,
            },
        }
        self._put("compiled", key, *stub, about)

    def _key(self, kind: str, key: Any) -> str:
        return key_of(kind, self.loaded.identity, onnx.__version__, np.__version__, repr(key))

    def _get(self, kind: str, key: Any) -> dict[str, np.ndarray] | None:
        return self.cache.get(self._key(kind, key)) if self.known else None

    def _put(
        self, kind: str, key: Any, proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], about: dict[str, Any]
    ) -> None:
        if not self.known:
            return
        own = {n: w for n, w in weights.items() if self.loaded.weights.get(n) is not w}
        if any(w.dtype.kind not in "biufc" for w in own.values()):  # bfloat16 and the like
            return
        about = about | {"weights": list(weights), "own": list(own)}
        arrays = {PROTO: np.frombuffer(proto.SerializeToString(), np.uint8), ABOUT: packed(about)}
        self.cache.put(self._key(kind, key), arrays | {f"w{i}": w for i, w in enumerate(own.values())})

    def _weights(self, found: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, np.ndarray]:
        own = {name: found[f"w{i}"] for i, name in enumerate(about["own"])}
        return {name: own[name] if name in own else self.loaded.weights[name] for name in about["weights"]}


def _proto(found: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(found[PROTO].tobytes())
