"""A model of opset 21 that is said in an older opset computes the same; what cannot be said is refused by name.

The oracles are onnx's checker, the kernels that onnxruntime has for the older opset, and onnx's reference evaluator.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper

from analyzer.errors import UnsupportedError
from analyzer.gradient import append_vjp
from analyzer.graph.older import LOWEST, ROWS, lower, return_to
from analyzer.graph.protos import copied, opsets
from tests.models import model, node
from tests.rule_checks import NOT_BY_REFERENCE, build, feeds, session
from tests.test_rules import SAMPLES

VERSIONS = (9, 10, 11, 13, 15, 17, 19)
STANDARD = [s for s in SAMPLES if not s.domain and s.opset == 21]


def said(proto: onnx.ModelProto, version: int) -> onnx.ModelProto | None:
    """The model in an older opset; None where it is refused."""
    proto = copied(proto)
    try:
        return_to(proto, version, 8, exactly=True)
    except UnsupportedError:
        return None
    assert opsets(proto)[""] == version
    onnx.checker.check_model(proto, full_check=True)
    return proto


def outputs(proto: onnx.ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(a) for a in session(proto).run(None, given)]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def by_reference(proto: onnx.ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """What onnx's reference evaluator gives; None where it has not the operator, or not of this opset."""
    try:
        return [np.asarray(a) for a in onnx.reference.ReferenceEvaluator(proto).run(None, given)]
    except Exception:
        return None


@pytest.mark.parametrize("sample", STANDARD, ids=lambda s: s.id)
def test_an_operator_computes_the_same_in_an_older_opset(sample):
    proto = build(sample, "float32", baked=True)
    given = feeds(sample, proto, "float32")
    try:
        expected = outputs(proto, given)
    except Exception:
        pytest.skip("onnxruntime has no kernel for it")
    if not all(o.type.tensor_type.HasField("shape") for o in proto.graph.output):
        for output, array in zip(proto.graph.output, expected, strict=True):
            output.CopyFrom(helper.make_tensor_value_info(output.name, 1, array.shape))
    reference = by_reference(proto, given)
    agrees = reference is not None and sample.op not in NOT_BY_REFERENCE | {"BatchNormalization", "RoiAlign"}
    agrees = agrees and all(np.allclose(a, b, 1e-4, 1e-5) for a, b in zip(reference, expected, strict=True))
    for version in VERSIONS:
        older = said(proto, version)
        if older is None:
            continue
        same(outputs(older, given), expected)
        found = by_reference(older, given) if agrees else None
        if found is not None:
            same(found, expected)


@pytest.mark.parametrize("sample", STANDARD, ids=lambda s: s.id)
def test_a_gradient_computes_the_same_in_an_older_opset(sample):
    proto = build(sample, "float32", baked=True)
    wrt = [f"x{i}" for i in sample.targets]
    try:
        vjp = append_vjp(proto, [f"y{i}" for i in sample.cotangents], wrt)
        given = feeds(sample, proto, "float32")
        shapes = dict(zip([o.name for o in session(proto).get_outputs()], outputs(proto, given), strict=True))
    except Exception:
        pytest.skip("no gradient, or no kernel")
    rng = np.random.default_rng(0)
    for output, name in vjp.cotangents.items():
        given[name] = rng.standard_normal(shapes[output].shape).astype(shapes[output].dtype)
    graph = onnx.shape_inference.infer_shapes(vjp.model)
    expected = outputs(vjp.model, given)
    for version in (9, 11, 13, 16):
        older = said(graph, version)
        if older is not None:
            same(outputs(older, given), expected)


def test_every_form_that_changed_has_a_row():
    """Between the lowest opset and 21: inputs that were attributes, other defaults, operators with more inputs."""
    rows = set(ROWS)
    missing = []
    for op in {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}:
        try:
            now = onnx.defs.get_schema(op, 21, "")
            then = onnx.defs.get_schema(op, LOWEST, "")
        except onnx.defs.SchemaError:
            continue
        if now.deprecated or op in rows:
            continue
        lost = set(then.attributes) - set(now.attributes)
        defaults = [
            name
            for name in set(then.attributes) & set(now.attributes)
            if then.attributes[name].default_value != now.attributes[name].default_value
        ]
        if lost or defaults or then.max_input < now.min_input:
            missing.append((op, lost, defaults))
    unchanged = {
        "Constant",  # no Constant node is left
        "Dropout",  # an Identity in inference
    }
    assert not {op for op, *_ in missing} - unchanged, missing


def test_the_needed_opset_is_named():
    proto = model(
        [node("ScatterElements", ["x", "i", "u"], ["y"], reduction="add")],
        {"x": [4], "u": [2]}, {"y": [4]}, {"i": np.array([1, 1])}, 21, 10,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"ScatterElements \(ScatterElements_y\) needs opset 16: .*'reduction'"):
        return_to(copied(proto), 11, 6, exactly=True)
    needs = return_to(proto, 11, 6)
    assert [need.opset for need in needs] == [16]
    assert (opsets(proto)[""], proto.ir_version) == (16, 8)
    onnx.checker.check_model(proto, full_check=True)


def test_a_newer_opset_is_named_where_all_means_the_same():
    relu = model([node("Relu", ["x"], ["y"])], {"x": [4]}, {"y": [4]}, {}, 21, 10)
    return_to(relu, 23, 11)
    assert (opsets(relu)[""], relu.ir_version) == (23, 11)
    steps = model([node("Mod", ["x", "x"], ["y"], fmod=1)], {"x": [4]}, {"y": [4]}, {}, 21, 10)
    return_to(steps, 28, 11)
    assert (opsets(steps)[""], steps.ir_version) == (21, 10)


def test_bodies_are_said_too():
    """An If whose branches reduce over given axes."""
    body = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["b"], keepdims=1)],
        "body", [], [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [2, 1])],
    )  # fmt: skip
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    weights = {"c": np.array(True), "axes": np.array([1])}
    proto = model(nodes, {"x": [2, 3]}, {"y": [2, 1]}, weights, 21, 10)
    given = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    expected = outputs(proto, given)
    for version in (9, 11, 13):
        older = said(proto, version)
        assert older is not None
        same(outputs(older, given), expected)


def test_what_an_old_opset_cannot_say():
    """Operators of which it says no sample."""
    told: dict[tuple[str, int], bool] = {}
    for sample, version in itertools.product(STANDARD, (9, 13)):
        try:
            lower(build(sample, "float32", baked=True), version, exactly=True)
            told[sample.op, version] = True
        except UnsupportedError:
            told.setdefault((sample.op, version), False)
    refused = {version: {op for (op, v), said in told.items() if v == version and not said} for version in (9, 13)}
    assert refused[13] == {"AffineGrid", "Col2Im", "DFT", "DeformConv", "GridSample", "STFT", "Trilu"}
    assert refused[9] - refused[13] == {
        "CumSum", "DequantizeLinear", "Det", "Einsum", "GatherElements", "GatherND", "Mod", "OneHot", "Range",
        "ReverseSequence", "RoiAlign", "ScatterND",
    }  # fmt: skip
