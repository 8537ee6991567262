"""What is checked of a rule: its gradient against differences of the primal, evaluated by something else.

The primal is evaluated in float64: by onnxruntime where it has a double kernel, by onnx's reference evaluator
elsewhere; where neither can, by onnxruntime in float32 with a wide step. Tests differentiate the primal; they never
restate a derivative.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
from onnx import helper

from analyzer.gradient import append_vjp
from tests import recurrent_primal
from tests.samples import Sample

# Wrong in onnx.reference 1.23: LRN, MaxPool with padding, grouped ConvTranspose.
NOT_BY_REFERENCE = {"LRN", "MaxPool", "ConvTranspose", "AveragePool", "Resize", "LpPool", "DeformConv"}
NOT_BY_REFERENCE |= {"GlobalLpPool", "MaxRoiPool", "OneHot", "MaxUnpool", "Col2Im", "GridSample"}
IN_FLOAT32 = {"GroupNormalization"}  # in its function body, whatever the type of x
OPTIONS = {"disabled_optimizers": ["Pad_Fusion"]}
_TYPES = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE}


def typed(sample: Sample, dtype: str) -> list[np.ndarray | None]:
    """The sample's arrays with floating-point ones in `dtype`."""
    return [a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in sample.inputs]


def build(sample: Sample, dtype: str, dynamic: bool = False, baked: bool = False) -> onnx.ModelProto:
    """The sample as a model.

    Args:
        dtype: type of the floating-point inputs.
        dynamic: give every dimension of the inputs a symbol instead of its size.
        baked: make integer and boolean inputs initializers; else they are graph inputs.
    """
    arrays = typed(sample, dtype)
    inputs, initializers, names = [], [], []
    for index, array in enumerate(arrays):
        name = "" if array is None else f"x{index}"
        names.append(name)
        if array is None:
            continue
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if index in sample.constant or (baked and array.dtype.kind != "f"):
            initializers.append(onnx.numpy_helper.from_array(array, name))
        else:
            shape = [f"d{index}_{axis}" for axis in range(array.ndim)] if dynamic else list(array.shape)
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
    while not names[-1]:
        names.pop()
    outputs = [f"y{i}" for i in range(sample.outputs)]
    node = helper.make_node(sample.op, names, outputs, name="node", domain=sample.domain, **sample.attrs)
    infos = [helper.make_empty_tensor_value_info(o) for o in outputs]
    graph = helper.make_graph([node], sample.op, inputs, infos, initializers)
    opsets = [helper.make_opsetid("", sample.opset)]
    if sample.domain:
        opsets.append(helper.make_opsetid(sample.domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if sample.opset <= 21 else 13)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for index, output in enumerate(inferred.graph.output):
        kind = output.type.tensor_type
        kind.elem_type = kind.elem_type or _TYPES[dtype]
        if not kind.HasField("shape") and (dynamic or not baked):
            static = build(sample, dtype, baked=True).graph.output[index].type.tensor_type
            for axis in range(len(static.shape.dim) if static.HasField("shape") else 0):
                kind.shape.dim.add().dim_param = f"y{index}_{axis}"
            if not static.shape.dim:
                kind.shape.CopyFrom(onnx.TensorShapeProto())
    return inferred


def can_run(sample: Sample, dtype: str) -> bool:
    """Whether the runtime has a kernel for the operator in `dtype`."""
    try:
        session(build(sample, dtype, baked=True))
    except Exception as error:
        assert "NOT_IMPLEMENTED" in str(error), error
        return False
    return True


def feeds(sample: Sample, model: onnx.ModelProto, dtype: str) -> dict[str, np.ndarray]:
    """Values for the inputs of `model` that come from the sample."""
    named = {f"x{i}": a for i, a in enumerate(typed(sample, dtype)) if a is not None}
    return {i.name: named[i.name] for i in model.graph.input if i.name in named}


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"], **OPTIONS)


class Primal:
    """f, evaluated as exactly as can be had."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.dtype, self.step = "float64", 1e-5
        model = build(sample, "float64", baked=True)
        self.names = [i.name for i in model.graph.input]
        if sample.op in recurrent_primal.USUAL:
            self.run = self._recurrent
            return
        try:
            self.run = session(model).run
            narrow = any(o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for o in model.graph.output)
            if sample.op in IN_FLOAT32 or narrow:
                self.step = 1e-2
        except Exception:
            if sample.op in NOT_BY_REFERENCE or sample.domain:
                self.dtype, self.step = "float32", 1e-2
                self.run = session(build(sample, "float32", baked=True)).run
            else:
                self.run = onnx.reference.ReferenceEvaluator(model).run

    def _recurrent(self, _: None, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        sample = self.sample
        inputs = [values.get(f"x{i}", a) for i, a in enumerate(sample.inputs)]
        found = recurrent_primal.run(sample.op, inputs, sample.attrs)
        narrow = build(sample, "float32", baked=True)
        given = {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in values.items()}
        for ours, theirs in zip(found, session(narrow).run(None, given), strict=True):
            assert np.allclose(ours, theirs, 1e-4, 1e-5), f"{sample.id}: not what onnxruntime computes"
        return found

    def __call__(self, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
        values = {
            f"x{i}": a.astype(self.dtype) if a.dtype.kind == "f" else a for i, a in enumerate(arrays) if a is not None
        }
        return self.run(None, {n: values[n] for n in self.names})


def check_gradient(sample: Sample, dtype: str, dynamic: bool, baked: bool, rtol: float = 2e-3) -> None:
    """⟨gradient, direction⟩ = (⟨f(x + εd), ȳ⟩ − ⟨f(x − εd), ȳ⟩) / 2ε, for each input and a few directions."""
    primal = Primal(sample)
    outputs = [f"y{i}" for i in sample.cotangents]
    targets = [f"x{i}" for i in sample.targets]
    model = build(sample, dtype, dynamic, baked)
    result = append_vjp(model, outputs, targets)
    assert [o.name for o in result.model.graph.output][: sample.outputs] == [f"y{i}" for i in range(sample.outputs)]
    onnx.checker.check_model(result.model)
    arrays = [
        a if a is None else a.astype(dtype).astype(np.float64) if a.dtype.kind == "f" else a for a in sample.inputs
    ]
    values = primal(arrays)
    rng = np.random.default_rng(1)
    seeds = {
        i: rng.uniform(0.5, 1.5, values[i].shape) * rng.choice([-1, 1], values[i].shape) for i in sample.cotangents
    }
    given = feeds(sample, result.model, dtype)
    kinds = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in result.model.graph.input}
    names = {i: result.cotangents[f"y{i}"] for i in seeds}
    given |= {names[i]: np.asarray(s, kinds[names[i]]) for i, s in seeds.items()}
    found = session(result.model).run([result.gradients[t] for t in targets], given)
    for index, gradient in zip(sample.targets, found, strict=True):
        x = arrays[index]
        assert gradient.shape == x.shape, f"gradient of input {index} has shape {gradient.shape}, not {x.shape}"
        assert gradient.dtype == np.dtype(dtype)
        assert np.isfinite(gradient).all(), f"gradient of input {index} is not finite"
        for _ in range(3):
            direction = rng.standard_normal(x.shape)
            expected = 0.0
            sides = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[index] = np.asarray(x + sign * primal.step * direction)
                sides.append(primal(moved))
            for i, seed in seeds.items():
                expected += float(np.sum((sides[0][i].astype(np.float64) - sides[1][i]) * seed)) / (2 * primal.step)
            actual = float(np.sum(gradient.astype(np.float64) * direction))
            scale = np.linalg.norm(gradient.astype(np.float64)) * np.linalg.norm(direction) / np.sqrt(max(x.size, 1))
            tolerance = (rtol if dtype != "float16" else 2e-2) * max(abs(expected), scale, 1e-3)
            assert abs(actual - expected) <= tolerance, (
                f"{sample.id}, input {index}, {dtype}: directional derivative {actual:.6g}, expected {expected:.6g}"
            )


def check_second_gradient(sample: Sample) -> None:
    """⟨∂⟨x̄, v⟩/∂x, d⟩ = (⟨x̄(x + εd), v⟩ − ⟨x̄(x − εd), v⟩) / 2ε: what is appended can be differentiated again."""
    exact = "float64" in sample.types and can_run(sample, "float64")
    dtype, step, rtol = ("float64", 1e-5, 2e-3) if exact else ("float32", 5e-3, 3e-2)
    outputs, target = [f"y{i}" for i in sample.cotangents], f"x{sample.targets[0]}"
    first = append_vjp(build(sample, dtype, baked=True), outputs, [target])
    x_bar = first.gradients[target]
    second = append_vjp(first.model, [x_bar], [target])
    rng = np.random.default_rng(2)
    given = feeds(sample, first.model, dtype)
    runs = session(first.model), session(second.model)
    shapes = dict(zip(outputs, session(build(sample, dtype, baked=True)).run(outputs, given), strict=True))
    given |= {first.cotangents[n]: rng.uniform(0.5, 1.5, v.shape).astype(v.dtype) for n, v in shapes.items()}
    x = given[target]
    direction, weight = (rng.standard_normal(x.shape) for _ in range(2))

    def slope(sign: int) -> float:
        moved = {**given, target: np.asarray(x + sign * step * direction, dtype)}
        return float(np.sum(runs[0].run([x_bar], moved)[0].astype(np.float64) * weight))

    expected = (slope(1) - slope(-1)) / (2 * step)
    found = runs[1].run([second.gradients[target]], {**given, second.cotangents[x_bar]: weight.astype(dtype)})[0]
    assert np.isfinite(found).all()
    actual, scale = float(np.sum(found * direction)), np.linalg.norm(found) * np.linalg.norm(direction)
    tolerance = rtol * max(abs(expected), float(scale) / np.sqrt(x.size), 0.1 if dtype == "float32" else 1e-3)
    assert abs(actual - expected) <= tolerance, f"{sample.id}, {dtype}: {actual:.6g}, expected {expected:.6g}"
