"""Targets beyond classes: expressions against NumPy, and pointing on real detectors, a segmenter and an embedding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.localization import class_units
from analyzer.attribution.units import Units
from analyzer.errors import InputError, NotFoundError
from analyzer.graph import Builder, Graph
from analyzer.graph.query import image_input
from analyzer.images import decode, model_card
from analyzer.runtime import Session
from analyzer.tasks import recognise
from analyzer.tasks.base import ranked
from analyzer.tasks.targets import expression
from analyzer.validation import Side
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(0)


def detector(batch: int = 2, flat: bool = False) -> object:
    """Boxes (batch, 6, 4) and scores (batch, 6, 3) that are slices of the input; without the batch where `flat`."""
    nodes = [
        node("Slice", ["x", "zero", "four", "axis"], ["b4"]),
        node("Slice", ["x", "four", "seven", "axis"], ["s4"]),
        node("Squeeze", ["b4", "gone"], ["boxes"]),
        node("Squeeze", ["s4", "gone"], ["scores"]),
    ]
    numbers = {"zero": [0], "four": [4], "seven": [7], "axis": [3], "gone": [0, 1] if flat else [1]}
    first = [] if flat else [batch]
    return model(
        nodes,
        {"x": [batch, 1, 6, 7]},
        {"boxes": [*first, 6, 4], "scores": [*first, 6, 3]},
        {k: np.array(v) for k, v in numbers.items()},
    )


def value_of(net: object, text: str, x: np.ndarray, **arrays: np.ndarray) -> np.ndarray:
    graph = Graph.read(net)
    score = graph.add_output(expression(Builder(graph, "t"), text, arrays), "score")
    return Session(graph, outputs=[score.name]).run({"x": x})[score.name]


def iou(a: np.ndarray, b: tuple[float, ...]) -> float:
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return wide * high / (sum(areas) - wide * high)


@pytest.mark.parametrize(
    ("shape", "example"),
    [
        ((1, 22, 2100), "y[:, 4].max()"),  # YOLOv8
        ((1, 3549, 85), "y[:, :, 4].max()"),  # YOLOX
        ((1, 4420, 2), "y[:, :, 1].max()"),  # SSD
        ((1, 1000), ""),
        ((1, 1000, 1, 1), ""),
        ((1, 1, 10), ""),
    ],
)
def test_what_holds_no_scores_of_classes_is_doubted(shape, example):
    net = model(
        [node("Reshape", ["x", "s"], ["y"])],
        {"x": [1, 1, int(np.prod(shape)), 1]},
        {"y": list(shape)},
        {"s": np.array(shape)},
    )
    doubt = recognise(Graph.read(net)).doubt
    assert example in doubt and bool(doubt) == bool(example)


def test_the_doubt_is_told_of_classes_only():
    x = RNG.random((2, 1, 6, 7)).astype(np.float32)
    found = [
        analyzer.explain(detector(), x, "occlusion", t, output="scores").doubt for t in (4, "scores[:, :, 1].max()")
    ]
    assert "scores [2, 6, 3]" in found[0] and not found[1]
    for method in ("gradient", "occlusion"):
        assert analyzer.explain(detector(), x, method, 0, output="scores").doubt == found[0]


def test_boxes_that_were_chosen_are_doubted():
    """(?, 4): four numbers for each of some boxes, not four classes of each image."""
    nodes = [
        node("Reshape", ["x", "s"], ["rows"]),
        node("ReduceMax", ["rows"], ["best"], axes=[1], keepdims=0),
        node("Greater", ["best", "half"], ["chosen"]),
        node("Compress", ["rows", "chosen"], ["boxes"], axis=0),
    ]
    weights = {"s": np.array([6, 4]), "half": np.float32(0.5)}
    net = model(nodes, {"x": [1, 1, 6, 4]}, {"boxes": [None, 4]}, weights)
    x = np.zeros((1, 1, 6, 4), np.float32)
    x[0, 0, [1, 3, 4], 2] = 1
    assert "'boxes' has 3 rows for 1 image," in analyzer.explain(net, x, "gradient", 2).doubt


def test_expressions_are_what_they_say():
    x = RNG.random((2, 1, 6, 7)).astype(np.float32)
    x[..., 2:4] += x[..., :2]
    boxes, scores = x[:, 0, :, :4], x[:, 0, :, 4:]
    overlap = np.array([[iou(b, (0.2, 0.3, 0.9, 1.0)) for b in row] for row in boxes])
    centred = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    overlap_centred = np.array([[iou(b, (0.2, 0.3, 0.9, 1.0)) for b in row] for row in centred])
    soft = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    mask = np.array([1, 0, 1, 1, 0, 0], bool)
    reference = RNG.random(18).astype(np.float32)
    flat = scores.reshape(2, -1)
    cosine = flat @ reference / np.linalg.norm(flat, axis=1) / np.linalg.norm(reference)
    expected = {
        "scores[:, :, 1].where(boxes.iou(0.2, 0.3, 0.9, 1) > 0.1)": (scores[..., 1] * (overlap > 0.1)).sum(1),
        "scores[:, :, 1].where(boxes.corners().iou(0.2, 0.3, 0.9, 1) >= 0.1)":
            (scores[..., 1] * (overlap_centred >= 0.1)).sum(1),
        "boxes.iou(0.2, 0.3, 0.9, 1).max()": overlap.max(1),
        "scores[..., 2].where(scores.argmax(2) == 2)": (scores[..., 2] * (scores.argmax(2) == 2)).sum(1),
        "scores.softmax(2)[:, 4, 0]": soft[:, 4, 0],
        "scores.sigmoid().max(2).mean()": (1 / (1 + np.exp(-scores))).max(2).mean(1),
        "scores[..., 0].where(mask)": (scores[..., 0] * mask).sum(1),
        "scores.cosine(reference)": cosine,
        "1 - scores[:, 0, 0] / 2": 1 - scores[:, 0, 0] / 2,
    }  # fmt: skip
    for text, wanted in expected.items():
        found = value_of(detector(), text, x, mask=mask, reference=reference)
        assert found.shape == (2,) and np.allclose(found, wanted, atol=1e-5), text


def test_without_a_batch_the_answer_is_one_number():
    x = RNG.random((1, 1, 6, 7)).astype(np.float32)
    for text, wanted in {
        "scores[:, 1].max()": x[0, 0, :, 5].max(),
        "scores[3, 2]": x[0, 0, 3, 6],
        "scores[:, 1].where(scores[:, 1] > 0.5)": x[0, 0, :, 5][x[0, 0, :, 5] > 0.5].sum(),
    }.items():
        found = value_of(detector(1, flat=True), text, x)
        assert found.shape == (1,) and np.allclose(found, wanted, atol=1e-6), text
    gradient = analyzer.explain(detector(1, flat=True), x, "gradient", "scores[:, 1].max()").raw
    assert gradient.sum() == 1 and gradient[0, 0, x[0, 0, :, 5].argmax(), 5] == 1


@pytest.mark.parametrize(("text", "error", "says"), [
    ("scores.cosine(reference)", InputError, "no array 'reference'"),
    ("scores.iou(0, 0, 1, 1)", InputError, "4 numbers"),
    ("boxes.iou(0, 0, 1)", InputError, "4 arguments"),
    ("boxes.nms()", InputError, "can be called"),
    ("scores.argmax(2)", InputError, "no gradient"),
    ("scores.max(7)", InputError, "axis 7 is out of range"),
    ("scores[..., ..., 1]", InputError, "indices"),
    ("score.max()", NotFoundError, "scores"),
    ("(1).max()", InputError, "is not a tensor"),
    ("1 < scores[:, 0, 0] < 2", InputError, "only a single"),
])  # fmt: skip
def test_wrong_expressions_are_one_clear_error(text, error, says):
    with pytest.raises(error, match=says):
        analyzer.explain(detector(), RNG.random((2, 1, 6, 7)).astype(np.float32), "gradient", text)


# ---- Real models ----

BGR = {"preset": "raw", "channels": "BGR"}
CAT = (200, 60, 960, 720)  # coral_cat_720p.jpg
# Model, preprocessing, target, picture, box around what is pointed at.
DETECTORS = {
    "yolox": ("yolox_nano_opencvzoo", {**BGR, "resize": "letterbox", "size": (416, 416)},
              "(output[:, :, 4] * output[:, :, 20]).max()", "coral_cat_720p.jpg", CAT),
    "picodet": ("picodet_xs_416", {"preset": "imagenet", "channels": "BGR"},
                '"transpose_4.tmp_0"[:, :, 15].max()', "coral_cat_720p.jpg", CAT),
    "fastestdet": ("fastestdet", {"preset": "0-1", "channels": "BGR"}, '("758"[:, 0] * "758"[:, 20]).max()',
                   "coral_cat_720p.jpg", CAT),
    "ultraface": ("ultraface_rfb320", {"mean": (127,), "std": (128,), "scale": 1, "channels": "RGB"},
                  "scores[:, :, 1].where(boxes.iou(0.29, 0.48, 0.34, 0.62) > 0.4)", "zoo_ultraface_1.jpg",
                  (275, 320, 370, 470)),
    "yunet": ("yunet_n_dynamic", {**BGR, "size": (320, 320)}, "(cls_32 * obj_32).max()", "coral_grace_hopper.bmp",
              (150, 90, 360, 360)),
    "yunet without batch": ("yunet_120x160", BGR, "conf[:, 1].max()", "coral_grace_hopper.bmp", (150, 90, 360, 360)),
}  # fmt: skip


def prepared(name: str, flags: dict, picture: str) -> tuple:
    path = CORPUS / "models" / f"{name}.onnx"
    explainer = Explainer(path)
    given = image_input(explainer.plain)
    card = model_card(path, flags, given.shape, given.dtype)
    batch, placement = card.preprocess.apply(decode(CORPUS / "images" / picture))
    return explainer, batch, placement, card


@needs_corpus
@pytest.mark.parametrize(
    ("detector", "method"),
    [*((d, "layer-cam") for d in DETECTORS), ("ultraface", "occlusion")],
)
def test_detectors_point_at_what_they_found(detector, method):
    name, flags, target, picture, box = DETECTORS[detector]
    explainer, batch, placement, _ = prepared(name, flags, picture)
    options = {"patch": max(batch.shape) // 14} if method == "occlusion" else {}
    found = explainer.explain(batch, method, target, **options)
    heat = placement.map_to_image(found.heatmap[0])
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert found.diagnosis == [""]
    assert box[0] <= x <= box[2] and box[1] <= y <= box[3]


@needs_corpus
def test_a_segmenter_over_the_mask_of_a_bird():
    explainer, batch, placement, _ = prepared(
        "deeplab_v3_mnv2_tf2onnx", {"preset": "-1-1"}, "coral_bird_segmentation.bmp"
    )
    truth = decode(CORPUS / "images" / "coral_bird_segmentation_mask.bmp").max(axis=2)
    target = "ResizeBilinear_3[..., 3].where(ResizeBilinear_3.argmax(3) == 3)"
    for method in ("grad-cam", "layer-cam", "ablation-cam"):
        found = explainer.explain(batch, method, target)
        assert found.layer == "Relu__94:0" and found.raw.shape == (1, 33, 33)
        heat = placement.map_to_image(found.heatmap[0])
        assert heat[truth > truth.max() / 2].mean() > 2 * heat[truth <= truth.max() / 2].mean()


@needs_corpus
def test_an_embedding_by_its_likeness_to_a_reference():
    explainer, batch, _, card = prepared("person_reid_0248", BGR, "coral_grace_hopper.bmp")
    other = decode(CORPUS / "images" / "coral_grace_hopper.bmp")[:, ::-1]
    reference = card.preprocess.apply(np.ascontiguousarray(other[30:, 40:]))[0]
    target = '"Identity:0".cosine(reference)'
    (found,) = answer(explainer, Question((Job("gradient"),), target, references={"reference": reference}), batch)
    step = 0.5 * batch.std() * found.raw / np.abs(found.raw).max()
    score = []
    for image in (batch, batch + step):
        a, b = (analyzer.features(explainer.loaded, x, ["Identity:0"])["Identity:0"][0] for x in (image, reference))
        score.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert score[1] > score[0]


# ---- The class that is named is the class that is explained ----


def head(*end: object, shape: list, size: int = 8, classes: int = 5, seed: int = 0, weights: dict | None = None):
    """Conv–Relu–Conv to `classes` channels at every position, named "logits", and then `end`, which gives "y"."""
    rng = np.random.default_rng(seed)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["logits"]),
        *end,
    ]
    given = {
        "w1": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "w2": (2 * rng.standard_normal((classes, 6, 1, 1))).astype(np.float32),
    }
    return model(nodes, {"x": ["N", 3, size, size]}, {"y": shape}, given | (weights or {}))


SOFTMAX = node("Softmax", ["logits"], ["p"], axis=1)
OUT = {
    name: np.array(shape)
    for name, shape in (("flat", [0, 5, -1]), ("all", [0, -1]), ("one", [5, 8, 8]), ("ten", [0, 10, 4, 8]))
}
HEADS = {
    "segmenter": (node("Softmax", ["logits"], ["y"], axis=1),),
    "reshaped segmenter": (SOFTMAX, node("Reshape", ["p", "flat"], ["y"])),
    "every position a class": (SOFTMAX, node("Reshape", ["p", "all"], ["y"])),
    "last channels": (SOFTMAX, node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1])),
    "other grid": (SOFTMAX, node("Reshape", ["p", "ten"], ["y"])),
    "sigmoids": (node("Sigmoid", ["logits"], ["y"]),),
    "saturated": (node("Mul", ["logits", "fifty"], ["m"]), node("HardSigmoid", ["m"], ["h"]),
                  node("Reshape", ["h", "all"], ["y"])),
    "half precision": (node("GlobalAveragePool", ["logits"], ["g"]), node("Flatten", ["g"], ["f"]),
                       node("Softmax", ["f"], ["s"]), node("Cast", ["s"], ["y"], to=10)),
    "integers": (node("GlobalAveragePool", ["logits"], ["g"]), node("Flatten", ["g"], ["f"]),
                 node("QuantizeLinear", ["f", "fifty", "zero"], ["y"])),
    "no batch": (node("Squeeze", ["logits", "first"], ["l"]), node("Softmax", ["l"], ["y"], axis=0)),
    "time first": (node("ReduceMean", ["logits"], ["m"], axes=[2], keepdims=0),
                   node("Transpose", ["m"], ["t"], perm=[2, 0, 1]), node("Softmax", ["t"], ["y"], axis=2)),
    "not a number": (node("GlobalAveragePool", ["logits"], ["g"]), node("Flatten", ["g"], ["f"]),
                     node("Sqrt", ["f"], ["q"]), node("Softmax", ["f"], ["s"]), node("Mul", ["q", "s"], ["y"])),
}  # fmt: skip
SHAPES = {"segmenter": ["N", 5, 8, 8], "reshaped segmenter": ["N", 5, 64], "every position a class": ["N", 320],
          "other grid": ["N", 10, 4, 8], "last channels": ["N", 8, 8, 5],
          "sigmoids": ["N", 5, 8, 8], "saturated": ["N", 320], "no batch": [5, 8, 8],
          "time first": [8, "N", 5]}  # fmt: skip


def net_of(kind: str, seed: int):
    weights = OUT | {"fifty": np.float32(50), "zero": np.int8(0), "first": np.array([0])}
    net = head(*HEADS[kind], shape=SHAPES.get(kind, ["N", 5]), seed=seed, weights=weights)
    element = {"half precision": 10, "integers": 3}.get(kind, 1)
    net.graph.output[0].type.tensor_type.elem_type = element
    return net


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", HEADS)
def test_the_class_that_is_named_is_explained(kind, count):
    if kind == "no batch" and count > 1:
        pytest.skip("the file takes one image")
    others = 0
    for seed in range(12):
        net = net_of(kind, seed)
        x = np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)
        explainer = Explainer(net)
        for found in explainer.explain_all(
            x, [Job("gradient"), Job("grad-cam"), Job("occlusion", "auto", {"patch": 8})]
        ):
            said = [found.task.says_nothing(s["y"]) for s in found.said]
            assert len(found.scores) == count and list(found.image) == [i for i in range(count) if not said[i]]
            assert (found.task.best(found.scores)[found.image] == found.target).all()
        named = found.task.best(found.scores)
        raw = explainer.explain(x, "gradient").raw
        for row, i in enumerate(found.image.tolist()):
            single = explainer.explain(x[i : i + 1], "gradient", int(named[i]))
            assert np.allclose(single.raw[0], raw[row], atol=1e-5, equal_nan=True)
        scores = recognise(explainer.graph({"x": x[:1].shape}))
        graph = explainer.graph({"x": x[:1].shape})
        task = recognise(graph)
        axes = [a for a in range(1, len(task.logits.shape)) if a in task.space]
        highest = Session(graph, outputs=[graph.add_output(task.logits, "t/logits").name]).run({"x": x[:1]})["t/logits"]
        highest = highest.mean(axis=tuple(axes)) if axes else highest.reshape(1, -1)
        others += int(highest.argmax() != named[0])
        assert scores.classes == found.scores.shape[1]
        if kind in ("segmenter", "every position a class", "other grid"):  # of which the grid is not the logits'
            assert scores.classes == (5 if kind == "segmenter" else 320)
    if kind in ("segmenter", "reshaped segmenter", "every position a class", "saturated"):
        assert others, "the highest logit is always the highest output: the case shows nothing"


def test_an_expression_over_a_map_is_explained_at_the_layer_of_its_classes():
    net, x = net_of("segmenter", 0), RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    explainer = Explainer(net)
    one, other = (
        explainer.explain(x, "grad-cam", target) for target in (2, "logits[:, 2].where(logits.argmax(1) == 2).mean()")
    )
    assert one.layer == other.layer == "r1"
    assert np.allclose(one.raw, other.raw, atol=1e-6)


def test_units_are_those_of_the_layer_before_the_scores_wherever_these_are_in_the_file():
    net = small_cnn(softmax=False)
    net.graph.output.insert(0, onnx.helper.make_tensor_value_info("r1", onnx.TensorProto.FLOAT, ["N", 8, 12, 12]))
    explainer, x = Explainer(net), RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
    assert Units.of(explainer.graph({"x": x.shape})).name == explainer.explain(x).layer == "r2"


@pytest.mark.parametrize("kind", ["segmenter", "reshaped segmenter", "saturated", "half precision", "integers"])
def test_an_exported_file_explains_the_class_that_it_names(kind, tmp_path):
    for seed in range(6):
        net, x = net_of(kind, seed), np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)
        path = analyzer.export(net, tmp_path / f"{seed}.onnx", "hires-cam", input_shapes={"x": (2, 3, 8, 8)})
        y, heat = onnxruntime.InferenceSession(str(path)).run(["y", "heatmap"], {"x": x})
        task = recognise(Graph.read(net))
        found = analyzer.explain(net, x, "hires-cam", task.best(task.read(y, 2)))
        assert np.allclose(heat, found.heatmap, atol=1e-5)


def test_sides_and_units_take_the_class_that_is_named():
    for seed in range(6):
        net, x = net_of("segmenter", seed), np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)
        explainer = Explainer(net)
        found = explainer.explain(x)
        side = Side(explainer, x.shape)
        assert side.scores.best(side.classes(x)[None])[0] == found.target[0]
        top, named = (class_units(explainer, x, t)[0] for t in ("top1", int(found.target[0])))
        assert np.array_equal(top, named)


@needs_corpus
def test_a_text_recogniser_explains_the_character_that_it_names():
    explainer = Explainer(CORPUS / "models" / "ppocr_en_number_rec.onnx")
    rng = np.random.default_rng(0)
    for _ in range(8):
        x = np.clip(np.repeat(rng.standard_normal((1, 1, 32, 160)), 3, axis=1), -1, 1).astype(np.float32)
        found = explainer.explain(x, "gradient", "all")
        best = found.said[0][found.task.output.name][0].argmax(-1)
        said = [int(c) for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
        assert [int(name.split()[1]) for name in found.names] == said


def test_the_printed_table_begins_with_what_argmax_takes():
    scores = np.array([0.1, 3, 2, 3, np.nan, 3])
    assert list(ranked(scores)) == [4, 1, 3, 5, 2, 0]
    assert list(ranked(np.array([7, 255, 255], np.uint8))) == [1, 2, 0]
