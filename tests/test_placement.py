"""Where a layer's units are put in the image: hand-made detectors of several strides and paddings, trained networks."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import analyzer
from analyzer.attribution import Explainer, Question, centers
from analyzer.attribution.centers import RUNS, Probe, located
from analyzer.attribution.export import read_record
from analyzer.attribution.layers import pick_layer
from analyzer.attribution.lines import PLACEMENTS, Centers
from analyzer.errors import InputError
from analyzer.graph.query import fillings
from analyzer.images import write_png
from analyzer.store import Cache
from benchmarks.placement import PADDINGS, Tally, discs, red_detector

MODELS = Path(__file__).resolve().parents[1] / "models"


def auto_layer(explainer):
    graph = explainer.graph(next(iter(fillings(explainer.plain)), {}))
    return pick_layer(graph, "auto", graph.outputs[0])


def worst(tally: Tally) -> float:
    return float(np.abs(np.mean(tally.offsets, axis=0)).max())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [8, 32, 64])
def test_heat_lies_on_hand_made_evidence(stride, padding):
    found = discs(stride, padding, grid=3)
    assert worst(found["effective"]) <= (1 if stride <= 32 else 3.5)
    assert all(found["effective"].hits)
    if padding != "none, 3×3":
        assert worst(found["half-pixel"]) > stride / 3


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_detector.onnx"])
def test_units_of_trained_networks_stay_evenly_spaced(name):
    explainer = Explainer(MODELS / name)
    layer = auto_layer(explainer)
    assert located(explainer, layer, "theoretical").centers is not None
    assert located(explainer, layer).centers is None and located(explainer, layer, "half-pixel").centers is None


def test_weights_are_linear_between_centers_and_end_one_stride_beyond():
    weights = Centers((4.0, 4.0), (8.0, 8.0)).weights(0, 3, 40)
    assert weights.shape == (40, 3)
    assert np.allclose(weights[4:20].sum(axis=1), 1)
    assert np.allclose(weights[4:20] @ [4, 12, 20], np.arange(4, 20) + 0.5)
    assert not weights[28:].any() and weights[27].any()


@pytest.mark.parametrize("method", ["grad-cam", "ablation-cam"])
def test_heat_is_zero_one_stride_beyond_the_outermost_units(method):
    explainer = Explainer(red_detector(32, "TensorFlow SAME, 3×3", 224))
    image = np.zeros((1, 3, 224, 224), np.float32)
    image[:, 0] = 1
    image[:, 1, 60:90, 100:140] = 1
    heat = explainer.explain(image, method, 0).heatmap[0]
    assert heat[0].max() < 0.1 < 0.9 < heat.max()  # the first centers are at 31.5
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_allclose(heat, explainer.explain(image, method, 0, placement="half-pixel").heatmap[0])


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_export_is_the_explanation(tmp_path, placement, open_sizes):
    net = red_detector(16, "PyTorch, 3×3", 256)
    if open_sizes:
        for at in (0, 2, 3):
            net.graph.input[0].type.tensor_type.shape.dim[at].dim_param = f"d{at}"
        net.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "d0"
    size = 192 if open_sizes else 256
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    written = analyzer.export(net, tmp_path / "out.onnx", target=0, placement=placement)
    heat = onnxruntime.InferenceSession(str(written)).run(["heatmap"], {"image": image})[0]
    assert np.allclose(heat, Explainer(net).explain(image, target=0, placement=placement).heatmap, atol=1e-5)


def test_at_most_ten_runs_and_none_once_the_cache_is_warm(tmp_path, monkeypatch):
    runs, measure = [], Probe.measure
    monkeypatch.setattr(Probe, "measure", lambda self, place: runs.append(place) or measure(self, place))
    path = tmp_path / "red.onnx"
    path.write_bytes(red_detector(32, "PyTorch, 3×3", 224).SerializeToString())
    cache = Cache(tmp_path / "cache", 1 << 24)
    first = [located(model, auto_layer(model)).centers for model in [Explainer(path, cache=cache)]]
    assert len(runs) == RUNS == 10
    model = Explainer(path, cache=cache)
    assert [located(model, auto_layer(model)).centers] == first and len(runs) == 10
    assert first == [located(m, auto_layer(m)).centers for m in [Explainer(path)]] and len(runs) == 20


@pytest.fixture
def place(tmp_path):
    return tmp_path


def test_half_pixel_centers_in_place_of_others_are_said(tmp_path, run):
    """Of a network whose first operator has no gradient, which no map after it needs."""
    net = red_detector(32, "PyTorch, 3×3", 224)
    net.graph.node.insert(0, helper.make_node("Sign", ["image"], ["black and white"]))
    net.graph.node[1].input[0] = "black and white"
    path, picture = tmp_path / "red.onnx", tmp_path / "p.png"
    onnx.save(net, path)
    image = np.full((224, 224, 3), 128, np.uint8)
    image[60:90, 100:140] = 255, 0, 0
    write_png(picture, image)
    how = {"preset": "raw", "mean": 127.5, "std": 127.5}
    saying = "placed by half-pixel centers, because the effective centers of its units could not be determined"
    found = analyzer.explain(path, picture, "layer-cam", **how)
    assert saying in found.doubt and not found.centers
    assert saying in analyzer.explain(path, picture, "ablation-cam", **how).doubt
    for placement in ("half-pixel", "theoretical"):
        assert not analyzer.explain(path, picture, "layer-cam", placement=placement, **how).doubt
    exported = analyzer.export(path, tmp_path / "out.onnx", "layer-cam")
    assert saying in read_record(exported)["doubt"]
    assert "doubt" not in read_record(analyzer.export(path, exported, "layer-cam", placement="half-pixel"))
    flags = ["--preset", "raw", "--mean", "127.5", "--std", "127.5", "-m", "layer-cam", "--format", "json"]
    for command, more in ("explain", ["-m", "occlusion"]), ("localize", []):
        code, out, err = run(command, "red.onnx", "p.png", *flags, *more)
        assert code == 0 and saying in json.loads(out)["results"][0]["doubt"] and err.count(saying) == 1
    code, _, err = run("export", "red.onnx", "-m", "layer-cam", "-o", "out.onnx")
    assert code == 0 and err.count(saying) == 1


def test_an_unknown_placement():
    with pytest.raises(InputError, match="choose one of effective, half-pixel, theoretical"):
        Question(placement="middle")


@pytest.mark.parametrize("method", ["grad-cam", "ablation-cam"])
def test_maps_are_drawn_in_the_numbers_that_were_laid(method):
    explainer = Explainer(red_detector(32, "TensorFlow SAME, 3×3", 224))
    image = np.zeros((1, 3, 224, 224), np.float32)
    image[:, 0] = 0.2
    image[:, 1, 60:90, 100:140] = 1
    found = explainer.explain(image, method, 0)
    laid = found.centers[found.layer]
    rows, columns = (laid.weights(axis, found.raw.shape[1 + axis], 224) for axis in (0, 1))
    raw, low = found.raw[0], found.raw[0].min()  # which continues beyond the outermost units
    np.testing.assert_allclose(found.in_units(0), low + rows @ (raw - low) @ columns.T, atol=1e-5 * raw.max())
    assert found.extent(0) == pytest.approx((low, raw.max()), rel=0.02)


@pytest.mark.parametrize("size", [224, 225])
def test_both_sides_of_a_comparison_lay_maps_alike(tmp_path, monkeypatch, size):
    """Whatever the candidate's own units would say."""
    ours, theirs = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (ours, theirs):
        path.write_bytes(red_detector(32, "PyTorch, 3×3", size).SerializeToString())
    picture = np.full((size, size, 3), 30, np.uint8)
    picture[60:90, 100:140, 0] = 255
    write_png(tmp_path / "p.png", picture)
    whole = centers._found
    spoiled = Path(theirs).name
    monkeypatch.setattr(
        centers, "_found", lambda m, f, p: None if Path(m.loaded.path).name == spoiled else whole(m, f, p)
    )
    explained = analyzer.explain(str(ours), tmp_path / "p.png", layer="auto")
    assert explained.centers and not analyzer.explain(str(theirs), tmp_path / "p.png").centers
    done = analyzer.compare(str(ours), str(theirs), [tmp_path / "p.png"], method="layer-cam")
    ((one, other),) = done.maps["p.png"].values() if "p.png" in done.maps else next(iter(done.maps.values())).values()
    assert np.ptp(one) > 0
    np.testing.assert_array_equal(one, other)
