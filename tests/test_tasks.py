"""What kind of model it is, what it says, and that what it says is what is explained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_of
from analyzer.errors import InputError, NotFoundError
from analyzer.graph import Graph
from analyzer.images import write_png
from analyzer.tasks import KINDS, Declared, recognise, task_from
from tests.corpus import CORPUS, needs_corpus
from tests.models import model, node

Run = Callable[..., tuple[int, str, str]]
SIZE = 16
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def colours(*end: onnx.NodeProto, outputs: dict, size: tuple[int, int] = (SIZE, SIZE), **weights: np.ndarray):
    """A map "seen" of three channels, how red, how green and how dark the pixels around are, and then `end`."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[0, 0], kernel[0, 1:], kernel[1, 1], kernel[1, ::2] = 1, -1, 1, -1
    kernel[2] = -0.25
    nodes = [
        node("Conv", ["x", "kernel", "bias"], ["found"], pads=[1, 1, 1, 1]),
        node("Relu", ["found"], ["seen"]),
        node("Conv", ["seen", "mix"], ["logits"]),
        *end,
    ]
    mix = (0.5 * np.eye(3, dtype=np.float32)).reshape(3, 3, 1, 1)
    given = {"kernel": kernel / 3, "bias": np.array([0, 0, 1], np.float32), "mix": mix}
    return model(nodes, {"x": [1, 3, *size]}, outputs, given | weights)


def scene(**squares: tuple[int, int]) -> np.ndarray:
    """(1, 3, 16, 16) in 0 … 1: black, with 5×5 squares of a colour, by the corner of each."""
    picture = np.zeros((SIZE, SIZE, 3), np.float32)
    for name, (y, x) in squares.items():
        picture[y : y + 5, x : x + 5] = np.array({"red": RED, "green": GREEN}[name]) / 255
    return picture.transpose(2, 0, 1)[None]


POOL = (node("GlobalAveragePool", ["logits"], ["pooled"]), node("Flatten", ["pooled"], ["row"]))
ONE = np.array([[1.0], [0], [0]], np.float32)
SINGLE = (*POOL, node("MatMul", ["row", "one"], ["number"]), node("Add", ["number", "shift"], ["logit"]))
SHIFT = np.array([-0.04], np.float32)
BINARY = colours(*SINGLE, node("Sigmoid", ["logit"], ["prob"]), outputs={"prob": [1, 1]}, one=ONE, shift=SHIFT)
LOGIT = colours(*SINGLE, outputs={"logit": [1, 1]}, one=ONE, shift=SHIFT)
SEGMENTERS = {
    "softmax": colours(node("Softmax", ["logits"], ["y"], axis=1), outputs={"y": [1, 3, SIZE, SIZE]}),
    "logits": colours(node("Identity", ["logits"], ["seg"]), outputs={"seg": [1, 3, SIZE, SIZE]}),
    "argmax": colours(node("ArgMax", ["logits"], ["y"], axis=1, keepdims=0), outputs={"y": [1, SIZE, SIZE]}),
    "channels last": colours(
        node("Transpose", ["logits"], ["t"], perm=[0, 2, 3, 1]), node("Softmax", ["t"], ["y"], axis=3),
        outputs={"y": [1, SIZE, SIZE, 3]},
    ),
}  # fmt: skip
SEGMENTERS["argmax"].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
MASK = colours(
    node("Slice", ["logits", "zero", "first", "axis"], ["red"]), node("Sub", ["red", "half"], ["logit"]),
    node("Sigmoid", ["logit"], ["mask"]), outputs={"mask": [1, 1, SIZE, SIZE]},
    zero=np.array([0]), first=np.array([1]), axis=np.array([1]), half=np.float32(0.2),
)  # fmt: skip


# ---- Recognised ----


def reader(order: str = "NTC", end: str = "Softmax", classes: int = 4):
    """Reads marks by their height in a line of 8×32: the rows 0, 2 and 5 are characters 1, 2 and 3, else blank."""
    kernel = np.zeros((classes, 1, 8, 4), np.float32)
    for row, index in ((0, 1), (2, 2), (5, 3)):
        kernel[index % classes, 0, row] = 1
    kernel[0] = 0.1
    bias = np.zeros(classes, np.float32)
    bias[0] = 1
    nodes = [
        node("Conv", ["line", "kernel", "bias"], ["marks"], strides=[1, 4]),
        node("Relu", ["marks"], ["seen"]),
        node("Squeeze", ["seen", "two"], ["flat"]),
        node("Transpose", ["flat"], ["steps"], perm=[0, 2, 1] if order == "NTC" else [2, 0, 1]),
        node(end, ["steps"], ["text"], axis=2)
        if end != "ArgMax"
        else node(end, ["steps"], ["text"], axis=2, keepdims=0),
    ]
    shape = [1, 8, classes] if order == "NTC" else [8, 1, classes]
    net = model(nodes, {"line": [1, 1, 8, 32]}, {"text": shape[: 3 - (end == "ArgMax")]}, {
        "kernel": kernel, "bias": bias, "two": np.array([2]),
    })  # fmt: skip
    if end == "ArgMax":
        net.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return net


def line(*marks: int) -> np.ndarray:
    """A line with the mark of a character in each cell of four columns; 0 for none."""
    picture = np.zeros((1, 1, 8, 32), np.float32)
    for cell, index in enumerate(marks):
        if index:
            picture[0, 0, {1: 0, 2: 2, 3: 5}[index], 4 * cell : 4 * cell + 4] = 1
    return picture


NORM = (*POOL, node("LpNormalization", ["row"], ["y"], axis=1, p=2))
CASES = {
    "softmax": (colours(*POOL, node("Softmax", ["row"], ["y"]), outputs={"y": [1, 3]}), "classification", "y"),
    "logits": (colours(*POOL, outputs={"row": [1, 3]}), "classification", "row"),
    "sigmoids": (
        colours(*POOL, node("Sigmoid", ["row"], ["y"]), outputs={"y": [1, 3]}), "multi-label classification", "y",
    ),
    "probability": (BINARY, "binary classification", "prob"),
    "logit": (LOGIT, "binary classification", "logit"),
    "value": (
        colours(*SINGLE, node("Mul", ["logit", "years"], ["age"]), outputs={"age": [1, 1]}, one=ONE, shift=SHIFT,
                years=np.float32(80)), "regression", "age",
    ),
    "embedding": (colours(*NORM, outputs={"y": [1, 3]}), "embedding", "y"),
    **{name: (net, "segmentation", net.graph.output[0].name) for name, net in SEGMENTERS.items()},
    "mask": (MASK, "segmentation", "mask"),
    "depth": (
        colours(node("ReduceMean", ["logits"], ["depth"], axes=[1]), outputs={"depth": [1, 1, SIZE, SIZE]}),
        "dense prediction", "depth",
    ),
    "text": (reader(), "text recognition", "text"),
    "text, time first": (reader("TNC", "LogSoftmax"), "text recognition", "text"),
    "text, ArgMax inside": (reader("NTC", "ArgMax"), "text recognition", "text"),
    "boxes first": (
        colours(*POOL, node("MatMul", ["row", "four"], ["bbox"]), node("Softmax", ["row"], ["y"]),
                outputs={"bbox": [1, 4], "y": [1, 3]}, four=np.ones((3, 4), np.float32)), "classification", "y",
    ),
    "candidates": (
        colours(node("Reshape", ["logits", "rows"], ["s"]), node("Sigmoid", ["s"], ["scores"]),
                node("Concat", ["s", "s"], ["b"], axis=1), node("Reshape", ["b", "four"], ["boxes"]),
                outputs={"scores": [1, 3, 256], "boxes": [1, 384, 4]}, rows=np.array([1, 3, -1]),
                four=np.array([1, -1, 4])), "raw", "scores",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_kind_and_the_output_are_recognised(name):
    net, kind, output = CASES[name]
    task = recognise(Graph.read(net))
    assert (task.kind, task.output.name) == (kind, output), task.evidence
    assert task.evidence and [r.output for r in task.others] == [o.name for o in net.graph.output if o.name != output]
    again = task_from(json.loads(json.dumps(task.as_data())))
    assert type(again) is type(task) and again.as_data() == task.as_data()


def test_a_card_wins_over_guesses():
    graph = Graph.read(CASES["logit"][0])
    assert recognise(graph, declared=Declared("regression")).kind == "regression"
    assert recognise(Graph.read(CASES["logits"][0]), declared=Declared("Embedding")).kind == "embedding"
    boxes = Graph.read(CASES["boxes first"][0])
    assert recognise(boxes, declared=Declared(outputs={"bbox": "main"})).output.name == "bbox"
    with pytest.raises(InputError, match="'regresion' of the model's TOML file is not known"):
        recognise(graph, declared=Declared("regresion"))
    with pytest.raises(InputError, match="cannot be segmentation"):
        recognise(graph, declared=Declared("segmentation"))
    with pytest.raises(NotFoundError, match="no output 'pob'"):
        recognise(graph, "pob")
    assert set(KINDS) >= {kind for _, kind, _ in CASES.values()}


def test_a_card_chooses_the_output_of_class_maps():
    explainer = Explainer(CASES["boxes first"][0])
    x = scene(red=(1, 9))
    by_name = analyzer.class_maps(explainer, x, output="bbox")
    assert len(analyzer.class_maps(explainer, x)) == 3 and len(by_name) == 4
    explainer.declared = Declared(outputs={"bbox": "main"})
    assert np.array_equal(analyzer.class_maps(explainer, x), by_name)


# ---- One number ----


@pytest.mark.parametrize("net", [BINARY, LOGIT], ids=["probability", "logit"])
def test_below_the_threshold_the_negative_class_is_explained(net):
    with_red, without = scene(red=(2, 9)), scene(green=(9, 2))
    positive, negative = (analyzer.explain(net, x, "gradient") for x in (with_red, without))
    assert positive.target.tolist() == [1] and negative.target.tolist() == [0]
    assert positive.task.label(1, None) == "positive class" and negative.task.label(0, None) == "negative class"
    assert negative.value[0] > negative.task.threshold and np.isclose(negative.value[0], negative.scores[0, 0])
    for x in (with_red, without):
        a, b = (analyzer.explain(net, x, "gradient", target).raw for target in (0, 1))
        assert np.allclose(a, -b) and a.any() == (x is with_red)
    found = analyzer.explain(net, with_red, "layer-cam")
    y, x = np.unravel_index(found.heatmap[0].argmax(), (SIZE, SIZE))
    assert 2 <= y < 7 and 9 <= x < 14


def test_labels_of_one_number_are_one_or_two(run: Run, place: Path):
    onnx.save(BINARY, place / "m.onnx")
    write_png(place / "p.png", (scene(green=(9, 2))[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    (place / "two.txt").write_text("not red\nred\n")
    (place / "three.txt").write_text("a\nb\nc\n")
    code, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--labels", "two.txt")
    assert code == 0 and "grad-cam of not red" in out
    code, _, err = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--labels", "three.txt")
    assert code == 2 and "3 labels are given" in err and "has 2 classes" in err


# ---- Segmentation ----


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_a_class_of_a_segmenter_is_explained_where_it_wins(kind):
    """Against torch's definition by hand: the logits of the class, where it is the highest, per position."""
    net, x = SEGMENTERS[kind], scene(red=(1, 9), green=(9, 2))
    (logits,) = onnxruntime.InferenceSession(probe(net, "logits")).run(["logits"], {"x": x})
    won = logits.argmax(axis=1) == 1
    found = analyzer.explain(net, x, "gradient", 1)
    tensor = "t" if kind == "channels last" else "logits"
    place = "[:, :, :, 1]" if kind == "channels last" else "[:, 1]"
    axis = 3 if kind == "channels last" else 1
    other = analyzer.explain(net, x, "gradient", f"{tensor}{place}.where({tensor}.argmax({axis}) == 1).mean()")
    assert np.allclose(found.raw, other.raw, atol=1e-6) and found.raw.any()
    assert np.isclose(other.value[0], (logits[:, 1] * won).mean(), atol=1e-5)
    assert np.isclose(found.scores[0, 1], won.mean()) and np.isclose(found.value[0], won.mean())


def probe(net: onnx.ModelProto, tensor: str) -> bytes:
    """The model with that tensor as an output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return copy.SerializeToString()


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_the_default_of_a_segmenter_is_its_largest_class_but_the_background(kind):
    net = SEGMENTERS[kind]
    explainer = Explainer(net, labels=["red", "green", "background"])
    found = explainer.explain(scene(green=(9, 2)), "layer-cam")
    assert found.target.tolist() == [1] and found.task.background == 2
    y, x = np.unravel_index(found.heatmap[0].argmax(), (SIZE, SIZE))
    assert 8 <= y < 15 and 1 <= x < 8
    nothing = explainer.explain(scene(), "layer-cam")
    assert len(nothing.heatmap) == 0 and "background" in nothing.task.nothing
    every = explainer.explain(scene(red=(1, 9), green=(9, 2)), "layer-cam", "all")
    assert sorted(every.target.tolist()) == [0, 1]


def test_a_mask_is_explained_and_an_empty_one_is_said(run: Run, place: Path):
    onnx.save(MASK, place / "m.onnx")
    for name, picture in (("red", scene(red=(2, 9))), ("black", scene())):
        write_png(place / f"{name}.png", (picture[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    code, out, _ = run("explain", "m.onnx", "red.png", "black.png", "--preset", "0-1", "--format", "json", "-o", "o")
    red, black = json.loads(out)["results"]
    assert code == 0 and red["maps"][0]["label"] == "mask" and red["nothing"] is None
    assert black["maps"] == [] and "no pixel is in the mask" in black["nothing"]
    assert (place / "o" / "red.png").exists() and not (place / "o" / "black.png").exists()


# ---- Text ----


@pytest.mark.parametrize(
    ("order", "end"), [("NTC", "Softmax"), ("TNC", "LogSoftmax"), ("NTC", "ArgMax"), ("TNC", "ArgMax")]
)
def test_a_character_is_explained_where_it_stands(order, end):
    net, x = reader(order, end), line(0, 3, 3, 0, 1, 0, 2, 0)
    explainer = Explainer(net, labels=["a", "b", "c"])
    found = explainer.explain(x, "gradient", "all")
    assert found.names == ["character:0 c", "character:1 a", "character:2 b"]
    for row, cells in enumerate([(1, 2), (4,), (6,)]):
        columns = np.flatnonzero(np.abs(found.raw[row, 0]).sum(axis=0))
        assert set(columns // 4) <= set(cells) and len(columns)
    one = explainer.explain(x, "gradient", "character:1")
    assert np.array_equal(one.raw[0], found.raw[1])
    whole = explainer.explain(x, "gradient")
    assert whole.names == ["text 'cab'"]
    assert set(np.flatnonzero(np.abs(whole.raw[0, 0]).sum(axis=0)) // 4) == {1, 2, 4, 6}
    with pytest.raises(NotFoundError, match="no character 3: the model reads 3 characters"):
        explainer.explain(x, "gradient", "character:3")
    assert len(explainer.explain(line(), "gradient").heatmap) == 0


def test_the_blank_is_the_class_that_an_empty_line_has():
    net = reader(classes=4)
    for name, axis in (("kernel", 0), ("bias", 0)):
        tensor = next(t for t in net.graph.initializer if t.name == name)
        rolled = np.roll(onnx.numpy_helper.to_array(tensor), -1, axis=axis)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(rolled), name))
    found = Explainer(net, labels=["a", "b", "c"]).explain(line(1, 0, 2), "gradient", "all")
    assert found.task.blank == 3 and [n.split()[1] for n in found.names] == ["a", "b"]


# ---- Values and vectors ----


def test_an_embedding_has_no_classes(run: Run, place: Path):
    net = CASES["embedding"][0]
    onnx.save(net, place / "m.onnx")
    x, other = scene(red=(1, 9)), scene(red=(9, 2), green=(1, 1))
    for name, picture in (("a", x), ("b", other)):
        write_png(place / f"{name}.png", (picture[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    session = onnxruntime.InferenceSession(net.SerializeToString())
    a, b = (session.run(["y"], {"x": p})[0][0] for p in (x, other))
    code, out, _ = run("explain", "m.onnx", "a.png", "--preset", "0-1", "--reference", "b.png", "--format", "json")
    (result,) = json.loads(out)["results"]
    assert code == 0 and result["top"] == [] and result["task"]["kind"] == "embedding"
    assert np.isclose(result["maps"][0]["value"], a @ b, atol=1e-3)
    alone = analyzer.explain(net, x, "layer-cam")
    y, x = np.unravel_index(alone.heatmap[0].argmax(), (SIZE, SIZE))
    assert alone.names == ["embedding"] and 1 <= y < 6 and 9 <= x < 14


def test_a_value_is_printed_and_explained(run: Run, place: Path):
    net = CASES["value"][0]
    onnx.save(net, place / "m.onnx")
    write_png(place / "a.png", (scene(red=(1, 9))[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    said = onnxruntime.InferenceSession(net.SerializeToString()).run(["age"], {"x": scene(red=(1, 9))})[0].item()
    code, out, _ = run("explain", "m.onnx", "a.png", "--preset", "0-1", "--format", "json")
    (result,) = json.loads(out)["results"]
    assert code == 0 and result["top"] == [] and np.isclose(result["predictions"][0]["score"], said, rtol=1e-4)
    assert result["maps"][0]["label"] == "age" and np.isclose(result["maps"][0]["value"], said, rtol=1e-4)


# ---- Several outputs ----


def test_the_chosen_output_is_named_and_others_can_be_explained(run: Run, place: Path):
    net = CASES["boxes first"][0]
    onnx.save(net, place / "m.onnx")
    write_png(place / "a.png", (scene(red=(1, 9))[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    code, out, err = run("explain", "m.onnx", "a.png", "--preset", "0-1")
    assert code == 0 and "output y is explained" in err and "output bbox: boxes" in out
    code, out, _ = run(
        "explain", "m.onnx", "a.png", "--preset", "0-1", "-t", "bbox:2", "-t", "top1", "--format", "json"
    )
    maps = json.loads(out)["results"][0]["maps"]
    assert code == 0 and [m["target"] for m in maps] == ["bbox:2 value 2", "2"]
    direct = analyzer.explain(net, scene(red=(1, 9)), "gradient", "bbox[:, 2]")
    assert np.allclose(analyzer.explain(net, scene(red=(1, 9)), "gradient", "bbox:2").raw, direct.raw)
    code, out, _ = run("inspect", "m.onnx")
    assert code == 0 and "task: classification, by output y" in out and "output bbox: boxes" in out


def test_positive_labels_are_all_that_are_above_one_half():
    net, x = CASES["sigmoids"][0], scene(red=(1, 9))
    found = analyzer.explain(net, x, "gradient", "positive")
    (y,) = onnxruntime.InferenceSession(net.SerializeToString()).run(["y"], {"x": x})
    assert sorted(found.target.tolist()) == np.flatnonzero(y[0] > 0.5).tolist()
    with pytest.raises(InputError, match="'character:1' is not defined for multi-label"):
        analyzer.explain(net, x, "gradient", "character:1")


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "occlusion", "score-cam", "guided-backprop"])
@pytest.mark.parametrize("name", ["argmax", "mask", "text, time first", "embedding", "depth", "probability"])
def test_every_method_explains_every_task(name, method):
    x = line(0, 3, 3, 0, 1) if name.startswith("text") else scene(red=(1, 9), green=(9, 2))
    found = analyzer.explain(CASES[name][0], x, method)
    assert len(found.heatmap) == 1 and np.isfinite(found.heatmap).all() and np.isfinite(found.value).all()
    assert found.heatmap.any(), found.diagnosis


@pytest.mark.parametrize(
    "name", [*SEGMENTERS, "mask", "text", "text, time first", "text, ArgMax inside", "probability"]
)
def test_the_default_explanation_of_every_task_is_exported(name, tmp_path):
    net = CASES[name][0]
    x = line(0, 3, 3, 0, 1) if name.startswith("text") else scene(red=(1, 9), green=(9, 2))
    for at, given in enumerate((x, np.zeros_like(x))):
        path = analyzer.export(net, tmp_path / f"{at}.onnx")
        (heat,) = onnxruntime.InferenceSession(str(path)).run(["heatmap"], {net.graph.input[0].name: given})
        found = analyzer.explain(net, given)
        expected = found.heatmap if len(found.heatmap) else np.zeros_like(heat)
        assert np.allclose(heat, expected, atol=1e-5)


def test_the_default_layer_is_never_what_the_target_reads():
    net = CASES["candidates"][0]
    for target in ("top1", "scores[:, 1].max()"):
        assert analyzer.explain(net, scene(red=(1, 9)), target=target).layer not in ("scores", "s", "logits", "boxes")


# ---- Trained models ----


@needs_corpus
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("models/deeplab_v3_mnv2_tf2onnx.onnx", "segmentation"),
        ("models/msra_190729.onnx", "segmentation"),
        ("models/ppocrv3_en_det.onnx", "detection"),
        ("models/ppocr_en_number_rec.onnx", "text recognition"),
        ("models/person_reid_0248.onnx", "embedding"),
        ("models/superres_subpixel.onnx", "dense prediction"),
        ("models/squeezenet1.1_torchscript_op7.onnx", "classification"),
        ("models/light_densenet121.onnx", "classification"),
        ("cases/real/mtcnn_onet.onnx", "classification"),
        ("cases/real/coin_captcha.onnx", "text recognition"),
        ("cases/real/deimv2_atto_int8.onnx", "detection"),
    ],
)
def test_trained_models_are_recognised(file, kind):
    explainer = Explainer(CORPUS / file)
    assert task_of(explainer, Question(), explainer.plain).kind == kind


@needs_corpus
def test_a_segmenter_finds_the_bird_and_looks_at_it():
    from analyzer.images import decode, model_card

    path = CORPUS / "models" / "deeplab_v3_mnv2_tf2onnx.onnx"
    card = model_card(path, {"preset": "-1-1"})
    array, placement = card.preprocess.apply(decode(CORPUS / "images" / "coral_bird_segmentation.bmp"))
    truth = decode(CORPUS / "images" / "coral_bird_segmentation_mask.bmp").max(axis=-1) > 0
    found = Explainer(path).explain(array, "layer-cam")
    assert found.target.tolist() == [3]
    mask = placement.map_to_image((found.task.mask(found.said[0]["ResizeBilinear_3"]) == 3).astype(np.float32)) > 0.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    heat = placement.map_to_image(found.heatmap[0])
    assert heat[truth].mean() > 2 * heat[~truth].mean()


# ---- Commands ----


@pytest.mark.parametrize(("name", "method"), [("text", "layer-cam"), ("softmax", "grad-cam")])
def test_commands_choose_the_method_by_the_task(run: Run, place: Path, name: str, method: str):
    net = CASES[name][0]
    onnx.save(net, place / "m.onnx")
    if name == "text":
        picture = np.repeat(line(0, 3, 3, 0, 1)[0].transpose(1, 2, 0), 3, axis=2)
    else:
        picture = scene(red=(1, 9))[0].transpose(1, 2, 0)
    write_png(place / "p.png", np.ascontiguousarray(picture * 255).astype(np.uint8))
    code, out, _ = run("explain", "m.onnx", "p.png", "--preset", "0-1", "--format", "json")
    assert code == 0 and json.loads(out)["results"][0]["maps"][0]["method"] == method
    code, out, _ = run("export", "m.onnx", "-o", "e.onnx", "--format", "json")
    assert code == 0 and json.loads(out)["method"] == method
