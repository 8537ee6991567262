"""Model cards: flags over files over guesses, and the labels beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.errors import InputError
from analyzer.images import PRESETS, load_labels, model_card

CNN = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"
SHAPE = ["N", 3, 224, 224]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- the guess --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ([1, 3, 224, 224], "float32", ("NCHW", "RGB", (224, 224), "imagenet")),
        (["batch", 3, None, None], "float16", ("NCHW", "RGB", (224, 224), "imagenet")),
        ([-1, 192, 160, 3], "float32", ("NHWC", "RGB", (192, 160), "-1-1")),
        ([1, 28, 28, 1], "float32", ("NHWC", "GRAY", (28, 28), "0-1")),
        ([1, 1, 28, 28], "float32", ("NCHW", "GRAY", (28, 28), "0-1")),
        ([1, 224, 224, 3], np.uint8, ("NHWC", "RGB", (224, 224), "raw")),
        ([3, 64, 48], np.float32, ("NCHW", "RGB", (64, 48), "imagenet")),
        ([None, None, None, None], np.float32, ("NCHW", "RGB", (224, 224), "imagenet")),
        (None, None, ("NCHW", "RGB", (224, 224), "imagenet")),
    ],
)
def test_the_input_says_most(shape, dtype, expected) -> None:
    card = model_card(None, input_shape=shape, input_dtype=dtype)
    how, (layout, channels, size, preset) = card.preprocess, expected
    assert (how.layout, how.channels, how.size) == (layout, channels, size)
    assert (how.scale, how.mean, how.std) == tuple(PRESETS[preset][key] for key in ("scale", "mean", "std"))
    assert how.dtype == np.dtype(dtype or "float32").name
    assert "normalization" in card.source and "guessed" in card.source


def test_int8_is_pixel_minus_128() -> None:
    card = model_card(None, input_shape=[1, 96, 96, 3], input_dtype="int8")
    assert card.preprocess.mean == (128,) and card.preprocess.scale == 1
    tensor, _ = card.preprocess.apply(np.full((96, 96, 3), 255, np.uint8))
    assert tensor.dtype == np.int8 and tensor.max() == 127


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ([1, 784], "float32", "not a picture"),
        ([1, 40, 64, 64], "float32", "40 channels"),
        ([1, 64, 56, 56], "float32", "64 channels"),
        (["bytes"], "uint8", "not a picture"),
        ([1, 3, 8, 8], "int64", "int64"),
        ([1, 3, 8, 8], "str", "cannot be a picture"),
    ],
)
def test_inputs_that_take_no_pictures(shape, dtype, words: str) -> None:
    with pytest.raises(InputError, match=words):
        model_card(None, input_shape=shape, input_dtype=dtype)


# ---- the files --------------------------------------------------------------------------------------------------


def test_own_file_beside_the_model(tmp_path: Path) -> None:
    text = """
        labels = ["cat", "dog"]
        default-layer = "/layer4/Relu_output_0"
        task = "classification"
        [preprocess]
        preset = "caffe"
        resize = "letterbox"
        pad-value = 0
        interpolation = "bicubic"
    """
    write(tmp_path / "net.toml", text)
    write(tmp_path / "models.toml", '["net.onnx".preprocess]\npreset = "raw"')
    card = model_card(tmp_path / "net.onnx", input_shape=SHAPE, input_dtype="float32")
    how = card.preprocess
    assert (how.channels, how.mean, how.resize, how.pad_value) == ("BGR", PRESETS["caffe"]["mean"], "letterbox", 0)
    assert (card.labels, card.default_layer, card.task) == (("cat", "dog"), "/layer4/Relu_output_0", "classification")
    assert card.label(1) == "dog" and card.label(7) == "7"
    assert card.source == "from net.toml, the rest from the input float32[N, 3, 224, 224]"
    assert card.description.startswith("BGR 224×224 NCHW float32, letterboxed with 0")


def test_anchors_of_a_detector(tmp_path: Path) -> None:
    text = """
        anchors = [[[10, 13], [16.5, 30]], [[90, 60]]]
        strides = [8, 16]
        variances = [0.1, 0.2]
    """
    write(tmp_path / "net.toml", text)
    card = model_card(tmp_path / "net.onnx", input_shape=SHAPE, input_dtype="float32")
    assert card.anchors == (((10, 13), (16.5, 30)), ((90, 60),))
    assert (card.strides, card.variances) == ((8, 16), (0.1, 0.2))


def test_shared_file_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "a\nb\n")
    text = """
        ["other.onnx"]
        anything = "goes"
        ["net.onnx"]
        labels-file = "classes.txt"
        sha256 = "00"
        about = { trained = "on nothing" }
        ["net.onnx".preprocess]
        mean = [0.5, 0.5, 0.5]
        std = 0.5
        size = [192, 224]
    """
    write(tmp_path / "models.toml", text)
    card = model_card(tmp_path / "net.onnx", input_shape=[1, 3, None, None])
    assert card.labels == ("a", "b") and card.preprocess.size == (192, 224)
    assert (card.preprocess.scale, card.preprocess.std) == (1 / 255, (0.5,))
    assert model_card(tmp_path / "third.onnx", input_shape=SHAPE).source.startswith("normalization guessed")


def test_flags_replace_single_keys(tmp_path: Path) -> None:
    write(tmp_path / "net.toml", '[preprocess]\npreset = "imagenet"\nresize = "crop"\nmean = [0.1, 0.2, 0.3]')
    path = tmp_path / "net.onnx"
    card = model_card(path, {"resize": "letterbox", "pad_value": "0", "mean": None}, SHAPE)
    assert (card.preprocess.resize, card.preprocess.pad_value, card.preprocess.mean) == (
        "letterbox",
        0,
        (0.1, 0.2, 0.3),
    )
    assert card.source.startswith("from net.toml with the flags resize, pad-value")
    # A preset is a whole normalisation: nothing of the file's is left.
    assert model_card(path, {"preset": "-1-1"}, SHAPE).preprocess.mean == (1.0,)
    assert model_card(path, {"preset": "-1-1"}, SHAPE).preprocess.resize == "crop"


def test_flags_as_typed(tmp_path: Path) -> None:
    flags = {"mean": "123.7,116.3,103.5", "std": "58.4", "size": "192x160", "antialias": "false", "layout": "NHWC"}
    how = model_card(None, flags, [1, None, None, 3]).preprocess
    assert (how.mean, how.std, how.scale) == ((123.7, 116.3, 103.5), (58.4,), 1)
    assert (how.size, how.antialias) == ((192, 160), False)
    assert model_card(None, {"scale": "1/255", "size": "96"}, [1, 3, None, None]).preprocess.scale == 1 / 255
    assert model_card(None, {"size": "native"}, [1, 3, None, None]).preprocess.size is None
    labels = write(tmp_path / "labels.txt", "x\ny")
    assert model_card(None, {"labels_file": str(labels)}, SHAPE).labels == ("x", "y")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[preprocess]\npreset = 'imagnet'", ["preset", "imagnet", "'imagenet'"]),
        ("[preprocess]\nmeen = 0.5", ["'meen'", "'mean'"]),
        ("[preproces]\nmean = 0.5", ["'preproces'", "'preprocess'"]),
        ("label = ['a']", ["'label'", "'labels'"]),
        ("mean = 0.5", ["'mean'", "must be in the table 'preprocess'"]),
        ("[preprocess]\nmean = [0.5, 0.5]", ["mean", "per channel"]),
        ("[preprocess]\nmean = 'half'", ["mean", "half", "a number"]),
        ("[preprocess]\nscale = true", ["scale", "a number"]),
        ("[preprocess]\nsize = [224]", ["size", "[height, width]"]),
        ("[preprocess]\nsize = [224.0, 224.0]", ["size", "[height, width]"]),
        ("[preprocess]\nantialias = 1", ["antialias", "true or false"]),
        ("[preprocess]\nlayout = ['NCHW']", ["layout", "one of NCHW, NHWC"]),
        ("[preprocess]\nstd = 0", ["net.toml", "must not be 0"]),
        ("[preprocess]\nchannels = 'GRAY'", ["GRAY"]),
        ("[preprocess]\nsize = [64, 64]", ["64×64", "224"]),
        ("[preprocess]\ndtype = 'float16'", ["float16", "float32[N, 3, 224, 224]"]),
        ("labels = 'cat'", ["labels", "a list of strings"]),
        ("labels = []", ["labels", "at least one"]),
        ("labels = ['a']\nlabels-file = 'a.txt'", ["labels-file", "use only one"]),
        ("labels-file = '../../secret.txt'", ["outside the model's folder"]),
        ("labels-file = 'absent.txt'", ["absent.txt", "no such file"]),
        ("anchors = [[10, 13]]", ["anchors", "pairs of positive numbers"]),
        ("anchors = [[[10, 0]]]", ["anchors", "pairs of positive numbers"]),
        ("anchors = 8", ["anchors", "for each level"]),
        ("strides = [8, 16.5]", ["strides", "for each level"]),
        ("variances = [0.1]", ["variances", "pairs of positive numbers"]),
        ("preprocess = 3", ["'preprocess' must be a table"]),
        ("[preprocess", ["not valid TOML"]),
    ],
)
def test_bad_files_name_the_file_and_the_key(tmp_path: Path, text: str, words: list[str]) -> None:
    write(tmp_path / "net.toml", text)
    with pytest.raises(InputError) as error:
        model_card(tmp_path / "net.onnx", input_shape=SHAPE, input_dtype="float32")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_table_without_quotes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "models.toml", "[net.onnx.preprocess]\npreset = 'raw'")
    with pytest.raises(InputError, match=r'\["net\.onnx"\.preprocess\]'):
        model_card(tmp_path / "net.onnx", input_shape=SHAPE)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prest": "raw"}, "'preset'"),
        ({"mean": "a,b,c"}, "a number"),
        ({"scale": "1/0"}, "a number"),
        ({"size": "12y"}, "height, width"),
        ({"antialias": "maybe"}, "true or false"),
    ],
)
def test_bad_flags(flags: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        model_card(None, flags, SHAPE)


# ---- labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tench\ngoldfish\n", ("tench", "goldfish")),
        ("\ufefftench\r\n\r\ngoldfish\r\n\r\n", ("tench", "", "goldfish")),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("n01440764 tench\ngoldfish\n", ("n01440764 tench", "goldfish")),
        ("0 background\n1 tench\n", ("background", "tench")),
        ("0: background\n2: tench\n", ("background", "", "tench")),
        ("3 point line\n2 point line\n", ("3 point line", "2 point line")),
        ("7\n8\n", ("7", "8")),
        ('["a", "b"]', ("a", "b")),
        ('{"1": "b", "0": "a"}', ("a", "b")),
        ('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}', ("tench", "goldfish")),
        ('{"cat": 0, "dog": 1}', ("cat", "dog")),
        ('{"model_type": "vit", "id2label": {"0": "cat"}}', ("cat",)),
        ("猫\nмышь\n", ("猫", "мышь")),
    ],
)
def test_label_files(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    assert load_labels(write(tmp_path / "labels.txt", text)) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no class names"),
        (b"\n\n", "no class names"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "not a class name"),
        (b'{"0": "a", "00": "b"}', "twice"),
        (b'{"9999999999": "a"}', "out of bounds"),
        (b'{"a": "b"}', "class index"),
        (b"[" * 100000, "nested too deeply"),
        (b'["a",', "not valid JSON"),
    ],
)
def test_bad_label_files(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        load_labels(path)


def test_keras_index_file(tmp_path: Path) -> None:
    content = {str(index): [f"n{index:08d}", f"class {index}"] for index in range(1000)}
    labels = load_labels(write(tmp_path / "imagenet_class_index.json", json.dumps(content)))
    assert len(labels) == 1000 and labels[999] == "class 999"


def test_the_input_is_read_from_the_file(tmp_path):
    card = model_card(CNN)
    assert card.labels[:2] == ("zero", "one") and card.preprocess.size == (96, 96)
    batch, placement = card.preprocess.apply(np.full((192, 96, 3), 255, np.uint8))
    assert batch.shape == (1, 3, 96, 96) and batch.dtype == np.float32
    assert placement.box_to_input((0, 0, 96, 192)) == (0, 0, 96, 96)
    assert placement.map_to_image(np.ones((96, 96), np.float32)).shape == (192, 96)
    last = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1, 32, 40, 3])
    small = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [2])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.UINT8, [1, 32, 40, 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["pixels"], ["out"])], "g", [small, last], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert model_card(tmp_path / "m.onnx").preprocess.apply(np.zeros((9, 9, 3), np.uint8))[0].shape == (1, 32, 40, 3)
    (tmp_path / "m.onnx").write_text("not a model")
    with pytest.raises(InputError, match="not an ONNX model"):
        model_card(tmp_path / "m.onnx")


def test_a_usual_size_is_only_that_of_open_sides() -> None:
    usual = ("detectors", {"size": (640, 480)})

    def card(*sides: int | None, **flags):
        return model_card(None, flags, input_shape=[1, 3, *sides], input_dtype="float32", usual=usual)

    assert card(None, None).preprocess.size == (640, 480)
    assert card(320, None).preprocess.size == (320, 480)
    assert card(224, 192).preprocess.size == (224, 192)
    assert card(None, None, size=(96, 64)).preprocess.size == (96, 64)
    assert card(320, None).source.startswith("the size 320×480 as is usual for detectors, normalization guessed")
    assert "usual" not in card(224, 192).source and "usual" not in card(None, None, size=(96, 64)).source
