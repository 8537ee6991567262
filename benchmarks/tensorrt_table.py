"""Which nodes TensorRT's ONNX parser takes, without a GPU: the table behind `plan --provider tensorrt`.

    pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
    python -m benchmarks.tensorrt_table [--models FILE.onnx … [--runtime tensorrt] [--build]]

TensorRT itself cannot be had from PyPI. TensorRT-RTX can, and its parser, of the same source, works on a machine
without a GPU. It is asked for every node of the operator samples of the tests and of their gradients by itself, in
float32, float16 and float64, with integer inputs as constants and as inputs, and for those that the methods append to
the demo models. Writes
analyzer/runtime/kernels/tensorrt.json; with --models, prints what is not taken of the methods' graphs, and how much of
that the model itself brings; --build also builds the engine where all is taken.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from analyzer.runtime.kernel_table import SKIPPED, constant_names, float_types, form
from benchmarks.kernel_table import METHODS, NAMES, ROOT, TYPES, Counts, samples, summary

TABLE = ROOT / "analyzer" / "runtime" / "kernels" / "tensorrt.json"
# TensorRT computes these by plugins, which TensorRT-RTX comes without: docs/operators.md and docs/Changelog.md of
# onnx-tensorrt 10.15 list them as supported.
PLUGINS = frozenset({"DeformConv", "NonZero", "RoiAlign", "ScatterElements"})


class Parser:
    """TensorRT-RTX's, over networks that are never run."""

    def __init__(self) -> None:
        try:
            import tensorrt_rtx_bindings as trt
        except ImportError:
            raise SystemExit("pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings") from None

        class Silent(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                pass

        self.trt, self.log = trt, Silent()
        self.builder = trt.Builder(self.log)

    def refusals(self, model: onnx.ModelProto) -> list[str]:
        """Why nodes of the model are not taken, at least one of them; empty where all are."""
        network = self.builder.create_network(0)  # not kept by the parser
        parser = self.trt.OnnxParser(network, self.log)
        if parser.supports_model_v2(model.SerializeToString()):
            return []
        return [parser.get_error(i).desc() for i in range(parser.num_errors)] or ["no reason given"]

    def builds(self, model: onnx.ModelProto) -> bool:
        """Whether an engine can be built of it, for a GPU of compute capability 8.6."""
        network = self.builder.create_network(0)
        parser = self.trt.OnnxParser(network, self.log)  # holds the weights that the network reads
        if not parser.parse(model.SerializeToString()):
            return False
        settings = self.builder.create_builder_config()
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(self.trt.ComputeCapability.SM86, 0)
        return self.builder.build_serialized_network(network, settings) is not None


def singles(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Each node of the model as a model: what it reads becomes inputs, but for constants."""
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = {v.name: v for v in [*known.value_info, *known.output, *known.input]}
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        read, written = [n for n in dict.fromkeys(node.input) if n], [n for n in node.output if n]
        if all(n in constants or n in values for n in read) and all(n in values for n in written):
            graph = helper.make_graph(
                [node],
                node.op_type,
                [values[n] for n in read if n not in constants],
                [values[n] for n in written],
                [constants[n] for n in read if n in constants],
            )
            yield helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def graphs() -> Iterator[onnx.ModelProto]:
    """The samples and their gradients in every type, and the methods over the demo models."""
    for sample in samples():
        yield from _sampled(sample)
    for path, method in itertools.product(sorted((ROOT / "models").glob("*.onnx")), METHODS):
        yield compiled(str(path), method)[1]


def compiled(path: str, method: str, runtime: str = "onnxruntime") -> tuple[set[str], onnx.ModelProto]:
    """The names of the model's own nodes, and the model with the method appended and its weights inside."""
    from analyzer.attribution.compiler import compile_question
    from analyzer.attribution.model import Model
    from analyzer.attribution.question import Job, Question
    from analyzer.graph.query import single_batch

    explained = Model(path)
    question = Question((Job(method),), runtime=runtime)
    found = compile_question(explained, question, shapes=single_batch(explained.plain.inputs))[0]
    assert found.graph is not None
    proto, weights = found.graph.stub(found.names)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    return {n.name for n in explained.plain.stub()[0].graph.node}, proto


def _sampled(sample: Any) -> Iterator[onnx.ModelProto]:
    from analyzer import append_vjp
    from tests.rule_checks import build

    for dtype, baked in itertools.product(TYPES, (False, True)):
        try:
            model = build(sample, dtype, baked=baked)
            yield model
            wrt = [n for n in model.graph.input if n.type.tensor_type.elem_type in NAMES]
            if sample.targets and wrt:
                yield append_vjp(model, [model.graph.output[0].name], [wrt[0].name]).model
        except Exception:  # no such kernel on the CPU either, or no gradient
            continue


def ask(parser: Parser) -> Counts:
    """How often each form of each operator was taken and not; both where TensorRT has a plugin for it."""
    counts: Counts = defaultdict(lambda: defaultdict(Counter))
    asked: set[bytes] = set()
    for single in (single for graph in graphs() for single in singles(graph)):
        node, kinds, text = single.graph.node[0], float_types(single), single.SerializeToString()
        kind = next((kinds[n] for n in [*node.output, *node.input] if n in kinds), None)
        if kind and not node.domain and node.op_type not in SKIPPED and _is_fixed(single) and text not in asked:
            asked.add(text)
            taken = not parser.refusals(single)
            counts[node.op_type][form(node, constant_names(single)), kind].update(
                {taken, taken or node.op_type in PLUGINS}
            )
    return counts


def _is_fixed(model: onnx.ModelProto) -> bool:
    """Whether all sizes are known, as what computes them is not there, and the first input is more than a vector."""
    kinds = [v.type.tensor_type for v in model.graph.input]
    known = all(k.HasField("shape") and all(d.HasField("dim_value") for d in k.shape.dim) for k in kinds)
    return known and all(len(k.shape.dim) > 1 for k in kinds[:1] if k.elem_type in NAMES)


def refused(parser: Parser, model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes that are not taken by themselves, and why the rest, with what they give as inputs, is not, if so."""
    if not parser.refusals(model):
        return [], []
    found = [single.graph.node[0] for single in singles(model) if parser.refusals(single)]
    rest = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = {v.name: v for v in [*rest.graph.value_info, *rest.graph.output]}
    given = {name for node in found for name in node.output if name}
    for node in [n for n in rest.graph.node if given & set(n.output)]:
        rest.graph.node.remove(node)
    rest.graph.input.extend(values[name] for name in sorted(given))
    return found, parser.refusals(rest)


def models(parser: Parser, paths: list[str], runtime: str, build: bool) -> None:
    """Prints what is not taken, per model and method."""
    from analyzer.errors import AnalyzerError

    for path, method in itertools.product(paths, METHODS):
        try:
            own, model = compiled(path, method, runtime)
        except AnalyzerError as error:
            print(f"{Path(path).name}: {method}: not available: {error.message}")
            continue
        found, rest = refused(parser, model)
        ours = Counter(form(n, constant_names(model)) for n in found if n.name not in own)
        told = ", ".join(f"{op} ({n}×)" for op, n in ours.items()) or "nothing"
        told += f"; of the model itself {len(found) - ours.total()}" if len(found) > ours.total() else ""
        told += f"; the rest is refused: {' '.join(rest[0].split())[:100]}" if rest else ""
        if build and not found and not rest:
            told += f"; an engine {'was' if parser.builds(model) else 'could not be'} built"
        print(f"{Path(path).name}: {method}: not taken of the appended nodes: {told}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", nargs="+", help="Only say what of these is not taken.")
    arguments.add_argument("--runtime", default="onnxruntime", help="As `export --runtime` has it, with --models.")
    arguments.add_argument("--build", action="store_true", help="Build the engine where all is taken.")
    given = arguments.parse_args()
    parser = Parser()
    if given.models:
        models(parser, given.models, given.runtime, given.build)
        return
    about = {
        "runtime": f"the parser of TensorRT-RTX {parser.trt.__version__}",
        "provider": "TensorrtExecutionProvider",
        "fall": "CUDA or the CPU",
        "opset": 21,
        "source": "asked without a GPU; what TensorRT has plugins for, from docs/operators.md of onnx-tensorrt 10.15",
    }
    counts = ask(parser)
    TABLE.write_text(json.dumps(about | summary(counts), indent=1) + "\n")
    print(f"{len(counts)} operators: {TABLE}")


if __name__ == "__main__":
    main()
