"""Real models from many exporters: a finite map that varies, or a refusal or diagnosis that is true."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.attribution.explainer import Explainer
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.graph.query import image_input
from analyzer.images import decode, load_labels, model_card
from analyzer.runtime import Session
from tests.corpus import CORPUS, MODELS, needs_corpus

pytestmark = needs_corpus

# What the files themselves say: pictures cut up one by one, recurrent layers, results that are class numbers or
# pixels, graphs without a single map.
REFUSED = {
    "ort_crop_and_resize": {"grad-cam": "no feature map|cannot be resized"},
    "ort_model_181031_12": {"grad-cam": "int64", "gradient": "int64"},
    "superres_prepost_op18": {"grad-cam": "uint8", "gradient": "uint8"},
    "espdl_tvm_test": {"grad-cam": "no feature map"},
    "jax2onnx_model_with_function": {"grad-cam": "no feature map"},
    "winml_dx_preprocessor_efficient_net": {"grad-cam": "no feature map"},
}


def noise(graph: Graph) -> dict[str, np.ndarray]:
    """Random values for every input, 224 where the file leaves a size open."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in graph.inputs:
        open_sizes = [1, *[224] * len(value.shape)]
        shape = [d if isinstance(d, int) else s for d, s in zip(value.shape, open_sizes, strict=False)]
        picture = value.dtype.kind in "iu" and len(shape) > 2
        array = rng.uniform(0, 255 if picture else 1, shape)
        feeds[value.name] = array.astype(value.dtype)
    return feeds


@pytest.mark.parametrize("method", ["grad-cam", "gradient", "guided-backprop"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_map_or_the_truth(path, method):
    explainer = Explainer(path)
    refusals = REFUSED.get(path.stem, {})
    reason = refusals.get(method) or (refusals.get("gradient") if method != "grad-cam" else None)
    if reason:
        with pytest.raises(UnsupportedError, match=reason):
            explainer.explain(noise(explainer.plain), method)
        return
    found = explainer.explain(noise(explainer.plain), method)
    assert np.isfinite(found.raw).all()
    for row, words in zip(found.raw, found.diagnosis, strict=True):
        if row.min() < row.max():
            assert words == ""
        elif method == "grad-cam":
            assert not row.any() and "≤ 0 everywhere" in words
        else:
            assert not row.any() and "zero everywhere" in words


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_taps_leave_the_outputs_as_they_are(path):
    """The normalised model gives what onnxruntime gives for the file."""
    import onnxruntime as ort

    explainer = Explainer(path)
    graph = explainer.plain
    feeds = noise(graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        plain = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])
        expected = dict(zip([o.name for o in plain.get_outputs()], plain.run(None, feeds), strict=True))
    except Exception as error:
        pytest.skip(f"onnxruntime itself does not run the file on noise: {str(error)[:80]}")
    found = Session(graph, outputs=[o.name for o in graph.outputs]).run(feeds)
    for name, array in expected.items():
        if array.dtype.kind == "f":
            scale = np.abs(array).max() or 1
            assert np.abs(found[name].astype(np.float64) - array).max() <= 1e-5 * scale
        else:
            assert np.mean(found[name] != array) <= 1e-3


IMAGENET = {"preset": "imagenet", "resize": "crop"}
# Preprocessing as the catalogue of the corpus has it; whether class 0 is the background.
CLASSIFIERS = {
    "squeezenet1.1_torchscript_op7": (IMAGENET, 0),
    "squeezenet1.1_torchscript_op17_dynHW": ({**IMAGENET, "size": (224, 224)}, 0),
    "squeezenet1.1_dynamo_op23": (IMAGENET, 0),
    "squeezenet1.1_ortquant_qdq_perchannel_s8": (IMAGENET, 0),
    "shufflenet_v2_12_int8": (IMAGENET, 0),
    "squeezenet_winml_fp16": ({"preset": "caffe", "channels": "BGR"}, 0),
    "mobilenet_v2_1.0_224_quant": ({"preset": "raw"}, 1),
    "mobilenet_v1_0.5_160_quant": ({"preset": "raw"}, 1),
}
# Class, and a box x0, y0, x1, y1 around the object, read off the picture.
OBJECTS = {
    "ort_kitten_224.png": (281, (25, 5, 215, 220)),
    "orie_goldfish.jpg": (1, (15, 25, 305, 245)),
    "coral_bird.bmp": (19, (55, 35, 430, 290)),
    "coral_hot_dog.jpg": (934, (50, 60, 430, 300)),
    "coral_parrot.jpg": (88, (170, 50, 500, 800)),
}


@pytest.mark.parametrize("picture", OBJECTS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_label_is_right_and_the_maximum_on_the_object(name, picture):
    flags, background = CLASSIFIERS[name]
    label, box = OBJECTS[picture]
    path = CORPUS / "models" / f"{name}.onnx"
    explainer = Explainer(path)
    given = image_input(explainer.plain)
    card = model_card(path, flags, given.shape, given.dtype)
    batch, placement = card.preprocess.apply(decode(CORPUS / "images" / picture))
    found = explainer.explain(batch, "grad-cam")
    assert found.target[0] == label + background
    heat = placement.map_to_image(found.heatmap[0])
    heat[~placement.covered] = np.nan
    y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
    assert box[0] <= x <= box[2] and box[1] <= y <= box[3]


def test_labels_of_the_corpus():
    names = load_labels(CORPUS / "images" / "coral_imagenet_labels.txt")
    assert len(names) == 1001 and names[0] == "background" and names[1].startswith("tench")
