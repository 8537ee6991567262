"""Control flow: gradients through If, Loop and Scan against differences of the model, bodies inlined beforehand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp
from analyzer.analysis.feature_maps import default_layer
from analyzer.attribution import Explainer
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.runtime import Session
from analyzer.tasks import recognise
from tests.models import node

DOUBLE, INT64, BOOL = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info


def body(name: str, nodes: list, inputs: list, outputs: list, weights: dict | None = None) -> onnx.GraphProto:
    arrays = [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    return helper.make_graph(nodes, name, inputs, outputs, arrays)


def model(nodes: list, inputs: list, outputs: list, weights: dict | None = None, opset: int = 21) -> onnx.ModelProto:
    graph = body("graph", nodes, inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check(given: onnx.ModelProto, feeds: dict[str, np.ndarray], wrt: list[str], outputs: list[str]) -> Graph:
    """Float64 gradients against central differences along random directions."""
    rng = np.random.default_rng(0)
    result = append_vjp(given, outputs, wrt)
    onnx.checker.check_model(result.model, full_check=True)
    plain, session = Session(given), Session(result.model)
    values = plain.run(feeds)
    seeds = {o: rng.standard_normal(values[o].shape) for o in outputs}
    found = session.run({**feeds, **{result.cotangents[o]: s for o, s in seeds.items()}})
    for name in values:
        assert np.array_equal(found[name], values[name])
    for name in wrt:
        gradient = found[result.gradients[name]]
        assert gradient.shape == feeds[name].shape and gradient.dtype == feeds[name].dtype
        for _ in range(3):
            direction = rng.standard_normal(feeds[name].shape)
            sides = [plain.run({**feeds, name: feeds[name] + e * direction}) for e in (1e-6, -1e-6)]
            expected = sum(float(np.sum((sides[0][o] - sides[1][o]) * seeds[o])) for o in outputs) / 2e-6
            assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8), name
    return result.graph


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape)


# ---- If ----


def branches(condition: list, inputs: list, weights: dict | None = None) -> onnx.ModelProto:
    """y, z = (tanh(w x), x) if the condition holds, else (3 x, w x); both branches name their tensors alike."""
    then = body("then", [node("Mul", ["x", "w"], ["t"]), node("Tanh", ["t"], ["u"]), node("Identity", ["x"], ["v"])],
                [], [info("u", DOUBLE, None), info("v", DOUBLE, None)])  # fmt: skip
    other = body("other", [node("Mul", ["x", "three"], ["u"]), node("Mul", ["w", "x"], ["v"])],
                 [], [info("u", DOUBLE, None), info("v", DOUBLE, None)], {"three": np.float64(3)})  # fmt: skip
    nodes = [*condition, node("If", ["c"], ["y", "z"], then_branch=then, else_branch=other)]
    inputs = [info("x", DOUBLE, [2, 3]), info("w", DOUBLE, [3]), *inputs]
    return model(nodes, inputs, [info("y", DOUBLE, [2, 3]), info("z", DOUBLE, [2, 3])], weights)


@pytest.mark.parametrize("taken", [True, False])
def test_if_at_run_time(taken):
    given = branches([], [info("c", BOOL, [])])
    graph = check(given, {"x": normal(2, 3), "w": normal(3), "c": np.array(taken)}, ["x", "w"], ["y", "z"])
    assert "If" in [n.op for n in graph.forward_nodes()]
    check(given, {"x": normal(2, 3), "w": normal(3), "c": np.array(taken)}, ["w"], ["y"])


@pytest.mark.parametrize("size", [3, 4])
def test_if_that_shapes_decide_is_inlined(size):
    shape = [node("Shape", ["x"], ["s"], start=1), node("Equal", ["s", "k"], ["c"])]
    given = branches(shape, [], {"k": np.array([size], np.int64)})
    graph = check(given, {"x": normal(2, 3), "w": normal(3)}, ["x", "w"], ["y", "z"])
    operators = [n.op for n in graph.forward_nodes()]
    assert "If" not in operators and ("Tanh" in operators) == (size == 3)


# ---- Loop ----


def recurrence(trips: list, weights: dict, ends: bool = False) -> onnx.ModelProto:
    """hₜ₊₁ = tanh(W hₜ + x[t]), with zₜ = hₜ₊₁ ⊙ h₀ stacked; `ends`: until the sum of |h| passes 1.5."""
    nodes = [
        node("MatMul", ["W", "h"], ["a"]),
        node("Gather", ["x", "i"], ["xi"], axis=0),
        node("Add", ["a", "xi"], ["b"]),
        node("Tanh", ["b"], ["h2"]),
        node("Mul", ["h2", "h0"], ["z1"]),
    ]
    nodes += (
        [
            node("ReduceL1", ["h2"], ["r"], keepdims=0),
            node("Less", ["r", "limit"], ["c2"]),
        ]
        if ends
        else [node("Identity", ["c1"], ["c2"])]
    )
    step = body(
        "step",
        nodes,
        [info("i", INT64, []), info("c1", BOOL, []), info("h", DOUBLE, None)],
        [info("c2", BOOL, []), info("h2", DOUBLE, None), info("z1", DOUBLE, None)],
        {"limit": np.float64(1.5)} if ends else {},
    )
    inputs = [info("x", DOUBLE, [5, 4]), info("h0", DOUBLE, [4]), info("W", DOUBLE, [4, 4]), *trips]
    outputs = [info("y", DOUBLE, [4]), info("z", DOUBLE, [None, 4])]
    return model([node("Loop", ["m", "", "h0"], ["y", "z"], body=step)], inputs, outputs, weights)


FEEDS = {"x": normal(5, 4), "h0": normal(4), "W": normal(4, 4) * 0.4}


@pytest.mark.parametrize("outputs", [["y"], ["z"], ["y", "z"]])
def test_loop_of_known_length_is_unrolled(outputs):
    graph = check(recurrence([], {"m": np.array(5)}), FEEDS, ["x", "h0", "W"], outputs)
    assert "Loop" not in [n.op for n in graph.nodes]


@pytest.mark.parametrize(
    ("trips", "outputs"), [(0, ["y"]), (1, ["y"]), (5, ["y"]), (1, ["z"]), (5, ["z"]), (5, ["y", "z"])]
)
def test_loop_of_a_length_known_at_run_time(trips, outputs):
    feeds = {**FEEDS, "m": np.array(trips)}
    check(recurrence([info("m", INT64, [])], {}), feeds, ["x", "h0", "W"], outputs)


def test_loop_that_ends_itself():
    given = recurrence([], {"m": np.array(5)}, ends=True)
    assert len(Session(given).run(FEEDS)["z"]) < 5
    graph = check(given, FEEDS, ["x", "h0", "W"], ["y", "z"])
    assert "Loop" in [n.op for n in graph.forward_nodes()]


def test_a_state_that_grows_is_refused():
    step = body(
        "step",
        [node("Concat", ["v", "x"], ["v2"], axis=0), node("Identity", ["c1"], ["c2"])],
        [info("i", INT64, []), info("c1", BOOL, []), info("v", DOUBLE, None)],
        [info("c2", BOOL, []), info("v2", DOUBLE, None)],
    )
    inputs = [info("x", DOUBLE, [2]), info("m", INT64, [])]
    given = model([node("Loop", ["m", "", "x"], ["y"], body=step)], inputs, [info("y", DOUBLE, [None])])
    with pytest.raises(UnsupportedError, match="changes shape"):
        append_vjp(given, ["y"], ["x"])


def test_if_inside_a_loop():
    """Odd steps double, even ones take the sine."""
    double = body("double", [node("Add", ["h", "h"], ["u"])], [], [info("u", DOUBLE, None)])
    sine = body("sine", [node("Mul", ["h", "w"], ["p"]), node("Sin", ["p"], ["u"])], [], [info("u", DOUBLE, None)])
    step = body(
        "step",
        [
            node("Mod", ["i", "two"], ["odd"]),
            node("Cast", ["odd"], ["is_odd"], to=BOOL),
            node("If", ["is_odd"], ["h2"], then_branch=double, else_branch=sine),
            node("Identity", ["c1"], ["c2"]),
        ],
        [info("i", INT64, []), info("c1", BOOL, []), info("h", DOUBLE, None)],
        [info("c2", BOOL, []), info("h2", DOUBLE, None)],
        {"two": np.array(2)},
    )
    nodes = [node("Loop", ["m", "", "x"], ["y"], body=step)]
    inputs = [info("x", DOUBLE, [3]), info("w", DOUBLE, [3]), info("m", INT64, [])]
    given = model(nodes, inputs, [info("y", DOUBLE, [3])])
    check(given, {"x": normal(3), "w": normal(3), "m": np.array(4)}, ["x", "w"], ["y"])
    fixed = model(nodes, inputs[:2], [info("y", DOUBLE, [3])], {"m": np.array(4)})
    graph = check(fixed, {"x": normal(3), "w": normal(3)}, ["x", "w"], ["y"])
    assert not {"If", "Loop"} & {n.op for n in graph.nodes}


# ---- Scan ----


@pytest.mark.parametrize("backward", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("outputs", [["y"], ["z"], ["y", "z"]])
def test_scan(backward, outputs):
    """hₜ₊₁ = σ(W hₜ + uₜ) ⊙ pₜ, zₜ = hₜ hₜ₊₁: u along axis 1, z along axis 1, in either direction."""
    step = body(
        "step",
        [
            node("MatMul", ["W", "h"], ["a"]),
            node("Add", ["a", "u1"], ["b"]),
            node("Sigmoid", ["b"], ["s"]),
            node("Mul", ["s", "p1"], ["h2"]),
            node("Mul", ["h", "h2"], ["z1"]),
        ],
        [info("h", DOUBLE, [3]), info("u1", DOUBLE, [3]), info("p1", DOUBLE, [])],
        [info("h2", DOUBLE, [3]), info("z1", DOUBLE, [3])],
    )
    attrs = {
        "num_scan_inputs": 2,
        "scan_input_axes": [1, 0],
        "scan_input_directions": [backward[0], 0],
        "scan_output_axes": [1],
        "scan_output_directions": [backward[1]],
    }
    sizes = {"h0": [3], "u": [3, 6], "p": [6], "W": [3, 3]}
    given = model(
        [node("Scan", ["h0", "u", "p"], ["y", "z"], body=step, **attrs)],
        [info(n, DOUBLE, s) for n, s in sizes.items()],
        [info("y", DOUBLE, [3]), info("z", DOUBLE, [3, 6])],
    )
    check(given, {n: normal(*s) for n, s in sizes.items()}, list(sizes), outputs)


def test_scan_over_a_number_of_steps_known_at_run_time():
    """Running sums, as in the operator's own example."""
    step = body(
        "step",
        [node("Add", ["s", "u1"], ["s2"]), node("Identity", ["s2"], ["z1"])],
        [info("s", DOUBLE, [2]), info("u1", DOUBLE, [2])],
        [info("s2", DOUBLE, [2]), info("z1", DOUBLE, [2])],
    )
    given = model(
        [node("Scan", ["s0", "u"], ["y", "z"], body=step, num_scan_inputs=1)],
        [info("s0", DOUBLE, [2]), info("u", DOUBLE, ["steps", 2])],
        [info("y", DOUBLE, [2]), info("z", DOUBLE, ["steps", 2])],
    )
    for steps in (1, 4):
        check(given, {"s0": normal(2), "u": normal(steps, 2)}, ["s0", "u"], ["y", "z"])


# ---- Shapes and layouts through bodies ----

FLOAT = TensorProto.FLOAT


def maps(kind: str) -> onnx.ModelProto:
    """A Conv, then hₜ₊₁ = hₜ + tanh(K ∗ hₜ) three times, read by the mean of each channel.

    `kind`: "written out", "constant" (the trips and the condition are), "run time" (the trips are not), "ends itself",
    "nested" (a Loop of one step inside), "scan", "in a branch" (an If around each step).
    """
    cell = [node("Conv", ["h", "k"], ["c"], pads=[1] * 4), node("Tanh", ["c"], ["t"]), node("Add", ["h", "t"], ["h2"])]
    clock = [info("i", INT64, []), info("c1", BOOL, [])]
    weights = {"w": normal(4, 3, 3, 3), "k": normal(4, 4, 3, 3) * 0.1}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    inputs = [info("x", FLOAT, [1, 3, 8, 6])]
    state, after = info("h", FLOAT, None), info("h2", FLOAT, None)
    if kind == "written out":
        pairs = zip(("h0", "r0", "r1"), ("r0", "r1", "r2"), strict=True)
        steps = [
            step
            for a, b in pairs
            for step in (
                node("Conv", [a, "k"], [f"c{b}"], pads=[1] * 4),
                node("Tanh", [f"c{b}"], [f"t{b}"]),
                node("Add", [a, f"t{b}"], [b]),
            )
        ]
        steps.append(node("Identity", ["r2"], ["r"]))
    elif kind == "scan":
        line = [node("Mul", ["h2", "u"], ["h3"])]
        step = body("step", [*cell, *line], [state, info("u", FLOAT, [])], [info("h3", FLOAT, None)])
        weights["ones"] = np.ones(3, np.float32)
        steps = [node("Scan", ["h0", "ones"], ["r"], body=step, num_scan_inputs=1)]
    else:
        if kind == "nested":
            once = [*cell, node("Less", ["j", "zero"], ["d2"])]
            entering = [info("j", INT64, []), info("d1", BOOL, []), state]
            inner = body("inner", once, entering, [info("d2", BOOL, []), after])
            nodes = [node("Loop", ["many", "", "g"], ["g2"], body=inner)]
            entering, leaving = info("g", FLOAT, None), info("g2", FLOAT, None)
            weights |= {"many": np.array(100), "zero": np.array(0)}
        elif kind == "in a branch":
            other = body("other", [node("Identity", ["h"], ["same"])], [], [info("same", FLOAT, None)])
            then = body("then", cell, [], [after])
            nodes = [
                node("GreaterOrEqual", ["i", "zero"], ["really"]),
                node("If", ["really"], ["s"], then_branch=then, else_branch=other),
            ]
            entering, leaving = state, info("s", FLOAT, None)
            weights["zero"] = np.array(0)
        else:
            nodes, entering, leaving = cell, state, after
        if kind == "ends itself":
            nodes = [*nodes, node("Less", ["i", "last"], ["c2"])]
            weights["last"] = np.array(2)
            going = info("c2", BOOL, [])
        elif kind == "constant":
            going = info("go", BOOL, [])
            nodes = [*nodes, node("Identity", ["yes"], ["go"])]
            weights["yes"] = np.array(True)
        else:
            going = info("c2", BOOL, [])
            nodes = [*nodes, node("Identity", ["c1"], ["c2"])]
        step = body("step", nodes, [*clock, entering], [going, leaving])
        if kind in ("constant", "ends itself"):
            weights["trips"] = np.array(3 if kind == "constant" else 1000)
        else:
            inputs.append(info("trips", INT64, []))
        steps = [node("Loop", ["trips", "", "h0"], ["r"], body=step)]
    nodes = [
        node("Conv", ["x", "w"], ["h0"], pads=[1] * 4),
        *steps,
        node("ReduceMean", ["r", "space"], ["y"], keepdims=0),
    ]
    weights["space"] = np.array([2, 3])
    used = {name for n in nodes for name in _read(n)}
    weights = {name: array for name, array in weights.items() if name in used}
    return model(nodes, inputs, [info("y", FLOAT, [1, 4])], weights)


def _read(given: onnx.NodeProto) -> set[str]:
    inner = {name for a in given.attribute if a.HasField("g") for n in a.g.node for name in _read(n)}
    return {*given.input} | inner


@pytest.mark.parametrize("kind", ["constant", "run time", "ends itself", "nested", "scan", "in a branch"])
def test_maps_are_followed_through_bodies(kind):
    """Shape, default layer, and its map are those of the steps written out."""
    explainer, plain = Explainer(maps(kind)), Explainer(maps("written out"))
    graph = explainer.graph({})
    assert graph["r"].shape == [1, 4, 8, 6] and graph["y"].shape == [1, 4]
    assert ("Loop" in [n.op for n in graph.forward_nodes()]) == (kind not in ("constant", "scan"))
    layer = default_layer(graph, recognise(graph).logits)
    assert layer.name == "r" and str(layer.layout) == "NCHW"
    x = normal(1, 3, 8, 6).astype(np.float32)
    feeds = {"x": x, "trips": np.array(3)} if "trips" in [v.name for v in graph.inputs] else x
    for method in ("grad-cam", "gradient"):
        found, expected = explainer.explain(feeds, method, 1), plain.explain(x, method, 1)
        assert np.allclose(found.raw, expected.raw, rtol=1e-4, atol=1e-6) and expected.raw.any(), method


def test_sizes_that_a_step_changes_are_not_known():
    """(2, n) grows along its last axis, beside a state that keeps its shape; their results are stacked."""
    step = body(
        "step",
        [
            node("Concat", ["v", "x"], ["v2"], axis=1),
            node("Neg", ["u"], ["u2"]),
            node("ReduceSum", ["v2", "last"], ["z"], keepdims=0),
            node("Identity", ["c1"], ["c2"]),
        ],
        [info("i", INT64, []), info("c1", BOOL, []), info("v", DOUBLE, None), info("u", DOUBLE, None)],
        [info("c2", BOOL, []), info("v2", DOUBLE, None), info("u2", DOUBLE, None), info("z", DOUBLE, None)],
    )
    inputs = [info("x", DOUBLE, [2, 3]), info("w", DOUBLE, [5]), info("m", INT64, [])]
    outputs = [info("a", DOUBLE, None), info("b", DOUBLE, None), info("c", DOUBLE, None)]
    nodes = [node("Loop", ["m", "", "x", "w"], ["a", "b", "c"], body=step)]
    graph = Graph.read(model(nodes, inputs, outputs, {"last": np.array([1])}))
    assert [graph[name].shape for name in "abc"] == [[2, None], [5], [None, 2]]


@pytest.mark.parametrize(("other", "shape"), [([2, 3], [2, 3]), ([2, 4], [2, None]), ([6], None)])
def test_branches_share_the_sizes_on_which_they_agree(other, shape):
    then = body("then", [node("Reshape", ["x", "one"], ["t"])], [], [info("t", DOUBLE, None)])
    rest = body("rest", [node("Expand", ["w", "two"], ["u"])], [], [info("u", DOUBLE, None)])
    nodes = [node("If", ["c"], ["y"], then_branch=then, else_branch=rest)]
    weights = {"one": np.array([2, 3]), "two": np.array(other)}
    inputs = [info("x", DOUBLE, [6]), info("w", DOUBLE, [1]), info("c", BOOL, [])]
    graph = Graph.read(model(nodes, inputs, [info("y", DOUBLE, None)], weights))
    found = graph["y"].shape
    found = found and [d if isinstance(d, int) else None for d in found]
    assert found == shape


# ---- Sequences and optionals ----


def test_sequences_of_known_length_are_tensors():
    """Split in three, the middle doubled, one more put in front and the last taken out; stacked and concatenated."""
    nodes = [
        node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        node("SequenceAt", ["parts", "one"], ["middle"]),
        node("Add", ["middle", "middle"], ["doubled"]),
        node("SequenceInsert", ["parts", "doubled", "zero"], ["more"]),
        node("SequenceErase", ["more"], ["fewer"]),
        node("SequenceLength", ["fewer"], ["length"]),
        node("ConcatFromSequence", ["fewer"], ["y"], axis=1),
        node("SequenceConstruct", ["middle", "doubled"], ["pair"]),
        node("Optional", ["pair"], ["held"]),
        node("OptionalGetElement", ["held"], ["again"]),
        node("ConcatFromSequence", ["again"], ["s"], axis=0, new_axis=1),
        node("Cast", ["length"], ["l"], to=DOUBLE),
        node("Mul", ["s", "l"], ["z"]),
    ]
    weights = {"two": np.array(2), "one": np.array(1), "zero": np.array(0)}
    outputs = [info("y", DOUBLE, [3, 6]), info("z", DOUBLE, [2, 3, 2])]
    graph = check(model(nodes, [info("x", DOUBLE, [3, 5])], outputs, weights), {"x": normal(3, 5)}, ["x"], ["y", "z"])
    assert not any("Sequence" in n.op or "Optional" in n.op for n in graph.nodes)


def test_a_sequence_that_a_loop_fills():
    """Rows of x times their number, gathered in a sequence."""
    step = body(
        "step",
        [
            node("Gather", ["x", "i"], ["row"], axis=0),
            node("Cast", ["i"], ["number"], to=DOUBLE),
            node("Mul", ["row", "number"], ["scaled"]),
            node("SequenceInsert", ["s", "scaled"], ["s2"]),
            node("Identity", ["c1"], ["c2"]),
        ],
        [info("i", INT64, []), info("c1", BOOL, []), helper.make_tensor_sequence_value_info("s", DOUBLE, None)],
        [info("c2", BOOL, []), helper.make_tensor_sequence_value_info("s2", DOUBLE, None)],
    )
    nodes = [
        node("SequenceEmpty", [], ["none"], dtype=DOUBLE),
        node("Loop", ["m", "", "none"], ["rows"], body=step),
        node("ConcatFromSequence", ["rows"], ["y"], axis=0, new_axis=1),
    ]
    given = model(nodes, [info("x", DOUBLE, [4, 2])], [info("y", DOUBLE, [4, 2])], {"m": np.array(4)})
    check(given, {"x": normal(4, 2)}, ["x"], ["y"])


def test_a_sequence_that_is_an_output_stays():
    nodes = [node("SplitToSequence", ["x"], ["parts"], keepdims=0), node("SequenceAt", ["parts", "one"], ["y"])]
    parts = helper.make_tensor_sequence_value_info("parts", DOUBLE, [2])
    given = model(nodes, [info("x", DOUBLE, [3, 2])], [info("y", DOUBLE, [2]), parts], {"one": np.array(1)})
    result = append_vjp(given, ["y"], ["x"])
    session = Session(result.model)
    x = normal(3, 2)
    found = session.run({"x": x, result.cotangents["y"]: np.ones(2)}, ["parts", result.gradients["x"]])
    assert np.array_equal(found["parts"], x)
    assert found[result.gradients["x"]].tolist() == [[0, 0], [1, 1], [0, 0]]


# ---- Closure ----


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
def test_gradients_of_control_flow_can_be_differentiated(kind):
    """Hessian times vector, against differences of the gradient."""
    if kind == "If":
        given, feeds = branches([], [info("c", BOOL, [])]), {"x": normal(2, 3), "w": normal(3), "c": np.array(True)}
    elif kind == "Loop":
        given, feeds = recurrence([info("m", INT64, [])], {}), {**FEEDS, "m": np.array(3)}
    else:
        step = body(
            "step",
            [node("Mul", ["s", "u1"], ["p"]), node("Tanh", ["p"], ["s2"])],
            [info("s", DOUBLE, [2]), info("u1", DOUBLE, [2])],
            [info("s2", DOUBLE, [2])],
        )
        given = model(
            [node("Scan", ["s0", "x"], ["y"], body=step, num_scan_inputs=1)],
            [info("s0", DOUBLE, [2]), info("x", DOUBLE, [4, 2])],
            [info("y", DOUBLE, [2])],
        )
        feeds = {"s0": normal(2), "x": normal(4, 2)}
    first = append_vjp(given, ["y"], ["x"])
    gradient, seed = first.gradients["x"], first.cotangents["y"]
    second = append_vjp(first.model, [gradient], ["x"])
    session = Session(second.model)
    direction = np.random.default_rng(1).standard_normal(feeds["x"].shape)
    shape = Session(given).run(feeds)["y"].shape

    def run(x):
        return session.run({**feeds, "x": x, seed: np.ones(shape), second.cotangents[gradient]: direction})

    product = run(feeds["x"])[second.gradients["x"]]
    sides = [run(feeds["x"] + e * direction)[gradient] for e in (1e-6, -1e-6)]
    assert np.allclose(product, (sides[0] - sides[1]) / 2e-6, rtol=1e-5, atol=1e-7)


# ---- Half precision, functions ----


def test_control_flow_in_half_precision():
    """States and sums of cotangents flow in float32: as the same model in float64."""
    step = body(
        "step",
        [node("Mul", ["h", "w"], ["p"]), node("Tanh", ["p"], ["h2"]), node("Identity", ["c1"], ["c2"])],
        [info("i", INT64, []), info("c1", BOOL, []), info("h", DOUBLE, None)],
        [info("c2", BOOL, []), info("h2", DOUBLE, None)],
    )
    inputs = [info("x", DOUBLE, [3]), info("w", DOUBLE, [3]), info("m", INT64, [])]
    wide = model([node("Loop", ["m", "", "x"], ["y"], body=step)], inputs, [info("y", DOUBLE, [3])])
    half = onnx.ModelProto.FromString(wide.SerializeToString())
    for graph in (half.graph, half.graph.node[0].attribute[0].g):
        for value in [*graph.input, *graph.output]:
            if value.type.tensor_type.elem_type == DOUBLE:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
    found = []
    for given, dtype in ((wide, np.float64), (half, np.float16)):
        result = append_vjp(given, ["y"], ["x", "w"])
        feeds = {"x": normal(3).astype(dtype), "w": normal(3).astype(dtype) + 1, "m": np.array(4)}
        values = Session(result.model).run({**feeds, result.cotangents["y"]: np.full(3, 2, dtype)})
        found.append([values[result.gradients[name]] for name in ("x", "w")])
    for exact, rough in zip(*found, strict=True):
        assert rough.dtype == np.float16 and np.allclose(rough, exact, rtol=0.02, atol=1e-3)


def test_a_function_with_a_branch_in_it():
    """The attribute of the call decides nothing; the input's rank does."""
    then = body("then", [node("Mul", ["a", "slope"], ["t"])], [], [info("t", DOUBLE, None)])
    other = body("other", [node("Neg", ["a"], ["o"])], [], [info("o", DOUBLE, None)])
    nodes = [
        node("Shape", ["a"], ["shape"]),
        node("Size", ["shape"], ["rank"]),
        helper.make_node("Constant", [], ["two"], value_int=2),
        node("Equal", ["rank", "two"], ["is_matrix"]),
        helper.make_node("Constant", [], ["f"]),
        node("CastLike", ["f", "a"], ["slope"]),
        node("If", ["is_matrix"], ["b"], then_branch=then, else_branch=other),
    ]
    nodes[4].attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="slope", type=1))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Scale", ["a"], ["b"], nodes, opsets[:1], ["slope"])
    graph = body(
        "graph",
        [helper.make_node("Scale", ["x"], ["h"], domain="local", slope=3.0), node("Mul", ["h", "x"], ["y"])],
        [info("x", DOUBLE, [2, 3])],
        [info("y", DOUBLE, [2, 3])],
    )
    given = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    read = check(given, {"x": normal(2, 3)}, ["x"], ["y"])
    assert not {"If", "Scale"} & {n.op for n in read.nodes}


def test_sequence_map_over_known_sequences():
    nodes = [
        node("Tanh", ["s"], ["t"]),
    ]
    each = body("each", nodes, [info("s", DOUBLE, None)], [info("t", DOUBLE, None)])
    given = model(
        [
            node("Split", ["x"], ["a", "b"], axis=0, num_outputs=2),
            node("SequenceConstruct", ["a", "b"], ["pair"]),
            node("SequenceMap", ["pair"], ["mapped"], body=each),
            node("ConcatFromSequence", ["mapped"], ["y"], axis=1),
        ],
        [info("x", DOUBLE, [2, 3])],
        [info("y", DOUBLE, [1, 6])],
    )
    check(given, {"x": normal(2, 3)}, ["x"], ["y"])
