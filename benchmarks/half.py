"""Gradients of files in half precision beside those of their float32 twins: every network of the corpus, every case.

    python -m benchmarks.half [--networks | --cases] [NAME …]

Each float32 network of the corpus, and each of onnx's backend cases with a derivative, is made half precision by four
converters. The twin of a converted file is that file with every float16 tensor, attribute and Cast made float32, its
weights being those that float16 has; both are fed the same inputs, rounded to float16, and the same cotangents.

- distance: ‖g − g_twin‖ / ‖g_twin‖, of each input the gradient is taken of; the largest counts.
- noise: the same distance for the twin with every tensor that is float16 in the converted file multiplied by
  1 + 2⁻¹¹ u, u uniform in [−1, 1] and drawn for each element; the largest of five draws. That is the error of one
  rounding to float16, made at the same places.
- crashed: the child process that made the comparison died.
- agrees: distance ≤ 3 noise + 2⁻⁹ (what the rounding of one factor and of the result come to).

Needs the corpus beside the checkout, and onnxconverter-common.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.graph.protos import captured, replace_all
from analyzer.runtime import Session

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
DRAWS, FACTOR, FLOOR = 5, 3.0, 2.0**-9
SLOW_IMPORTS = ("onnxconverter_common.float16", "onnxruntime.transformers.optimizer", "analyzer.gradient.rules")
PATIENCE = 600  # seconds for one comparison
SMALLEST, LARGEST = 2.0**-14, 65504.0  # of the normal numbers of float16
Arrays = dict[str, np.ndarray]


# ---- Converters ----


def _common(model: onnx.ModelProto, keep: bool) -> onnx.ModelProto:
    from onnxconverter_common import float16

    return float16.convert_float_to_float16(model, keep_io_types=keep)


def _transformers(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers import float16

    return float16.convert_float_to_float16(model, keep_io_types=True)


def _optimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, path := str(Path(folder) / "model.onnx"))
        made = optimizer.optimize_model(path, model_type="vit", num_heads=0, hidden_size=0, opt_level=1)
        made.convert_float_to_float16(keep_io_types=False, use_symbolic_shape_infer=False)
        return made.model


CONVERTERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxconverter_common": lambda model: _common(model, keep=False),
    "…, keep_io_types": lambda model: _common(model, keep=True),
    "onnxruntime.transformers.float16": _transformers,
    "onnxruntime.transformers.optimizer": _optimizer,
}


# ---- The twin, and what rounding does to it ----


def twin(half: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float16 tensor made float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(half)
    _widen(wide.graph)
    return wide


def _widen(graph: onnx.GraphProto) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type", "softmax_precision") and attribute.i == HALF:
                attribute.i = FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _widen(body)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def halves(half: onnx.ModelProto, wrt: list[str]) -> set[str]:
    """The names of the float16 tensors that depend on `wrt`."""
    bare = onnx.ModelProto()
    bare.CopyFrom(half)
    del bare.graph.value_info[:]  # converters leave types there that hold no longer
    inferred = onnx.shape_inference.infer_shapes(bare).graph
    depending = set(wrt)
    for node in half.graph.node:
        if not depending.isdisjoint(node.input):
            depending.update(node.output)
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {v.name for v in values if v.type.tensor_type.elem_type == HALF} & depending


def shaken(wide: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """The twin with each of the tensors multiplied by 1 + 2⁻¹¹ u, drawn anew at every run."""
    model = onnx.ModelProto()
    model.CopyFrom(wide)
    graph = model.graph
    outputs = {o.name for o in graph.output}
    moved: list[onnx.NodeProto] = []

    def shake(name: str, result: str) -> None:
        seed = float(len(moved))
        moved.append(helper.make_node("RandomUniformLike", [name], [f"{result}/u"], low=-1.0, high=1.0, seed=seed))
        moved.append(helper.make_node("Mul", [f"{result}/u", "half/step"], [f"{result}/e"]))
        moved.append(helper.make_node("Add", [f"{result}/e", "half/one"], [f"{result}/f"]))
        moved.append(helper.make_node("Mul", [name, f"{result}/f"], [result]))

    renamed = {i.name: f"{i.name}/shaken" for i in graph.input if i.name in names}
    for name, result in renamed.items():
        shake(name, result)
    nodes = list(graph.node)
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        _rename_in_bodies(node, renamed)
        moved.append(node)
        for index, name in enumerate(node.output):
            if name in names and name not in outputs:
                node.output[index] = f"{name}/exact"
                shake(node.output[index], name)
    del graph.node[:]
    graph.node.extend(moved)
    graph.initializer.append(numpy_helper.from_array(np.float32(2.0**-11), "half/step"))
    graph.initializer.append(numpy_helper.from_array(np.float32(1), "half/one"))
    return model


def _rename_in_bodies(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else []:
            for index, name in enumerate(inner.input):
                inner.input[index] = renamed.get(name, name)
            _rename_in_bodies(inner, renamed)


# ---- One comparison ----


@dataclass(frozen=True)
class Task:
    """A float32 model, what it is fed, and the inputs and outputs whose gradient is compared."""

    name: str
    model: onnx.ModelProto
    feeds: Arrays
    wrt: list[str]


@dataclass(frozen=True)
class Found:
    """What came of it: an outcome, its reason, and the figures."""

    outcome: str
    why: str = ""
    distance: float = float("nan")
    noise: float = float("nan")


def gradients(
    model: onnx.ModelProto, outputs: list[str], wrt: list[str], feeds: Arrays, seeds: Arrays, runs: int = 1
) -> list[Arrays]:
    """The gradient of Σ ⟨ȳ, y⟩ with respect to each of `wrt`, and the outputs, in float64, of each run."""
    made = append_vjp(model, outputs, wrt)
    session = Session(made.model, threads=1)
    given = {**feeds, **{made.cotangents[n]: seeds[n] for n in outputs}}
    given = {n: a.astype(_type(session, n)) if a.dtype.kind == "f" else a for n, a in given.items()}
    renamed = {**{made.gradients[n]: f"gradient/{n}" for n in wrt}, **{n: n for n in outputs}}
    found = [session.run(given, list(renamed)) for _ in range(runs)]
    return [{renamed[n]: np.asarray(a, np.float64) for n, a in f.items()} for f in found]


def _type(session: Session, name: str) -> Any:
    return np.float16 if "float16" in session.inputs[name].type else np.float32


def distance(found: Arrays, reference: Arrays, wrt: list[str]) -> float:
    """‖g − g_twin‖ / ‖g_twin‖, the largest over `wrt`."""
    largest = 0.0
    for name in wrt:
        g, t = found[f"gradient/{name}"], reference[f"gradient/{name}"]
        size = float(np.linalg.norm(t))
        gap = float(np.linalg.norm(g - t))
        largest = max(largest, gap / size if size else float(gap > 0))
    return largest


def converted(task: Task, converter: str) -> onnx.ModelProto | Found:
    """The model in half precision, which stock onnxruntime takes; why there is none."""
    given = onnx.ModelProto()
    given.CopyFrom(task.model)
    try:
        with _quietly():
            half = CONVERTERS[converter](given)
            _check_runs(half, task.feeds)
            _sort(half.graph)
    except Exception as error:
        return Found("not converted", _short(error))
    return half


def compare(task: Task, half: onnx.ModelProto) -> Found:
    """Compares the gradient of a converted model with that of its twin."""
    names = halves(half, task.wrt)
    if not names:
        return Found("not converted", "nothing that depends on the inputs is float16 in the result")
    wide = twin(half)
    feeds = {n: a.astype(np.float16).astype(np.float32) if a.dtype.kind == "f" else a for n, a in task.feeds.items()}
    floats = (HALF, FLOAT)
    outputs = list(dict.fromkeys(o.name for o in half.graph.output if o.type.tensor_type.elem_type in floats))
    rng = np.random.default_rng(1)
    try:
        shapes = {n: a.shape for n, a in Session(wide, threads=1).run(feeds, outputs).items()}
        seeds = {n: rng.standard_normal(s).astype(np.float16).astype(np.float32) for n, s in shapes.items()}
        (reference,) = gradients(wide, outputs, task.wrt, feeds, seeds)
        (found,) = gradients(half, outputs, task.wrt, feeds, seeds)
    except UnsupportedError as error:
        return Found("refused", _short(error))
    except AnalyzerError as error:
        return Found("differs", _short(error))
    if not all(np.isfinite(a).all() for a in reference.values()):
        return Found("not comparable", "the twin itself is not finite")
    if not all(np.isfinite(found[n]).all() for n in outputs):
        return Found("out of range", "the forward overflows float16")
    kinds = {i.name: i.type.tensor_type.elem_type for i in half.graph.input}
    for name in task.wrt:
        largest = np.abs(reference[f"gradient/{name}"]).max(initial=0)
        if kinds[name] == HALF and largest and not SMALLEST <= largest <= LARGEST:
            return Found("out of range", f"the gradient reaches {largest:.1g}, and is to be given in float16")
    if not all(np.isfinite(a).all() for a in found.values()):
        return Found("differs", "not finite")
    try:
        shakes = gradients(shaken(wide, names), outputs, task.wrt, feeds, seeds, DRAWS)
    except UnsupportedError:
        shakes = []  # the runtime has no RandomUniformLike of the file's opset: no noise is allowed for
    noise = max((distance(s, reference, task.wrt) for s in shakes), default=0.0)
    gap = distance(found, reference, task.wrt)
    return Found("agrees" if gap <= FACTOR * noise + FLOOR else "differs", "", gap, noise)


def _answer(pipe: Connection, task: Task, converter: str) -> None:
    """Sends the model once it is converted, in a word, and then what came of it."""
    half = converted(task, converter)
    if isinstance(half, onnx.ModelProto):
        pipe.send("converted")
        try:
            half = compare(task, half)
        except Exception as error:
            half = Found("differs", _short(error))
    pipe.send(half)


def isolated(task: Task, converter: str) -> Found:
    """`compare` in a child process: a converter, or onnxruntime on what it wrote, may crash."""
    context = multiprocessing.get_context("fork")
    pipe, other = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(other, task, converter), daemon=True)
    child.start()
    other.close()
    by = f"{converter}, or onnxruntime on its file"
    try:
        while pipe.poll(PATIENCE):
            found = pipe.recv()
            if isinstance(found, Found):
                return found
            by = "the gradient"
        return Found("crashed", f"{by}: not done after {PATIENCE} s")
    except EOFError:
        child.join()
        return Found("crashed", f"{by}: exit code {child.exitcode}")
    finally:
        child.kill()
        child.join()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _sort(graph: onnx.GraphProto) -> None:
    """Puts each node behind those that it reads; converters append casts of inputs at the end."""
    made = {o for n in graph.node for o in n.output if o}
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        later = []
        for node in waiting:
            if made.isdisjoint({*node.input, *captured(node)}):
                made.difference_update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError("the nodes form a circle")
        waiting = later
    replace_all(graph.node, ordered)


def _check_runs(half: onnx.ModelProto, feeds: Arrays) -> None:
    """Whether stock onnxruntime takes the converted file."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(half.SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = {i.name: i.type for i in session.get_inputs()}
    session.run(None, {n: a.astype(np.float16) if "float16" in kinds[n] else a for n, a in feeds.items()})


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


# ---- What is compared ----


def networks(names: list[str]) -> Iterator[Task]:
    """The networks of the corpus with float32 inputs and results and no quantised part, fed noise in [0, 1)."""
    for path in sorted([*(CORPUS / "models").glob("*.onnx"), *(CORPUS / "exports").glob("*.onnx")]):
        if names and path.stem not in names:
            continue
        model = onnx.load(path)
        weights = {w.name for w in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in weights]
        if len(inputs) < len(model.graph.input):  # before IR 4 weights were listed as inputs; converters fail there
            del model.graph.input[:]
            model.graph.input.extend(inputs)
            model.ir_version = max(model.ir_version, 4)
        wrt = [i.name for i in inputs if i.type.tensor_type.elem_type == FLOAT]
        quantised = any("Quantize" in n.op_type or n.op_type.startswith("QLinear") for n in model.graph.node)
        if wrt and not quantised and any(o.type.tensor_type.elem_type == FLOAT for o in model.graph.output):
            about = path.with_suffix(".json")
            size = json.loads(about.read_text())["resolution"] if about.exists() else 224
            yield Task(path.stem, model, _noise(inputs, size), wrt)


def _noise(inputs: list[onnx.ValueInfoProto], size: int) -> Arrays:
    """Numbers in [0, 1); `size` where the file leaves one open, one picture."""
    rng, feeds = np.random.default_rng(0), {}
    for value in inputs:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        open_sizes = [1, *[3 if d == 1 and len(dims) == 4 else size for d in range(1, len(dims))]]
        shape = [d or s for d, s in zip(dims, open_sizes, strict=True)]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = rng.uniform(0, 1, shape).astype(kind)
    return feeds


def cases(names: list[str]) -> Iterator[Task]:
    """The backend cases in float32."""
    from tests import backend_nodes

    for op, found in sorted(backend_nodes.cases().items()):
        for case in found:
            if names and case.name not in names and op not in names:
                continue
            if all(case.feeds[n].dtype == np.float32 for n in case.wrt):
                kept = {o.name: o for o in case.model.graph.output}
                if all(kept[n].type.tensor_type.elem_type == FLOAT for n in case.outputs):
                    yield Task(case.name, case.model, case.feeds, case.wrt)


# ---- The table ----

OUTCOMES = ("agrees", "refused", "out of range", "not comparable", "not converted", "crashed", "differs")


def report(title: str, tasks: Iterator[Task]) -> None:
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in CONVERTERS}
    noises: dict[str, list[Found]] = {name: [] for name in CONVERTERS}
    for task in tasks:
        for name in CONVERTERS:
            found = isolated(task, name)
            counts[name][found.outcome] += 1
            noises[name].append(found)
            if found.outcome != "agrees":
                figures = "" if np.isnan(found.distance) else f"distance {found.distance:.2g}, noise {found.noise:.2g}"
                print(f"{found.outcome}: {task.name} ({name}) {found.why}{figures}", file=sys.stderr, flush=True)
    print(f"| {title} | " + " | ".join(OUTCOMES) + " | median noise | median distance |")
    print("|---" * (len(OUTCOMES) + 3) + "|")
    for name, counter in counts.items():
        known = [f for f in noises[name] if not np.isnan(f.distance)]
        middle = [f"{np.median([getattr(f, k) for f in known]):.1e}" if known else "–" for k in ("noise", "distance")]
        print(f"| {name} | " + " | ".join(str(counter[o]) for o in OUTCOMES) + f" | {' | '.join(middle)} |", flush=True)


def _smallest() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, FLOAT, [1, 2]) for name in "xy")
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [x], [y]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks, cases or operators; all without any")
    parser.add_argument("--networks", action="store_true", help="only the networks")
    parser.add_argument("--cases", action="store_true", help="only the backend cases")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for module in SLOW_IMPORTS:  # once, not in every child
        importlib.import_module(module)
    append_vjp(_smallest(), ["y"], ["x"])
    if not options.cases:
        report("networks", networks(options.names))
    if not options.networks:
        report("backend cases", cases(options.names))


if __name__ == "__main__":
    main()
