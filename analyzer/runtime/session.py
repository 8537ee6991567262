"""A session on the provider that was asked for, fed with weights that never went through protobuf."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx

from analyzer.errors import InputError, ProviderError, UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.protos import sort_by_depth
from analyzer.runtime.custom_ops import register
from analyzer.runtime.providers import NAMES, resolve
from analyzer.runtime.threads import plain_options
from analyzer.runtime.weights import handed, held

# Wrong in onnxruntime 1.31: a zero Pad before a MaxPool is folded into its padding of −∞.
DISABLED_OPTIMIZERS = ["Pad_Fusion"]
# onnxruntime sorts a graph anew for most of its passes, at a cost of its nodes times those that could come next. The
# appended gradient has one such node for each of the forward pass, unless nodes come by their depth.
BY_DEPTH = 4096  # nodes from which they do
# The time of these passes grows with the square of the nodes: 5 s at 23,000. The first makes convolutions up to 1.7
# times as quick, so that graphs as large as real models have get it; equal nodes are one node as they are appended.
SLOW_OPTIMIZERS = ["NchwcTransformer", "CommonSubexpressionElimination"]
LARGE = 16384  # nodes from which they are left out, unless a level is asked for
# Kernels copy weights into a form of their own, in every session anew. From this size on a session of the CPU reads
# them where they are mapped: at 2.5 GiB a gradient then takes 0.2 instead of 5.2 GiB and is there after 5 instead of
# 26 s, and each further one takes 1.4 times as long (benchmarks/large.py). One size for every machine, since results
# differ in their last bits.
MAPPED = 1 << 30  # bytes of weights
# A constant larger than this (and than the model itself) is computed at run time: a few bytes of a hostile file
# could otherwise ask for gigabytes while the session is created.
FOLDING_LIMIT = 64 << 20
_PLAN_WEIGHTS = "session.optimized_model_external_initializers_file_name"
LEVELS = ("disable", "basic", "extended", "layout", "all")

Runnable: TypeAlias = Graph | onnx.ModelProto | tuple[onnx.ModelProto, dict[str, np.ndarray]] | str | bytes


class Given(NamedTuple):
    """An input of a session, as onnxruntime describes it."""

    name: str
    type: str
    shape: list[int | str | None]


class Session:
    """An onnxruntime session over a `Graph`, a ModelProto, or a file as it is.

    Args:
        model: the graph with all that was appended to it, a model, or what `Graph.stub` gives; or path or bytes of a
            file that is to run as any other program would run it: every optimizer on, nodes on any provider.
        provider: see `resolve`; the session really uses it, or ProviderError.
        outputs: names of the outputs to keep; all when None.
        threads: intra-operator threads; the runtime's choice when None.
        level: graph optimisation, one of `LEVELS`; when None all that is quick for a graph of that size.
        allow_fallback: let floating-point nodes without a kernel on the provider run on the CPU.
        memory_limit: bytes of GPU memory that the CUDA provider may take.
        plan_file: where the optimised graph is written; its weights go beside it, under this name and `.weights`.
        trace: what the file of onnxruntime's trace begins with; it is written when `end_trace` is called.
        weight_bytes: size of the weights of a file as it is.
        custom_ops: paths of libraries with the custom operators of the model.
        integers: let integer kernels compute what is quantized; otherwise it is rounded and computed in floating point,
            and weights are dequantized once.
    """

    def __init__(
        self,
        model: Runnable,
        provider: str = "cpu",
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        level: str | None = None,
        allow_fallback: bool = False,
        memory_limit: int | None = None,
        plan_file: str | Path | None = None,
        trace: str | Path | None = None,
        weight_bytes: int = 0,
        custom_ops: Sequence[str] = (),
        integers: bool = True,
    ) -> None:
        import onnxruntime as ort

        providers = resolve(provider)
        name, provider_options = providers[0]
        self._device = int(provider_options.get("device_id", 0))
        if memory_limit and not (provider == "auto" and name == NAMES["cpu"]):
            _limit_memory(providers, memory_limit)
        as_it_is = model if isinstance(model, str | bytes) else None
        allow_fallback = allow_fallback or as_it_is is not None
        proto, weights = _parts(model, outputs)
        size = sum(w.nbytes for w in weights.values())
        mapped = level is None and name == NAMES["cpu"] and size >= MAPPED
        # Measured here, because `handed` then writes the place of each weight into the model.
        self.nbytes = weight_bytes + held(proto, weights, packed=not mapped)
        options = _options(ort, threads, level or "all", 4 * weight_bytes + size)
        register(options, custom_ops)
        if not integers:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if plan_file is not None:
            options.optimized_model_filepath = str(plan_file)
            options.add_session_config_entry(_PLAN_WEIGHTS, f"{Path(plan_file).name}.weights")
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(trace)
        if name != NAMES["cpu"]:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        nodes = len(proto.graph.node)
        if nodes >= BY_DEPTH:
            sort_by_depth(proto.graph)
        disabled = DISABLED_OPTIMIZERS if as_it_is is None else []
        if level is None and nodes >= LARGE:
            disabled = [*disabled, *SLOW_OPTIMIZERS]
        if mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
            disabled = [*disabled, "NchwcTransformer"]
        given: AbstractContextManager[tuple[Any, Any]] = nullcontext((as_it_is, {}))
        if as_it_is is None:
            given = handed(proto, weights, options)
        with given as (data, self._keep):
            try:
                self._session = ort.InferenceSession(data, options, providers, disabled_optimizers=disabled)
            except Exception as error:
                raise explain_failure(error, proto.graph.name) from None
        self.provider = self._session.get_providers()[0]
        if self.provider != name:
            raise ProviderError(f"{name} requested, but onnxruntime uses {self.provider}", "run `onnx-analyzer doctor`")
        self.fallbacks = self._fallbacks(proto) if name != NAMES["cpu"] else []
        if self.fallbacks and not allow_fallback:
            raise ProviderError(
                f"{len(self.fallbacks)} floating-point nodes have no kernel for {name} and fall back to the CPU: "
                + ", ".join(self.fallbacks[:5]),
                "pass --allow-fallback to allow this, or use --provider cpu",
            )
        self.inputs = {i.name: Given(i.name, i.type, i.shape or []) for i in self._session.get_inputs()}
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """One forward: {output: array}. Only the named outputs (all when None) are computed for and copied out.

        Raises:
            InputError: an input is missing, unknown, or of another shape or type than the model's.
            ProviderError: the runtime failed.
        """
        names = list(outputs) if outputs is not None else self.outputs
        values = self._checked(feeds)
        try:
            if self.provider == NAMES["cpu"]:
                return dict(zip(names, self._session.run(names, values), strict=True))
            return self._run_bound(values, names)
        except Exception as error:
            raise ProviderError(f"onnxruntime failed while running: {_one_line(error)}") from None

    def _run_bound(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs stay on the device until all of them are there."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            on_device = self.provider == NAMES["cuda"]
            binding.bind_output(name, "cuda" if on_device else "cpu", self._device if on_device else 0)
        self._session.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def _checked(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        unknown = [n for n in feeds if n not in self.inputs]
        missing = [n for n in self.inputs if n not in feeds]
        if unknown or missing:
            parts = [f"no input {n!r}" for n in unknown] + [f"missing input {n!r}" for n in missing]
            raise InputError("; ".join(parts) + f"; the model's inputs are {', '.join(map(repr, self.inputs))}")
        return {name: check_array(np.asarray(array), self.inputs[name]) for name, array in feeds.items()}

    def _fallbacks(self, proto: onnx.ModelProto) -> list[str]:
        """Names of floating-point compute nodes that run on the CPU although another provider was asked for."""
        try:
            assigned = self._session.get_provider_graph_assignment_info()
        except Exception:
            return []
        on_cpu = {n.name for part in assigned if part.ep_name == NAMES["cpu"] for n in part.get_nodes()}
        floats = _float_outputs(proto)
        return [n.name for n in proto.graph.node if n.name in on_cpu and any(o in floats for o in n.output)]

    def end_trace(self) -> str:
        """Ends the trace; its file."""
        return str(self._session.end_profiling())


def _parts(model: Runnable, outputs: Sequence[str] | None) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model and the weights beside it; of a file as it is neither."""
    if isinstance(model, Graph):
        return model.stub(outputs)
    if isinstance(model, tuple):
        return model
    return (onnx.ModelProto() if isinstance(model, str | bytes) else model), {}


def _limit_memory(providers: Sequence[tuple[str, dict[str, Any]]], limit: int) -> None:
    options = dict(providers).get(NAMES["cuda"])
    if options is None:
        raise InputError(f"{providers[0][0]} has no memory limit", "the limit requires --provider cuda")
    options["gpu_mem_limit"] = limit


def _options(ort: Any, threads: int | None, level: str, weight_bytes: int) -> Any:
    if level not in LEVELS:
        raise InputError(f"no optimization level {level!r}", f"choose one of {', '.join(LEVELS)}")
    options = plain_options(threads)
    options.graph_optimization_level = {
        "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "layout": getattr(ort.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT", ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[level]
    limit = max(FOLDING_LIMIT, weight_bytes)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(limit))
    return options


_TYPES = {"float": "float32", "double": "float64"} | {
    name: name for name in ("float16", "uint8", "int8", "int64", "int32", "bool")
}
_KINDS = {f"tensor({name})": np.dtype(kind) for name, kind in _TYPES.items()}


def check_array(array: np.ndarray, given: Given) -> np.ndarray:
    """`array` if it fits the input `given`; a floating-point array is cast to the input's floating-point type."""
    kind = _KINDS.get(given.type)
    if kind is not None and array.dtype != kind:
        if not (kind.kind == "f" and array.dtype.kind == "f"):
            raise InputError(f"input {given.name!r} takes {kind}, not {array.dtype}")
        array = array.astype(kind)
    shape = given.shape
    if tuple(shape) == array.shape:
        return array
    wrong = len(shape) != array.ndim or any(
        isinstance(d, int) and d > 0 and d != size for d, size in zip(shape, array.shape, strict=False)
    )
    if wrong and (shape or array.ndim):
        text = ", ".join(str(d) if d else "?" for d in shape)
        raise InputError(f"input {given.name!r} takes shape [{text}], not {list(array.shape)}")
    return array


def explain_failure(error: Exception, name: str) -> Exception:
    """What onnxruntime says when it cannot create a session, as one of our errors."""
    text = _one_line(error)
    unknown = re.search(r"([\w.:]+)\(-?\d+\) is not a registered function/op", text)
    if unknown:
        return UnsupportedError(
            f"{name}: onnxruntime has no operator {unknown[1]}",
            "give the library of its custom operators (--custom-ops LIBRARY, in Python custom_ops=), "
            "or export with standard operators",
        )
    if "NOT_IMPLEMENTED" in text or "NotImplemented" in type(error).__name__:
        return UnsupportedError(f"{name}: onnxruntime has no kernel for a node: {text}")
    return UnsupportedError(f"{name}: onnxruntime cannot load the model: {text}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : ", "", text)
    text = re.sub(r"/\S*onnxruntime\S* ", "", text)
    return text[:500]


def _float_outputs(proto: onnx.ModelProto) -> set[str]:
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    return {
        v.name
        for v in [*proto.graph.value_info, *proto.graph.output]
        if v.type.tensor_type.elem_type in floats and len(v.type.tensor_type.shape.dim) > 1
    }
