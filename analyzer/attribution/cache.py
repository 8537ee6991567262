"""Rewritten graphs kept between processes: a model's normal form, and that with a method appended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from analyzer.attribution.registry import find_method
from analyzer.attribution.targets import Scores
from analyzer.graph import Source, loose
from analyzer.store import Cache, code_stamp, key_of, packed, unpacked

if TYPE_CHECKING:
    from analyzer.attribution.engine import Compiled

PROTO, ABOUT = "proto", "about"


class GraphCache:
    """The cache as one model sees it. Its weights stay in its file; only those that a rewrite made are kept.

    Models without a content hash (given as ModelProto) and models with external data are not kept.
    """

    def __init__(self, cache: Cache, loaded: Source) -> None:
        self.cache, self.loaded = cache, loaded
        external = any(isinstance(w, np.memmap) for w in loaded.weights.values())
        self.known = bool(loaded.sha256) and not external

    def source(self, key: Any) -> Source | None:
        """The normal form for input shapes, or None."""
        found = self._get("source", key)
        if found is None:
            return None
        return replace(self.loaded, proto=_proto(found), weights=self._weights(found, unpacked(found[ABOUT])))

    def keep_source(self, key: Any, source: Source) -> None:
        self._put("source", key, source.proto, source.weights, {})

    def compiled(self, key: tuple[Any, ...]) -> Compiled | None:
        """A method over the model, ready for a session, or None."""
        from analyzer.attribution.engine import Compiled

        found = self._get("compiled", key)
        if found is None:
            return None
        about = unpacked(found[ABOUT])
        scores = about["scores"]
        output, logits = (loose(*scores[name]) for name in ("output", "logits"))
        return Compiled(
            None,
            find_method(about["method"], {}),
            about["layer"],
            [(a, b, c) for a, b, c in about["slots"]],
            Scores(output, logits, tuple(scores["stripped"]), scores["batched"], tuple(scores["space"])),
            about["outputs"],
            about["target_inputs"],
            about["details"],
            stub=(_proto(found), self._weights(found, about)),
        )

    def keep_compiled(self, key: tuple[Any, ...], done: Compiled) -> None:
        assert done.stub is not None
        scores = done.scores
        about = {
            "method": done.method.name,
            "layer": done.layer,
            "slots": done.slots,
            "outputs": done.outputs,
            "target_inputs": done.target_inputs,
            "details": done.details,
            "scores": {
                "output": [scores.output.name, scores.output.shape],
                "logits": [scores.logits.name, scores.logits.shape],
                "stripped": scores.stripped,
                "batched": scores.batched,
                "space": scores.space,
            },
        }
        self._put("compiled", key, *done.stub, about)

    def _key(self, kind: str, key: Any) -> str:
        return key_of(kind, self.loaded.sha256, onnx.__version__, code_stamp(), repr(key))

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
