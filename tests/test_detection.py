"""Detectors: candidates, predictions, targets, layers, thresholds, exports. Formats have test files of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.analysis.moves import origins, unsquashed
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.graph import Builder, Graph
from analyzer.images import decode, model_card, write_png
from analyzer.metrics.boxes import iou, suppressed
from analyzer.runtime import Session
from analyzer.tasks import Declared, recognise, task_from
from analyzer.tasks.detection.usual import usual_of
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node

ROOT = Path(__file__).resolve().parents[1]
SIDE, COLOURS = 64, 3
STRIDES = (8, 16)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def detector(joined: bool = True, squashed: bool = True, batch: int | str = 1, surest: int = 8) -> onnx.ModelProto:
    """Finds squares of red, green or blue at strides 8 and 16, decoded as YOLOv8 does: (N, 4 + 3, 64 + 16).

    A level's own map, `map8` or `map16`, is how red, green and blue a cell is; scores and box sides are read from it
    by a convolution each. A box reaches half a stride in every direction from the middle of its cell.
    """
    kernel = np.full((3, 3, 1, 1), -1.0, np.float32)
    kernel[np.arange(3), np.arange(3)] = 1
    nodes = [node("Conv", ["x", "kernel"], ["colour"]), node("Relu", ["colour"], ["seen"])]
    weights = {"kernel": kernel, "flat": np.array([0, -1, SIDE], np.int64)}
    weights["sides"] = np.zeros((4, 3, 1, 1), np.float32)
    weights["half"], weights["cut"] = np.full(4, 0.5, np.float32), np.array([2, 2], np.int64)
    ends = []
    for stride in STRIDES:
        side = SIDE // stride
        weights |= {
            f"classes{stride}": (12 * np.eye(3, dtype=np.float32)).reshape(3, 3, 1, 1),
            f"bias{stride}": np.full(3, -6.0 if stride == surest else -8.0, np.float32),
            f"row{stride}": np.array([0, 7, -1], np.int64),
            f"all{stride}": np.array([0, 4, -1], np.int64),
            f"each{stride}": np.array([0, 3, -1], np.int64),
            f"stride{stride}": np.array(stride, np.float32),
        }
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side))).reshape(1, 2, -1) + 0.5
        weights[f"grid{stride}"] = grid.astype(np.float32) * stride
        nodes += [
            node("AveragePool", ["seen"], [f"pooled{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            node("Relu", [f"pooled{stride}"], [f"map{stride}"]),
            node("Conv", [f"map{stride}", f"classes{stride}", f"bias{stride}"], [f"logits{stride}"]),
            node("Conv", [f"map{stride}", "sides", "half"], [f"sides{stride}"]),
            node("Reshape", [f"logits{stride}", f"each{stride}"], [f"scores{stride}"]),
            node("Reshape", [f"sides{stride}", f"all{stride}"], [f"ltrb{stride}"]),
            node("Split", [f"ltrb{stride}", "cut"], [f"low{stride}", f"high{stride}"], axis=1),
            node("Sub", [f"high{stride}", f"low{stride}"], [f"shift{stride}"]),
            node("Add", [f"high{stride}", f"low{stride}"], [f"extent{stride}"]),
            node("Mul", [f"extent{stride}", f"stride{stride}"], [f"size{stride}"]),
            node("Add", [f"grid{stride}", f"shift{stride}"], [f"centre{stride}"]),
            node("Concat", [f"centre{stride}", f"size{stride}"], [f"boxes{stride}"], axis=1),
        ]
        ends.append(stride)
    nodes += [
        node("Concat", [f"scores{s}" for s in ends], ["logits"], axis=2),
        node("Concat", [f"boxes{s}" for s in ends], ["boxes"], axis=2),
        node("Sigmoid" if squashed else "Identity", ["logits"], ["scores"]),
    ]
    outputs = {"box rows": [batch, 80, 4], "score rows": [batch, 80, COLOURS]}
    if not joined:
        nodes += [
            node("Transpose", [name], [rows], perm=[0, 2, 1])
            for name, rows in (("boxes", "box rows"), ("scores", "score rows"))
        ]
    else:
        nodes.append(node("Concat", ["boxes", "scores"], ["output0"], axis=1))
        outputs = {"output0": [batch, 4 + COLOURS, 80]}
    return model(nodes, {"x": [batch, 3, SIDE, SIDE]}, outputs, weights)


def scene(*squares: tuple[int, int, int, int], dim: float = 1.0) -> np.ndarray:
    """(1, 3, 64, 64) in 0 … 1: black, with squares (colour, y, x, side)."""
    picture = np.zeros((1, 3, SIDE, SIDE), np.float32)
    for colour, y, x, side in squares:
        picture[:, colour, y : y + side, x : x + side] = dim
    return picture


SMALL_RED, LARGE_GREEN, DIM = (0, 8, 40, 8), (1, 32, 16, 16), (2, 48, 48, 8)
BOTH = scene(SMALL_RED, LARGE_GREEN)


def task_of(net: onnx.ModelProto, **declared):
    explainer = Explainer(net)
    return task_for(explainer, Question(declared=Declared(**declared)), explainer.feeds(BOTH))


def said(net: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(net.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


# ---- What is found ----


def test_detections_are_listed_with_their_boxes():
    net = detector()
    task = task_of(net)
    found = task.predictions(task.answer(said(net, BOTH)), ("red", "green", "blue"))
    assert task.kind == "detection"
    assert [p.target for p in found] == [f"detection:{i}" for i in range(len(found))]
    assert {p.label for p in found} == {"red", "green"}
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    red = next(p for p in found if p.label == "red")
    assert np.allclose(red.box, (40, 8, 48, 16)) and red.layer == "map8"
    assert all(p.score >= task.threshold for p in found)


def test_a_large_thing_is_found_at_the_coarse_level():
    net = detector()
    task = task_of(net)
    answer = task.answer(said(net, scene(LARGE_GREEN)))
    coarse = [p for p in task.predictions(answer) if p.layer == "map16"]
    assert coarse and np.allclose(coarse[0].box, (16, 32, 32, 48))
    assert coarse[0].index == 1 and task.label(coarse[0].slot, ("red", "green", "blue")) == "green"


def test_thresholds_are_as_declared():
    net, x = detector(), scene(SMALL_RED, DIM, dim=0.45)
    answer = task_of(net).answer(said(net, x))
    count = {t: len(task_of(net, score_threshold=t).predictions(answer)) for t in (0.0, 0.3, 0.9)}
    assert count[0.0] > count[0.3] > count[0.9] == 0
    twice = scene((1, 24, 16, 16), (1, 32, 16, 16))
    wide, narrow = (task_of(net, iou_threshold=t, score_threshold=0.01) for t in (1.0, 0.0))
    answer = wide.answer(said(net, twice))
    assert len(wide.predictions(answer)) > len(narrow.predictions(answer))


def test_suppression_is_by_class_and_keeps_the_surest():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 10]], np.float64)
    scores, classes = np.array([0.6, 0.9, 0.8, 0.1]), np.array([0, 0, 1, 0])
    assert suppressed(boxes, scores, classes, 0.5).tolist() == [1, 2, 3]
    assert suppressed(boxes, scores, classes, 0.9).tolist() == [1, 2, 0, 3]
    assert np.isclose(iou(boxes[:1], boxes[1:2])[0, 0], 9 / 11)


def test_scores_that_are_not_finite_are_no_detections():
    net = detector()
    task = task_of(net)
    answer = task.answer(said(net, BOTH))
    answer["output0"][0, 4:, 3] = np.nan
    assert all(np.isfinite(p.score) for p in task.predictions(answer))
    answer["output0"][0, 4:] = np.nan
    assert task.predictions(answer) == [] and task.says_nothing(answer)


# ---- What is explained ----


def test_the_surest_detection_is_explained_at_its_own_level():
    found = analyzer.explain(detector(), BOTH, "layer-cam")
    assert found.layer == "map8" and found.names[0].startswith("detection:0 ")
    y, x = np.unravel_index(found.heatmap[0].argmax(), found.heatmap[0].shape)
    assert 8 <= y < 16 and 40 <= x < 48
    assert found.value[0] == found.scores[0].max() > 0.9


def test_a_class_is_its_strongest_detection_and_only_that_lights_up():
    found = analyzer.explain(detector(), BOTH, "layer-cam", target="green", labels=("red", "green", "blue"))
    inside = found.heatmap[0][32:48, 16:32].sum() / found.heatmap[0].sum()
    assert inside > 0.5
    assert found.task.class_of(int(found.target[0])) == 1
    both = analyzer.explain(detector(), scene((0, 8, 40, 8), (0, 40, 8, 8)), "layer-cam", target="detection:1")
    one = both.heatmap[0]
    assert min(one[:24].sum(), one[32:].sum()) < 0.01 * one.sum()


def test_a_target_of_what_is_not_found():
    net = detector()
    nothing = analyzer.explain(net, np.zeros_like(BOTH))
    assert len(nothing.heatmap) == 0 and "0.25" in nothing.task.nothing
    assert len(analyzer.explain(net, BOTH, target=2).heatmap) == 0
    with pytest.raises(InputError, match="class 3 does not exist"):
        analyzer.explain(net, BOTH, target=3)
    with pytest.raises(NotFoundError, match="no detection:99"):
        analyzer.explain(net, BOTH, target="detection:99")


def test_all_detections_are_explained_each_at_its_level():
    found = analyzer.explain(detector(), scene(SMALL_RED, (1, 32, 16, 16)), "layer-cam", target="all")
    assert len(found.heatmap) == len(found.layers) == len(found.names) > 1
    assert set(found.layers) == {"map8", "map16"}
    assert [n.split()[0] for n in found.names] == [f"detection:{i}" for i in range(len(found.names))]
    assert found.raw.shape[1:] == (8, 8)


def test_several_pictures_of_one_call():
    batch = np.concatenate([BOTH, scene(LARGE_GREEN), np.zeros_like(BOTH)])
    found = analyzer.explain(detector(batch="N"), batch, "layer-cam")
    assert found.image.tolist() == [0, 1]
    alone = analyzer.explain(detector(batch="N"), BOTH, "layer-cam")
    assert np.allclose(found.heatmap[0], alone.heatmap[0], atol=1e-6)


def test_a_side_of_a_box_is_an_expression():
    net = detector()
    task = task_of(net)
    answer = task.answer(said(net, BOTH))
    for number, side in enumerate(("left", "top", "right", "bottom")):
        (found,) = task.resolve(f"detection:0.{side}", answer)
        explained = analyzer.explain(net, BOTH, "gradient", target=found.slot)
        assert np.isclose(explained.value[0], found.score, atol=1e-4), side
        assert found.score == task.predictions(answer)[0].box[number]
    with pytest.raises(InputError, match="no side 'middle'"):
        task.resolve("detection:0.middle", answer)


def test_what_is_explained_is_the_logit():
    net = detector()
    run = analyzer.explain(net, BOTH, "gradient", target="detection:0")
    logits = onnx.ModelProto()
    logits.CopyFrom(net)
    logits.graph.output.append(onnx.helper.make_tensor_value_info("logits", 1, [1, 3, 80]))
    step = 1e-2
    y, x, colour = 12, 44, 0
    moved = [BOTH.copy(), BOTH.copy()]
    moved[0][0, colour, y, x] += step
    moved[1][0, colour, y, x] -= step
    place = run.target[0] // COLOURS
    a, b = (said(logits, m)["logits"][0, colour, place] for m in moved)
    assert np.isclose(run.raw[0, colour, y, x], (a - b) / (2 * step), rtol=1e-2)


METHODS = ["grad-cam", "hires-cam", "gradient", "occlusion", "eigen-cam", "integrated-gradients"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_explain_detections(method):
    found = analyzer.explain(detector(), BOTH, method)
    assert len(found.heatmap) == 1 and found.heatmap.any(), found.diagnosis


@pytest.mark.parametrize(("batch", "surest"), [(1, 8), ("N", 8), (1, 16)])
def test_the_strongest_detection_is_exported(tmp_path, batch, surest):
    net = detector(batch=batch, surest=surest)
    assert analyzer.explain(net, scene(LARGE_GREEN), "layer-cam").layer == f"map{surest}"
    path = analyzer.export(net, tmp_path / "out.onnx", "layer-cam")
    session = onnxruntime.InferenceSession(str(path))
    for x in (BOTH, scene(LARGE_GREEN), np.zeros_like(BOTH)):
        (heat,) = session.run(["heatmap"], {"x": x})
        found = analyzer.explain(net, x, "layer-cam")
        expected = found.heatmap if len(found.heatmap) else np.zeros_like(heat)
        assert np.allclose(heat, expected, atol=1e-5)
    if batch == "N":
        (heat,) = session.run(["heatmap"], {"x": np.concatenate([BOTH, np.zeros_like(BOTH)])})
        assert heat[0].any() and not heat[1].any()


def test_which_detection_a_class_is_shows_only_in_a_picture(tmp_path):
    with pytest.raises(InputError, match="only once the model has run"):
        analyzer.export(detector(), tmp_path / "out.onnx", target=1)


def test_grids_of_open_sizes_are_not_exported(tmp_path):
    net = detector()
    for axis in (2, 3):
        net.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    with pytest.raises((UnsupportedError, InputError)):
        analyzer.export(net, tmp_path / "out.onnx", target="top1")


# ---- Quantised outputs ----


def quantised(net: onnx.ModelProto) -> onnx.ModelProto:
    """The same with outputs of uint8, each with a scale of its own."""
    steps = {"box rows": (64 / 255, 0), "score rows": (1 / 255, 0)}
    for value in net.graph.output:
        scale, zero = steps[value.name]
        for made in net.graph.node:
            for at, name in enumerate(made.output):
                if name == value.name:
                    made.output[at] = f"{name}_real"
        net.graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(np.float32(scale), f"{value.name}_scale"),
                onnx.numpy_helper.from_array(np.uint8(zero), f"{value.name}_zero"),
            ]
        )
        read = [f"{value.name}_real", f"{value.name}_scale", f"{value.name}_zero"]
        net.graph.node.append(node("QuantizeLinear", read, [value.name]))
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return net


def test_quantised_outputs_are_what_they_stand_for(tmp_path):
    net = quantised(detector(joined=False))
    found, real = analyzer.explain(net, BOTH, "layer-cam"), analyzer.explain(detector(joined=False), BOTH, "layer-cam")
    ours, theirs = found.predicted(), real.predicted()
    assert {p.index for p in ours} == {p.index for p in theirs} == {0, 1}
    assert np.allclose(ours[0].score, theirs[0].score, atol=1 / 255) and ours[0].layer == theirs[0].layer
    boxes = {p.index: p.box for p in reversed(ours)}
    assert np.allclose(boxes[0], (40, 8, 48, 16), atol=64 / 255)
    session = onnxruntime.InferenceSession(str(analyzer.export(net, tmp_path / "out.onnx", "layer-cam")))
    assert np.allclose(session.run(["heatmap"], {"x": BOTH})[0], found.heatmap, atol=1e-5)


# ---- Where numbers come from ----


def test_numbers_are_followed_to_where_they_are_computed():
    graph = Graph.read(detector())
    found = origins(graph, graph["output0"])
    names = [v.name for v in found.sources]
    assert {"logits8", "logits16"} <= set(names)
    for at, name in enumerate(names):
        assert found.squashed[at] == ("Sigmoid" if name.startswith("logits") else "")
    place = 8 * 3 + 5  # the sixth cell of the fourth row of stride 8
    assert names[found.source[0, 4 + 1, place]] == "logits8"
    assert np.unravel_index(found.place[0, 4 + 1, place], (1, 3, 8, 8)) == (0, 1, 3, 5)


def test_an_output_without_its_sigmoid():
    net = detector()
    graph = Graph.read(net)
    op = Builder(graph, "t")
    added = graph.add_output(unsquashed(op, graph["output0"]), "plain")
    found = Session(graph, outputs=[added.name, "output0"]).run({"x": BOTH})
    plain, squashed = found[added.name], found["output0"]
    assert np.allclose(plain[:, :4], squashed[:, :4])
    assert np.allclose(1 / (1 + np.exp(-plain[:, 4:])), squashed[:, 4:], atol=1e-6)


def test_a_task_is_kept_as_plain_data():
    task = recognise(Graph.read(detector()))
    again = task_from(json.loads(json.dumps(task.as_data())))
    assert again.decoder == task.decoder and again.threshold == task.threshold


# ---- The shipped detector ----


@pytest.mark.parametrize("file", ["digits_detector.onnx", "digits_detector_int8.onnx"])
@pytest.mark.parametrize("picture", ["chelsea", "coffee", "rocket", "camera"])
def test_the_shipped_detector_finds_the_digits_and_looks_at_them(file, picture):
    path = ROOT / "models" / file
    card = model_card(path)
    pixels = decode(str(ROOT / "examples" / f"digits_{picture}.png"))
    batch, placement = card.preprocess.apply(pixels)
    found = analyzer.explain(path, batch, "layer-cam", "all", labels=card.labels)
    known = json.loads((ROOT / "examples" / "boxes.json").read_text())[f"digits_{picture}.png"]
    predicted = found.task.predictions(found.task.answer(found.said[0]), card.labels)
    right = 0
    for row, prediction in enumerate(predicted):
        box = np.array([placement.box_to_image(prediction.box)])
        if prediction.label not in known or iou(box, np.array([known[prediction.label]], float))[0, 0] < 0.5:
            continue
        heat = placement.map_to_image(found.heatmap[row])
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        x0, y0, x1, y1 = box[0]
        right += x0 <= x < x1 and y0 <= y < y1
    assert right >= 2


# ---- From the command line ----


def test_the_command_lists_and_explains(run, place):
    onnx.save(detector(), place / "m.onnx")
    picture = np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    write_png(place / "p.png", picture)
    (place / "names.txt").write_text("red\ngreen\nblue\n")
    flags = ("--preset", "0-1", "--labels", "names.txt")
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "-o", "heat.png")
    assert code == 0 and "red" in out and (place / "heat.png").exists()
    assert "layer-cam of red" in out and "map8" in out
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "-t", "green", "--format", "json")
    result = json.loads(out)["results"][0]
    assert code == 0 and result["maps"][0]["class"] == 1 and result["maps"][0]["label"] == "green"
    assert all(len(p["box"]) == 4 for p in result["predictions"])
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "-t", "blue")
    assert code == 0 and "nothing is detected with a score of 0.25 or more: blue" in out
    (blue,) = re.findall(r"blue; the highest score is ([0-9.]+), of blue in the box (.+)", out)
    scores = analyzer.explain(detector(), BOTH).scores[0].reshape(-1, 3)
    assert float(blue[0]) == pytest.approx(scores[:, 2].max(), rel=0.01) and len(blue[1].split()) == 4
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "--format", "coco")
    found = json.loads(out)
    assert code == 0 and {c["name"] for c in found["categories"]} == {"red", "green"}
    red = next(a for a in found["annotations"] if a["category_id"] == 0)
    assert red["bbox"] == [40, 8, 8, 8]
    code, out, _ = run("explain", "m.onnx", "p.png", *flags, "--score-threshold", "0.9999", "--format", "json")
    (result,) = json.loads(out)["results"]
    assert code == 0 and result["maps"] == [] and "of red in the box 40 8 48 16" in result["nothing"]
    code, out, _ = run("inspect", "m.onnx")
    assert code == 0 and "default layer: map8, map16" in out
    report = json.loads(run("inspect", "m.onnx", "--format", "json")[1])
    assert report["default_layers"] == ["map8", "map16"] and report["default_layer"] == "map8, map16"


def test_class_maps_refuse_detectors():
    with pytest.raises(UnsupportedError, match="no score per class"):
        analyzer.class_maps(detector(), BOTH)


def test_plan_and_localize_do_as_explain_does(run, place):
    onnx.save(detector(), place / "m.onnx")
    write_png(place / "p.png", np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8)))
    _, out, _ = run("plan", "m.onnx")
    assert out.startswith("layer-cam of") and "map8" in out
    code, out, _ = run("localize", "m.onnx", "p.png", "--preset", "0-1", "--format", "json")
    ((x0, y0, x1, y1),) = json.loads(out)["results"][0]["targets"][0]["boxes"]
    assert code == 0 and x0 < 48 and x1 > 40 and y0 < 16 and y1 > 8  # around the surest detection's heat


def test_invariance_refuses_detectors(run, place):
    onnx.save(detector(), place / "m.onnx")
    write_png(place / "p.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    code, _, err = run("invariance", "m.onnx", "p.png", "-o", "c.png", "--preset", "0-1")
    assert code == 3 and "detection" in err


def test_audit_judges_detections(run, place):
    """The heat of a square is around it; moved by half a cell, a square lies in two cells, each half as sure."""
    onnx.save(detector(), place / "m.onnx")
    write_png(place / "p.png", np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8)))
    code, out, _ = run("audit", "m.onnx", "p.png", "--preset", "0-1", "--format", "json")
    checks = {row["check"]: row for row in json.loads(out)["audit"]["checks"]}
    assert code == 1 and checks["own_region"]["value"] > 2 and checks["missed"]["found"]
    assert checks["accuracy"]["why"] == "a picture has any number of detections, not one class"
    code, out, _ = run("audit", "m.onnx", "p.png", "--preset", "0-1")
    assert code == 1 and "similarity to a random head: a detector with random weights" in " ".join(out.split())


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_class_of_a_detector_is_no_dream(run, place, batch):
    onnx.save(detector(batch=batch), place / "m.onnx")
    (place / "m.toml").write_text('task = "detection"\n')
    code, _, err = run("dream", "m.onnx", "-t", "1", "-o", "d.png")
    assert code == 3 and "no score per class (detection" in err


def test_the_same_part_is_hidden_in_pictures_of_a_detector(run, place):
    onnx.save(detector(), place / "m.onnx")
    picture = np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    for name in ("a.png", "b.png"):
        write_png(place / name, picture)
    part = {"square": [8, 40, 16, 48]}
    (place / "boxes.json").write_text(json.dumps({"a.png": part, "b.png": part}))
    code, out, _ = run("correspondence", "m.onnx", "boxes.json", "--preset", "0-1", "--format", "json")
    row = next(r for r in json.loads(out)["rows"] if r["part"] == "square")
    assert code == 0 and row["pictures"] == 2 and row["mean"] == 0


@pytest.mark.parametrize(("how", "size"), [("letterbox", (128, 64)), ("crop", (96, 64)), ("resize", (160, 120))])
def test_boxes_are_in_the_pictures_own_pixels(run, place, how, size):
    """A red square of the picture's middle, wherever the model's input has it."""
    onnx.save(detector(), place / "m.onnx")
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    scale = {"letterbox": (2.0, 2.0), "crop": (1.0, 1.0), "resize": (160 / 64, 120 / 64)}[how]
    offset = {"letterbox": (0.0, -32.0), "crop": (16.0, 0.0), "resize": (0.0, 0.0)}[how]
    expected = [(32 + dx) * s + o for dx, s, o in zip((0, 0), scale, offset, strict=True)]
    expected += [(40 + dx) * s + o for dx, s, o in zip((0, 0), scale, offset, strict=True)]
    x0, y0, x1, y1 = (round(v) for v in expected)
    picture[y0:y1, x0:x1, 0] = 255
    write_png(place / "p.png", picture)
    _, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--resize", how, "--format", "json")
    boxes = [p["box"] for p in json.loads(out)["results"][0]["predictions"]]
    slack = 2 if how == "crop" else 1  # the square is between two cells there
    assert boxes and np.abs(np.array(boxes[0]) - expected).max() < slack, (boxes, expected)


# ---- Trained detectors ----


@needs_corpus
@pytest.mark.parametrize(
    ("file", "picture", "usual"),
    [
        ("ultraface_rfb320.onnx", "zoo_ultraface_1.jpg", {"mean": "127", "std": "128", "scale": "1"}),
        ("fastestdet.onnx", "ort_dog.jpeg", {"preset": "0-1", "channels": "BGR"}),
        ("yolox_nano_opencvzoo.onnx", "ort_dog.jpeg", {"preset": "raw", "channels": "BGR", "resize": "letterbox"}),
        ("yunet_120x160.onnx", "zoo_ultraface_1.jpg", {"preset": "raw", "channels": "BGR"}),
        ("blazeface_front_barracuda.onnx", "coral_grace_hopper.bmp", {"preset": "-1-1", "resize": "letterbox"}),
        ("movenet_lightning_ptq.onnx", "coral_grace_hopper.bmp", {"preset": "raw"}),
        ("ppocr_en_number_rec.onnx", "../cases/situations/line.png", {"preset": "-1-1"}),
    ],
)
def test_an_exported_detector_equals_explain_on_a_photograph(tmp_path, file, picture, usual):
    path = CORPUS / "models" / file
    batch, _ = model_card(path, usual).preprocess.apply(decode(str(CORPUS / "images" / picture)))
    exported = analyzer.export(path, tmp_path / "out.onnx", "layer-cam")
    session = onnxruntime.InferenceSession(str(exported))
    (heat,) = session.run(["heatmap"], {session.get_inputs()[0].name: batch})
    found = analyzer.explain(path, batch, "layer-cam")
    assert heat.any() and np.abs(heat - found.heatmap).max() < 1e-3


@needs_corpus
@pytest.mark.parametrize(
    ("file", "picture", "label"),
    [
        ("yolox_nano_opencvzoo.onnx", "coral_cat_720p.jpg", "cat"),
        ("yolox_nano_opencvzoo.onnx", "coral_owl.jpg", "bird"),
        ("picodet_xs_416.onnx", "coral_bird.bmp", "bird"),
        ("picodet_xs_416.onnx", "coral_grace_hopper.bmp", "person"),
        ("fastestdet.onnx", "ort_dog.jpeg", "dog"),
    ],
)
def test_detectors_find_what_is_there_without_a_flag(run, place, file, picture, label):
    names = str(CORPUS / "images" / "coco_classes.txt")
    arguments = (str(CORPUS / "models" / file), str(CORPUS / "images" / picture), "--labels", names)
    code, out, _ = run("explain", *arguments, "--format", "json")
    result = json.loads(out)["results"][0]
    first = result["predictions"][0]
    assert code == 0 and first["label"] == label
    x, y = result["maps"][0]["maximum"]
    x0, y0, x1, y1 = first["box"]
    assert x0 <= x <= x1 and y0 <= y <= y1


# ---- Names that the file carries ----


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("{0: 'red', 1: 'green', 2: 'blue'}", "red"),
        ("['red', 'green', 'blue']", "red"),
        ("{0: 'red', 2: 'blue'}", "0"),
        ("{0: 'red', 1: __import__('os'), 2: 'blue'}", "0"),
        ("{0: 1, 1: 2, 2: 3}", "0"),
        ("(" * 10_000, "0"),
        ("red, green", "0"),
        ("", "0"),
    ],
)
def test_names_of_the_file_are_its_labels(run, place, text, label):
    net = detector()
    net.metadata_props.add(key="names", value=text)
    onnx.save(net, place / "m.onnx")
    write_png(place / "p.png", np.ascontiguousarray((BOTH[0].transpose(1, 2, 0) * 255).astype(np.uint8)))
    code, out, err = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--format", "json")
    found = {p["class"]: p["label"] for p in json.loads(out)["results"][0]["predictions"]}
    assert code == 0 and found[0] == label, err
    (place / "own.txt").write_text("a\nb\nc\n")
    _, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--labels", "own.txt", "--format", "json")
    assert {p["label"] for p in json.loads(out)["results"][0]["predictions"]} <= {"a", "b", "c"}


def test_names_of_another_network_are_no_error():
    net = detector()
    net.metadata_props.add(key="names", value=str({i: f"class {i}" for i in range(80)}))
    assert len(analyzer.explain(net, BOTH).heatmap) == 1


def test_usual_sizes() -> None:
    """Of the projects' own configurations; 640 for what is not known."""
    for family, side in {"YOLOv8-seg": 640, "PP-OCR": 960, "DETR": 800, "PicoDet": 416, "chosen by TopK": 640}.items():
        assert usual_of(family)[1]["size"] == (side, side)
    assert usual_of("chosen by TopK") == ("detectors", {"size": (640, 640)})
    assert usual_of("YOLOv8-seg")[0] == "YOLOv8-seg"
