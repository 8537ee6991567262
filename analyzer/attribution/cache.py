"""Rewritten graphs kept between processes: a model's normal form, and that with a method appended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from analyzer.graph import Source
from analyzer.store import Cache, key_of, packed, unpacked

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
        return replace(self.loaded, proto=_proto(found), detached=self._weights(found, unpacked(found[ABOUT])))

    def keep_source(self, key: Any, source: Source) -> None:
        self._put("source", key, source.proto, source.detached, {})

    def compiled(self, key: Any) -> tuple[dict[str, Any], Stub] | None:
        """What was kept beside the stub of a graph with methods appended, and the stub, or None."""
        found = self._get("compiled", key)
        if found is None:
            return None
        about = unpacked(found[ABOUT])
        return about, (_proto(found), self._weights(found, about))

    def keep_compiled(self, key: Any, about: dict[str, Any], stub: Stub) -> None:
        self._put("compiled", key, *stub, about)

    def noted(self, key: Any) -> Any:
        """Plain data that was kept under `key`, or None."""
        found = self._get("note", key)
        return None if found is None else unpacked(found[ABOUT])

    def note(self, key: Any, data: Any) -> None:
        if self.known:
            self.cache.put(self._key("note", key), {ABOUT: packed(data)})

    def _key(self, kind: str, key: Any) -> str:
        return key_of(kind, self.loaded.identity, onnx.__version__, np.__version__, repr(key))

    def _get(self, kind: str, key: Any) -> dict[str, np.ndarray] | None:
        return self.cache.get(self._key(kind, key)) if self.known else None

    def _put(
        self, kind: str, key: Any, proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], about: dict[str, Any]
    ) -> None:
        if not self.known:
            return
        own = {n: w for n, w in weights.items() if self.loaded.detached.get(n) is not w}
        if any(w.dtype.kind not in "biufc" for w in own.values()):  # bfloat16 and the like
            return
        about = about | {"weights": list(weights), "own": list(own)}
        arrays = {PROTO: np.frombuffer(proto.SerializeToString(), np.uint8), ABOUT: packed(about)}
        self.cache.put(self._key(kind, key), arrays | {f"w{i}": w for i, w in enumerate(own.values())})

    def _weights(self, found: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, np.ndarray]:
        own = {name: found[f"w{i}"] for i, name in enumerate(about["own"])}
        return {name: own[name] if name in own else self.loaded.detached[name] for name in about["weights"]}


def _proto(found: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(found[PROTO].tobytes())
