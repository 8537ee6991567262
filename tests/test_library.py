"""The commands as functions: pictures in whatever form, the command's own answers, and what a notebook shows."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import analyzer
from analyzer.analysis import receptive_field as fields_alone
from analyzer.images import decode
from analyzer.plain import as_json
from benchmarks.placement import red_detector
from tests import corpus

ROOT = Path(__file__).resolve().parents[1]
CHELSEA, COFFEE, LINE = (ROOT / "examples" / f"{name}.png" for name in ("digits_chelsea", "digits_coffee", "line"))
CNN, DETECTOR = ROOT / "models/digits_cnn.onnx", ROOT / "models/digits_detector.onnx"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


def same_as_the_command(run, model: Path, picture: Path, flags: list[str], **options: object) -> analyzer.Attribution:
    code, out, err = run("explain", str(model), str(picture), "--format", "json", *flags)
    assert code == 0, err
    (expected,) = json.loads(out)["results"]
    found = analyzer.explain(model, picture, **options)
    expected.pop("remark", None)
    alike(json.loads(as_json(found.as_data())), expected)
    return found


def alike(ours: Any, theirs: Any) -> None:
    """Equal; numbers up to rounding, since sums of floats can differ from one run of a session to the next."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            alike(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            alike(*pair)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("model", "picture"),
    [
        ("digits_cnn", CHELSEA),
        ("digits_cnn_int8", CHELSEA),
        ("digits_vit", CHELSEA),
        ("digits_detector", COFFEE),
        ("digits_keypoints", COFFEE),
        ("digits_segmenter", COFFEE),
        ("digits_reader", LINE),
    ],
)
def test_a_picture_is_explained_as_by_the_command(run, model, picture):
    """Labels, preprocessing, method and layer are those of the model's card, places those of the picture."""
    found = same_as_the_command(run, ROOT / "models" / f"{model}.onnx", picture, [])
    assert found.predictions and found._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["squeezenet1.1_torchscript_op7", "mobilenet_v1_0.25_128_quant"])
def test_a_corpus_model_is_explained_as_by_the_command(run, name):
    model, picture = corpus.CORPUS / f"models/{name}.onnx", corpus.CORPUS / "images/coral_cat_720p.jpg"
    if not (model.exists() and picture.exists()):
        pytest.skip("no corpus")
    same_as_the_command(run, model, picture, [])
    flags = ["-m", "gradient", "-t", "3", "--preset", "0-1", "--resize", "crop"]
    same_as_the_command(run, model, picture, flags, method="gradient", target=3, preset="0-1", resize="crop")


def test_options_are_called_as_for_the_command(run, place):
    (place / "names.txt").write_text("\n".join("abcdefghij"))
    flags = ["-t", "c", "-t", "d", "-m", "occlusion", "-O", "patch=48", "--labels", "names.txt", "--mean", "0.4"]
    options = {"target": ["c", "d"], "method": "occlusion", "patch": 48, "labels": place / "names.txt", "mean": "0.4"}
    found = same_as_the_command(run, CNN, CHELSEA, flags, **options)
    assert [found.title(row)[0] for row in (0, 1)] == ["c", "d"]
    same_as_the_command(
        run, DETECTOR, COFFEE, ["--score-threshold", "0.6", "-t", "all"], score_threshold=0.6, target="all"
    )


def test_a_picture_may_be_of_any_library():
    """Files, bytes, pixels, tensors and PIL images give one answer."""
    expected = analyzer.explain(CNN, CHELSEA).raw
    pixels = decode(CHELSEA)
    given = [str(CHELSEA), CHELSEA.read_bytes(), pixels]
    if "torch" in sys.modules or _there("torch"):
        import torch

        tensor = torch.from_numpy(pixels)
        given += [tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1).float() / 255]
    if _there("PIL"):
        from PIL import Image

        image = Image.open(CHELSEA)
        given += [image, image.convert("RGBA")]
    for each in given:
        assert np.abs(analyzer.explain(CNN, each).raw - expected).max() < 1e-6, type(each)


def test_a_pil_image_is_turned_as_its_file_is(place):
    image = pytest.importorskip("PIL.Image").open(CHELSEA)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(place / "turned.png", exif=exif)
    expected = analyzer.explain(CNN, place / "turned.png").raw
    with pytest.importorskip("PIL.Image").open(place / "turned.png") as turned:
        assert np.array_equal(analyzer.explain(CNN, turned).raw, expected)
    assert not np.array_equal(analyzer.explain(CNN, CHELSEA).raw, expected)
    deep = pytest.importorskip("PIL.Image").fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)
    deep.save(place / "deep.png")
    assert np.array_equal(analyzer.explain(CNN, deep).raw, analyzer.explain(CNN, place / "deep.png").raw)


def _there(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def test_the_models_own_input_is_fed_as_it_is():
    """And labels, layer and default method are the card's all the same; the picture is what the input shows."""
    whole = analyzer.explain(CNN, CHELSEA)
    array = np.concatenate([whole.view.fed(0).feeds[name] for name in whole.view.fed(0).feeds])
    again = analyzer.explain(CNN, np.concatenate([array, array[:, :, ::-1]]))
    assert np.allclose(again.raw[0], whole.raw[0], atol=1e-5) and again.layer == whole.layer
    assert (
        analyzer.explain(CNN, {"input": array} if "input" in whole.view.fed(0).feeds else array).title()
        == "four (0.982)"
    )
    assert again.of_image(1).overlay().shape == again.of_image(0).overlay().shape
    assert np.abs(again.view.fed(0).image.astype(int) - again.view.fed(1).image[::-1]).max() <= 1
    with pytest.raises(analyzer.InputError, match="maps of 2 pictures"):
        again.overlay()
    detected = analyzer.explain(DETECTOR, COFFEE)
    assert analyzer.explain(DETECTOR, detected.view.fed(0).main.array).method == "layer-cam" == detected.method


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((3, 96, 96), np.float32) - 1, "neither a picture nor the input image"),
        (np.zeros((96, 96, 3), np.int64), "neither a picture nor the input"),
        (np.zeros((1, 96, 96, 3), np.uint8), "is not the input image: float32"),
        (7, "int is neither a picture nor an array"),
        ([CHELSEA], "list is neither a picture nor an array"),
        ("nothing.png", "no such file"),
        ("examples", "is a folder"),
        (b"text", "text, not a picture"),
    ],
    ids=range(8),
)
def test_what_is_neither_a_picture_nor_the_input_is_refused(given, says):
    with pytest.raises(analyzer.InputError, match=says):
        analyzer.explain(CNN, given)


def test_what_fits_the_input_is_fed_as_it_is_before_it_is_a_picture():
    """A model of unbatched uint8 pixels: nothing is resized or normalized."""
    from analyzer.api.explaining import as_given

    class Taken:
        name, shape, dtype = "x", (None, None, 3), np.dtype(np.uint8)

    class Model:
        image, plain = "x", {"x": Taken}

    array = np.zeros((8, 8, 3), np.uint8)
    assert as_given(Model, array) is array


def test_an_unknown_option_is_refused():
    with pytest.raises(analyzer.AnalyzerError, match="preest"):
        analyzer.explain(CNN, CHELSEA, preest="imagenet")
    with pytest.raises(analyzer.AnalyzerError, match="no option 'preset'"):  # an array is fed as it is
        analyzer.explain(CNN, np.zeros((1, 3, 96, 96), np.float32), preset="imagenet")


def test_a_card_that_changes_is_read_again(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(CNN.read_bytes())
    assert analyzer.explain(model, CHELSEA).title().startswith("4 ")
    (tmp_path / "model.toml").write_text("labels = [" + ", ".join(f'"n{i}"' for i in range(10)) + "]")
    assert analyzer.explain(model, CHELSEA).title().startswith("n4 ")
    (tmp_path / "model.toml").write_text('default-layer = "/network/stage2/stage2.0/Relu_output_0"')
    assert analyzer.explain(model, CHELSEA).layer == "/network/stage2/stage2.0/Relu_output_0"
    assert (
        analyzer.explain(model, np.zeros((1, 3, 96, 96), np.float32)).layer == "/network/stage2/stage2.0/Relu_output_0"
    )
    assert analyzer.explain(model, CHELSEA, layer="auto").layer == "/network/stage3/Relu_output_0"


def test_preprocessing_may_be_an_object():
    how = analyzer.Preprocess(size=(96, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255)
    assert np.array_equal(analyzer.explain(CNN, CHELSEA, preprocess=how).raw, analyzer.explain(CNN, CHELSEA).raw)
    grey = analyzer.explain(CNN, CHELSEA, preprocess={"preset": "0-1"})
    assert np.array_equal(grey.raw, analyzer.explain(CNN, CHELSEA, preset="0-1").raw)


def test_an_attribution_shows_itself(run, place):
    found = analyzer.explain(CNN, CHELSEA)
    assert repr(found) == "Attribution(grad-cam of four (0.982) at /network/stage3/Relu_output_0: 1 map of 96×96)"
    html = found._repr_html_()
    assert "data:image/webp;base64," in html and "<td" in html and "four" in html and "http" not in html
    code, _, err = run("explain", str(CNN), str(CHELSEA), "-o", str(place / "command.png"))
    found.save(place / "library.png")
    assert code == 0, err
    assert (place / "command.png").read_bytes() == (place / "library.png").read_bytes()
    assert np.array_equal(decode(place / "library.png"), found.overlay())
    assert not np.array_equal(found.overlay(colormap="gray", alpha=1), found.overlay())
    found.save(place / "maps.npy")
    assert np.array_equal(np.load(place / "maps.npy"), found.raw)
    with pytest.raises(analyzer.InputError, match=r"cannot be written as \.pdf"):
        found.save(place / "map.pdf")


def test_a_notebook_says_what_is_wrong_with_a_map():
    found = analyzer.explain(CNN, np.zeros((1, 3, 96, 96), np.float32), target="four", labels=None)
    found.diagnosis = ["empty map: <why>"]
    assert "empty map: &lt;why&gt;" in found._repr_html_()


def test_labels_are_escaped_in_html():
    found = analyzer.explain(CNN, CHELSEA, labels=["<script>"] * 10)
    assert "<script>" not in found._repr_html_()


def test_nothing_to_explain_shows_itself():
    found = analyzer.explain(DETECTOR, np.full((64, 64, 3), 255, np.uint8), score_threshold=1.0)
    assert not len(found.heatmap) and repr(found) and found._repr_html_() and found._repr_png_() is None
    with pytest.raises(analyzer.InputError, match="there is no map"):
        found.overlay()


def test_a_copy_of_an_attribution_leaves_the_model_behind():
    found = analyzer.explain(CNN, CHELSEA)
    other = copy.deepcopy(found)
    assert np.array_equal(other.raw, found.raw) and other.view is None and other._repr_png_()


def test_plot_draws_axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = analyzer.explain(CNN, CHELSEA).plot()
    assert axes.get_title() == "grad-cam: four (0.982)" and len(axes.images) == 1
    detected = analyzer.explain(DETECTOR, COFFEE)
    axes = detected.plot()
    assert (
        len(axes.lines) == len(detected.predictions) and axes.lines[0].get_xdata()[0] == detected.predictions[0].box[0]
    )
    mine = matplotlib.figure.Figure().subplots()
    assert analyzer.explain(CNN, CHELSEA).plot(mine) is mine


def test_plot_without_matplotlib_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with pytest.raises(analyzer.UnsupportedError, match="matplotlib, which is not installed"):
        analyzer.explain(CNN, CHELSEA).plot()


def test_other_inputs_are_given_by_name(run, place):
    """Files, arrays or numbers, as --input does."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Concat", ["x", "depth"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "w"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node("Add", ["flat", "meta"], ["scores"]),
    ]
    w = np.random.default_rng(0).normal(size=(3, 4, 3, 3)).astype(np.float32)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in
             (("x", (1, 3, 16, 16)), ("depth", (1, 1, 16, 16)), ("meta", (1, 3)))]  # fmt: skip
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 3))
    graph = helper.make_graph(nodes, "fusion", infos, [out], [onnx.numpy_helper.from_array(w, "w")])
    model = place / "fusion.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    flags = ["--input", f"depth={COFFEE}", "--input", "meta=0,1,0"]
    given = {"depth": COFFEE, "meta": [0, 1, 0]}
    same_as_the_command(run, model, CHELSEA, flags, input=given)
    same_as_the_command(run, model, CHELSEA, flags, input={**given, "depth": decode(COFFEE)})
    about_depth = [*flags, "--explain-input", "depth"]
    same_as_the_command(run, model, CHELSEA, about_depth, input=given, explain_input="depth")
    with pytest.raises(analyzer.InputError, match="needs more inputs"):
        analyzer.explain(model, CHELSEA)
    with pytest.raises(analyzer.InputError, match="no input 'dept'"):
        analyzer.explain(model, CHELSEA, input={"dept": COFFEE})


def test_the_same_model_about_another_input_keeps_its_card_and_sessions():
    """It is not loaded again, and what its card says of it is known."""
    explainer = analyzer.Explainer(CNN.read_bytes(), labels=list("abcdefghij"))
    other = explainer.copied()
    assert other.loaded is explainer.loaded and other.labels == explainer.labels
    assert other._owner is explainer._owner and other._remembered is not explainer._remembered
    assert analyzer.explain(explainer, CHELSEA).title().startswith("e (")


# ---- Comparisons and audits ----

INT8 = ROOT / "models/digits_cnn_int8.onnx"
PICTURES = sorted((ROOT / "examples").glob("digits_*.png"))


def document(run, *arguments: str) -> dict:
    """What a command prints as JSON, without what a document says of itself."""
    code, out, err = run(*arguments, "--format", "json")
    assert code in (0, 1), err
    found = json.loads(out)
    for about in ("schema_version", "kind", "onnx_analyzer", "written"):
        found.pop(about, None)
    return found


def plain(found) -> dict:
    return json.loads(as_json(found.as_data()))


def test_a_comparison_is_the_commands(run, place):
    boxes = {PICTURES[0].name: [[0, 0, 40, 40]]}
    (place / "boxes.json").write_text(json.dumps(boxes))
    flags = ["--boxes", "boxes.json", "--threshold", "evidence_iou=0.999", "-m", "layer-cam", "--limit", "2"]
    found = analyzer.compare(
        CNN, INT8, ROOT / "examples/digits_*.png", "layer-cam", boxes=boxes, threshold={"evidence_iou": 0.999}, limit=2
    )
    assert plain(found) == document(run, "compare", str(CNN), str(INT8), str(ROOT / "examples/digits_*.png"), *flags)
    assert not found.passed and "evidence-moves" in found._repr_html_() and "data:image/webp" in found._repr_html_()
    assert repr(found) == "Comparison(digits_cnn_int8.onnx against digits_cnn.onnx on 2 pictures: 1 finding)"
    assert found.figure().shape == found.figure(next(iter(found.maps))).shape
    found.save(place / "comparison.png")
    assert np.array_equal(decode(place / "comparison.png"), found.figure())
    assert np.array_equal(decode(found._repr_png_()), found.figure())
    assert len(found._repr_html_()) < 210_000 < len(found._repr_png_())  # base64 of at most 150 kB
    with pytest.raises(analyzer.InputError, match="no maps of 'x' are kept"):
        found.figure("x")


def test_pictures_of_data_sets_may_be_in_memory(place):
    """Pixels and files are compared alike; a report is written as the command writes it."""
    pixels = [decode(each) for each in PICTURES[:2]]
    found = analyzer.compare(CNN, CNN, [pixels[0], PICTURES[1]], report=place / "report.html")
    assert found.passed and [row["picture"] for row in found.report["rows"]] == ["picture-0", str(PICTURES[1])]
    expected = analyzer.compare(CNN, CNN, PICTURES[:2])
    assert [row["top"] for row in found.report["rows"]] == [row["top"] for row in expected.report["rows"]]
    assert "<html" in (place / "report.html").read_text()
    assert len(analyzer.compare(CNN, CNN, pixels[0]).report["rows"]) == 1
    for wrong, says in (([], "no pictures"), ([3], "int is not a picture"), ("none/", "no such file")):
        with pytest.raises(analyzer.InputError, match=says):
            analyzer.compare(CNN, CNN, wrong)
    with pytest.raises(analyzer.InputError, match="compare has no option 'limits'"):
        analyzer.compare(CNN, CNN, pixels, limits=3)
    with pytest.raises(analyzer.InputError, match="no threshold 'iou'"):
        analyzer.compare(CNN, CNN, pixels, threshold={"iou": 3})


def test_an_audit_is_the_commands(run, place):
    classes = {each.name: 4 for each in PICTURES}
    (place / "classes.json").write_text(json.dumps(classes))
    flags = ["--classes", "classes.json", "--probes", "1", "--maps", "maps.png"]
    found = analyzer.audit(CNN, PICTURES[:3], classes=classes, probes=1, maps=place / "ours.png")
    assert plain(found) == document(run, "audit", str(CNN), *map(str, PICTURES[:3]), *flags)
    assert (place / "maps.png").read_bytes() == (place / "ours.png").read_bytes()
    assert repr(found).startswith("Audit(digits_cnn.onnx on 3 pictures: ")
    found.save(place / "audit.png")
    assert np.array_equal(decode(place / "audit.png"), found.figure())
    assert np.array_equal(decode(found._repr_png_()), found.figure())
    assert "data:image/webp" in found._repr_html_() and "accuracy" in found._repr_html_()


# ---- Other commands ----


def test_a_localization_is_the_commands(run, place):
    boxes = {PICTURES[0].name: {"four": [10, 10, 200, 200]}}
    (place / "true.json").write_text(json.dumps(boxes))
    flags = ["--boxes", "true.json", "--threshold", "0.3", "--several", "--top-channels", "2", "-o", "drawn"]
    found = analyzer.localize(CNN, PICTURES[:2], boxes=boxes, threshold=0.3, several=True, top_channels=2)
    expected = document(run, "localize", str(CNN), *map(str, PICTURES[:2]), *flags)
    for result in expected["results"]:
        result.pop("written")
    assert plain(found) == expected and found.summary["compared"] == 1
    found.save(place / "first.png")
    assert (place / "first.png").read_bytes() == (place / "drawn" / PICTURES[0].name).read_bytes()
    assert repr(found).startswith("Localization(grad-cam: ") and repr(found).endswith(" in 2 pictures)")
    assert "data:image/webp" in found._repr_html_() and found._repr_png_()
    (one,) = analyzer.localize(DETECTOR, decode(COFFEE), target="eight", score_threshold=0.5).results
    assert [target["target"] for target in one["targets"]] == ["eight"]
    with pytest.raises(analyzer.InputError, match="there is no picture 2"):
        found.overlay(2)


def test_a_dream_is_the_commands(run, place):
    flags = ["-t", "four", "-t", "3", "--steps", "3", "--parametrization", "pixels", "--no-rescale", "-o", "dream.png"]
    found = analyzer.dream(CNN, target=["four", 3], steps=3, parametrization="pixels", rescale=False)
    assert plain(found) == document(run, "dream", str(CNN), *flags)
    found.save(place / "ours.png")
    assert (place / "ours.png").read_bytes() == (place / "dream.png").read_bytes()
    assert (
        len(found.images) == 2 and "data:image/webp" in found._repr_html_() and repr(found).startswith("Dreams(four (")
    )
    assert analyzer.dream(CNN, 3, steps=1).channels == [3]
    with pytest.raises(analyzer.InputError, match="either units or classes"):
        analyzer.dream(CNN)


def test_mining_is_the_commands(run, place):
    flags = ["-o", "mined", "--draw", "2", "-k", "3"]
    expected = document(run, "mine", str(CNN), *map(str, PICTURES), *flags)
    found = analyzer.mine(CNN, PICTURES, k=3, draw=2, out=place / "ours")
    assert [found.summary(layer) for layer in found.rankings] == expected["layers"]
    names = sorted(each.name for each in (place / "mined").iterdir())
    assert names == sorted(each.name for each in (place / "ours").iterdir()) and "index.html" in names
    for each in names:
        if not each.startswith((".", "journal")) and (place / "mined" / each).is_file() and each.endswith(".png"):
            assert (place / "mined" / each).read_bytes() == (place / "ours" / each).read_bytes(), each
    channels = len(next(iter(found.rankings.values())).values)
    assert repr(found) == f"MiningResult(1 layer, {channels} channels, {len(PICTURES)} pictures)"
    assert "dead" in found._repr_html_()
    assert analyzer.mine(CNN, [decode(each) for each in PICTURES]).rankings.keys() == found.rankings.keys()
    with pytest.warns(DeprecationWarning, match="folder is now called out"):
        explainer, how = analyzer.Explainer(CNN), analyzer.Preprocess(size=(96, 96))
        analyzer.mine(explainer, PICTURES, list(found.rankings), how, folder=place / "earlier")
    assert not (place / "earlier" / "index.html").exists()
    with pytest.raises(analyzer.InputError, match="needs a folder"):
        analyzer.mine(CNN, PICTURES, shard=(1, 2))


def test_features_are_of_pictures_too_and_show_themselves(run, place):
    code, _, err = run("features", str(CNN), str(CHELSEA), "-l", "*stage3/Relu*", "-l", "probabilities", "-o", "maps")
    assert code == 0, err
    found = analyzer.features(CNN, CHELSEA, ["*stage3/Relu*", "probabilities"])
    with np.load(place / "maps" / "digits_chelsea.npz") as expected:
        assert list(expected) == list(found)
        assert all(np.array_equal(expected[name], found[name]) for name in found)
    found.save(place / "maps.npz")
    with np.load(place / "maps.npz") as written:
        assert list(written) == list(found)
    assert repr(found).startswith("FeatureMaps(") and "×" in repr(found) and len(repr(found)) < 200
    html = found._repr_html_()
    assert "data:image/webp" in html and "probabilities" in html
    assert np.array_equal(decode(found._repr_png_()), found.figure())
    with pytest.raises(analyzer.InputError, match="probabilities is no feature map of two axes"):
        found.figure("probabilities")
    vector = analyzer.features(CNN, CHELSEA, "probabilities")
    assert "data:image" not in vector._repr_html_() and vector._repr_png_() is None


def test_effective_fields_are_the_commands(run, place):
    """Of pictures in whatever form; the library's maps are those that the command writes."""
    layer = "/network/stage3/Relu_output_0"
    paths = [str(CHELSEA), str(COFFEE)]
    flags = ["-l", layer, "--positions", "1", "--raw", "fields.npz", "-o", "fields.png", "--format", "json"]
    code, _, err = run("receptive-field", str(CNN), *paths, "--effective", *flags)
    assert code == 0, err
    expected = np.load(place / "fields.npz")[layer]
    for pictures in (paths, [Image.open(CHELSEA), COFFEE.read_bytes()]):
        found = analyzer.effective_field(CNN, pictures, layer, positions=1)
        np.testing.assert_allclose(found[layer].map, expected, rtol=1e-4, atol=1e-6 * np.nanmax(expected))
    found.save(place / "ours.png")
    assert np.array_equal(decode(place / "ours.png"), decode(place / "fields.png"))
    with pytest.warns(UserWarning, match="README.md"):
        one = analyzer.effective_field(CNN, [CHELSEA, ROOT / "README.md"], layer, positions=1)
    assert one[layer].pictures == 1
    with pytest.raises(analyzer.InputError, match="no option 'foo'"):
        analyzer.effective_field(CNN, CHELSEA, foo=1)


def test_receptive_fields_show_themselves(run, place):
    """Drawn as by the command, on a picture in whatever form or on none."""
    found = analyzer.receptive_field(CNN)
    html = found._repr_html_()
    assert "<table>" in html and "3×3" in html and "all" in html and "data:image/webp" in html
    assert np.array_equal(decode(found._repr_png_()), found.figure())
    layer = "/network/stage?/*.0/Relu_output_0"
    flags = ["-l", layer, "--at", "3,2", "-o", "fields.png"]
    for pictures, drawn in (
        ([], {}),
        ([str(CHELSEA)], {"picture": CHELSEA}),
        ([str(CHELSEA)], {"picture": Image.open(CHELSEA)}),
    ):
        code, _, err = run("receptive-field", str(CNN), *pictures, *flags)
        assert code == 0, err
        found.save(place / "ours.png", layer=layer, at=(3, 2), **drawn)
        assert (place / "ours.png").read_bytes() == (place / "fields.png").read_bytes()


def test_receptive_fields_without_a_figure_are_a_table():
    """They are counted in another tensor, or nothing is known of a model."""
    found = analyzer.receptive_field(CNN, wrt="/network/stem/stem.0/stem.0.2/Relu_output_0")
    with pytest.raises(analyzer.InputError, match="not in pixels"):
        found.figure(picture=CHELSEA)
    unknown = fields_alone(CNN)
    assert "<table>" in unknown._repr_html_() and unknown._repr_png_() is None
    with pytest.raises(analyzer.InputError, match=r"use analyzer\.receptive_field"):
        unknown.figure()


def test_all_public_names_are_typed_and_documented():
    import inspect

    for name in analyzer.__all__:
        found = getattr(analyzer, name)
        if callable(found):
            assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            untyped = [p for p in inspect.signature(found).parameters.values() if p.annotation is p.empty]
            assert not untyped, (name, untyped)


def test_the_package_imports_nothing_of_its_rooms():
    import subprocess

    code = (
        "import sys, analyzer; dir(analyzer); assert not [m for m in sys.modules if m.startswith('analyzer.') and m != "
    )
    code += "'analyzer.version'], sys.modules; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_example_notebook_runs(monkeypatch, capsys):
    """Its cells in order, each as Jupyter does: what ends a cell is shown."""
    import ast

    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    monkeypatch.chdir(ROOT / "examples")
    names: dict[str, object] = {}
    pictures = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "clear the outputs before the notebook is committed"
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), names)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
            html = getattr(shown, "_repr_html_", lambda: "")()
            pictures += "data:image/webp" in html
            assert len(repr(shown)) < 300
    assert pictures == 11 and (names["folder"] / "heatmap.png").exists()
    assert "True" in capsys.readouterr().out


def test_a_file_of_several_pictures_is_refused(place):
    np.save(place / "rows.npy", np.zeros((3, 3, 96, 96), np.float32))
    with pytest.raises(analyzer.InputError, match=r"rows\.npy has 3 pictures"):
        analyzer.explain(CNN, place / "rows.npy")
    np.save(place / "row.npy", np.zeros((1, 3, 96, 96), np.float32))
    assert analyzer.explain(CNN, place / "row.npy").view.fed(0).image.shape == (96, 96, 3)


def test_what_should_be_known_of_a_picture_is_a_warning(place):
    np.save(place / "deep.npy", np.full((40, 40), 4095, np.uint16))
    with pytest.warns(UserWarning, match="16-bit values end at 4095"):
        analyzer.explain(CNN, place / "deep.npy")


def test_a_comparison_of_explainers_says_how_they_run():
    sides = [analyzer.Explainer(model, level="basic", threads=2) for model in (CNN, INT8)]
    found = analyzer.compare(*sides, CHELSEA)
    assert found.run["optimisation"] == "basic" and found.run["threads"] == "2"


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3)])
def test_inputs_that_are_no_pictures_are_fed_as_they_are(run, place, shape):
    """Also where their values could be those of a gray picture."""
    from onnx import TensorProto, helper, numpy_helper

    w = np.random.default_rng(0).normal(size=(shape[-1], 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes += [helper.make_node("Flatten", ["r"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", *shape[1:]]), ("y", None)))
    graph = helper.make_graph(nodes, "rows", [x], [y], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values = np.random.default_rng(1).random(shape).astype(np.float32)
    found = analyzer.explain(model, values, method="gradient", target=0)
    assert found.raw.shape == shape and repr(found) and found._repr_html_()
    with pytest.raises(analyzer.InputError, match="the picture that these maps are of is not known"):
        found.overlay()
    (place / "rows.onnx").write_bytes(model.SerializeToString())
    for command in ("inspect", "plan"):
        code, _, err = run(command, "rows.onnx", *(["-m", "gradient"] if command == "plan" else []))
        assert code == 0, err


def test_an_answer_does_not_hold_a_large_picture(place):
    """A list of answers about photographs stays small; they are read again when they are drawn."""
    import gc

    from analyzer.images import Fed, write_png

    write_png(place / "large.jpg", np.repeat(np.repeat(decode(CHELSEA), 4, axis=0), 4, axis=1))
    found = analyzer.explain(CNN, place / "large.jpg")
    gc.collect()
    held = [each for each in gc.get_objects() if isinstance(each, Fed)]
    assert not [each for each in held if each.main.frames.nbytes > 4 << 20]
    assert found.overlay().ndim == 3 and found.as_data()["size"] == list(decode(place / "large.jpg").shape[1::-1])


# ---- earlier names ----


def test_earlier_names_of_python_go_on_working():
    with pytest.warns(DeprecationWarning, match="parametrisation is now called parametrization") as said:
        options = analyzer.DreamOptions(parametrisation="pixels", steps=3)
    assert options == analyzer.DreamOptions(parametrization="pixels", steps=3) and said[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="now called parametrization"):
        assert options.parametrisation == "pixels"
    with pytest.warns(DeprecationWarning, match="colours is now called colors"):
        assert analyzer.Preprocess(channels="6").colours == "6 bands"
    found = analyzer.dream(CNN, target=1, steps=1).as_data()["options"]
    assert found["parametrization"] == found["parametrisation"] == "fourier"


# ---- one way of drawing for each method ----


@pytest.mark.parametrize("method", ["grad-cam", "guided-backprop"])
def test_a_comparison_draws_maps_as_explain_does(method):
    done = analyzer.compare(CNN, CNN, PICTURES[:1], method=method)
    (pair,) = next(iter(done.maps.values())).values()
    found = analyzer.explain(CNN, PICTURES[0], method)
    channels = found.channels(0)
    expected = found.in_units(0) if channels is None else channels
    for drawn in pair:
        np.testing.assert_allclose(drawn, expected, atol=1e-3 * np.abs(expected).max())


def test_localize_draws_heat_under_the_boxes():
    drawn = analyzer.localize(CNN, PICTURES[:1], target="four").overlay()
    heat = analyzer.explain(CNN, PICTURES[0], target="four").overlay()
    plain = analyzer.localize(CNN, PICTURES[:1], target="four", threshold=1).overlay()  # a box of one pixel
    assert drawn.shape == heat.shape and np.mean(np.any(drawn[30:] != heat[30:], axis=2)) < 0.15
    assert not np.array_equal(drawn, plain)


def test_an_audit_places_maps_as_it_is_told():
    net = red_detector(32, "PyTorch, 3×3", 224)
    picture = np.full((224, 224, 3), 20, np.uint8)
    picture[60:90, 100:140, 0] = 255
    maps = {}
    for placement in ("half-pixel", "theoretical"):
        done = analyzer.audit(net, [picture], placement=placement, preset="0-1", probes=1)
        assert done.figure().ndim == 3
        maps[placement] = done.maps["all pictures"]
        found = analyzer.explain(net, picture, placement=placement, preset="0-1")
        np.testing.assert_allclose(maps[placement], found.heatmap[0], atol=1e-6)
    assert not np.allclose(*maps.values())
