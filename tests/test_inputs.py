"""Models with several inputs, other depths and bands, clips, volumes, videos and fixed batches, by the commands."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import analyzer
from analyzer.attribution import Model
from analyzer.errors import InputError
from analyzer.images import Preprocess, decode, model_card, read
from analyzer.images.bands import read_bands
from analyzer.images.feeding import Slot, size_of
from analyzer.images.placement import Placement
from analyzer.images.video import video, write_video

SIDE = 16


def network(
    place: Path, name: str, inputs: dict[str, tuple[list, int]], nodes: list, weights: dict, shape: list
) -> None:
    """Saves a model whose output is `logits`."""
    graph = helper.make_graph(
        [helper.make_node(op, read, [out], name=out, **how) for op, read, out, how in nodes],
        name,
        [helper.make_tensor_value_info(n, kind, dims) for n, (dims, kind) in inputs.items()],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, place / f"{name}.onnx")


def kernels(out: int, channels: int, *window: int) -> np.ndarray:
    rng = np.random.default_rng([out, channels, *window])
    return (rng.random((out, channels, *window)) - 0.3).astype(np.float32)


HEAD = [
    ("GlobalAveragePool", ["map"], "pool", {}),
    ("Flatten", ["pool"], "flat", {"axis": 1}),
]


def head(extra: str = "flat") -> list:
    return [*HEAD, ("Gemm", [extra, "w"], "logits", {})]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    f, conv = TensorProto.FLOAT, {"pads": [1, 1, 1, 1]}
    dense = {"w": kernels(4, 3)}
    picture = ([1, 3, SIDE, SIDE], f)
    # depth stands first in the file
    network(
        folder, "two", {"depth": ([1, 1, SIDE, SIDE], f), "rgb": picture},
        [("Concat", ["rgb", "depth"], "both", {"axis": 1}), ("Conv", ["both", "k"], "c", conv),
         ("Relu", ["c"], "map", {}), *head()],
        {"k": kernels(4, 4, 3, 3), **dense}, [1, 3],
    )  # fmt: skip
    network(
        folder, "table", {"image": picture, "meta": ([1, 3], f)},
        [("Conv", ["image", "k"], "c", conv), ("Relu", ["c"], "map", {}), *HEAD,
         ("Concat", ["flat", "meta"], "all", {"axis": 1}), ("Gemm", ["all", "w"], "logits", {})],
        {"k": kernels(4, 3, 3, 3), "w": kernels(7, 3)}, [1, 3],
    )  # fmt: skip
    network(
        folder, "sized", {"image": (["N", 3, SIDE, SIDE], f), "orig_target_sizes": (["N", 2], TensorProto.INT64)},
        [("Conv", ["image", "k"], "c", conv), ("Relu", ["c"], "map", {}), *HEAD, ("Gemm", ["flat", "w"], "plain", {}),
         ("Cast", ["orig_target_sizes"], "size", {"to": 1}), ("Concat", ["plain", "size"], "logits", {"axis": 1})],
        {"k": kernels(4, 3, 3, 3), **dense}, ["N", 5],
    )  # fmt: skip
    for name, batch, channels in (("batch", 4, 3), ("single", 1, 3), ("grey", 1, 1), ("rgba", 1, 4), ("six", 1, 6)):
        network(
            folder, name, {"image": ([batch, channels, SIDE, SIDE], f)},
            [("Conv", ["image", "k"], "c", conv), ("Relu", ["c"], "map", {}), *head()],
            {"k": kernels(4, channels, 3, 3), **dense}, [batch, 3],
        )  # fmt: skip
    network(
        folder, "clip", {"clip": ([1, 4, 3, SIDE, SIDE], f)},
        [("Reshape", ["clip", "folded"], "frames", {}), ("Conv", ["frames", "k"], "c", conv),
         ("Relu", ["c"], "map", {}), *HEAD, ("Reshape", ["flat", "row"], "rows", {}),
         ("ReduceMean", ["rows"], "mean", {"axes": [1], "keepdims": 0}),
         ("Gemm", ["mean", "w"], "logits", {})],
        {"k": kernels(4, 3, 3, 3), "folded": np.array([4, 3, SIDE, SIDE]), "row": np.array([1, 4, 4]), **dense}, [1, 3],
    )  # fmt: skip
    network(
        folder, "volume", {"ct": ([1, 1, 8, SIDE, SIDE], f)},
        [("Conv", ["ct", "k"], "c", {"pads": [1] * 6}), ("Relu", ["c"], "map", {}), *head()],
        {"k": kernels(4, 1, 3, 3, 3), **dense}, [1, 3],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for at in range(5):
        cv2.imwrite(str(folder / f"p{at}.png"), rng.integers(0, 256, (24, 40, 3), np.uint8))
    cv2.imwrite(str(folder / "depth.png"), rng.integers(0, 256, (30, 20), np.uint8))
    cv2.imwrite(str(folder / "alpha.png"), rng.integers(0, 256, (24, 40, 4), np.uint8))
    return folder


def explained(run, *arguments: str) -> dict:
    code, out, err = run("explain", *arguments, "--preset", "0-1", "--format", "json")
    assert code == 0, err
    return json.loads(out)["results"][0]


# ---- several inputs -----------------------------------------------------------------------------------------------


def test_the_picture_goes_to_the_input_that_is_not_named(run, place) -> None:
    one = explained(run, "two.onnx", "p0.png", "--input", "depth=depth.png")
    other = explained(run, "two.onnx", "depth.png", "--input", "rgb=p0.png")
    assert one["top"] == other["top"]
    how = [model_card(None, {"preset": "0-1"}, (1, c, SIDE, SIDE), np.float32).preprocess for c in (3, 1)]
    feeds = {
        n: h.apply(decode(place / p))[0] for n, h, p in zip(("rgb", "depth"), how, ("p0.png", "depth.png"), strict=True)
    }
    scores = analyzer.explain(place / "two.onnx", feeds).scores[0]
    assert one["top"][0]["score"] == pytest.approx(scores.max())


def test_what_is_missing_is_said_with_the_flags_to_write(run) -> None:
    code, _, err = run("explain", "two.onnx", "p0.png")
    assert code == 2 and "--input depth=FILE" in err and "{" not in err
    code, _, err = run("explain", "table.onnx", "p0.png")
    assert code == 2 and "--input meta=0,0,0" in err
    for wrong in ("depht=depth.png", "depth", "depth=", "depth=absent.png", "depth=1,2"):
        code, _, err = run("explain", "two.onnx", "p0.png", "--input", wrong)
        assert code == 2 and "depth" in err and "Traceback" not in err, err
    code, _, err = run("explain", "two.onnx", "p0.png", "--input", "depth=depth.png", "--input", "rgb=p1.png")
    assert code == 2 and "omit --input" in err


def test_the_map_is_laid_on_the_input_that_it_is_of(run, place) -> None:
    arguments = ["two.onnx", "p0.png", "--input", "depth=depth.png", "-m", "gradient", "-o", "m.png"]
    arguments += ["--view", "overlay"]
    for name, size in (("rgb", (24, 40)), ("depth", (30, 20))):
        found = explained(run, *arguments, "--explain-input", name, "--raw", "raw.npy")
        assert np.load(place / "raw.npy").shape[1] == {"rgb": 3, "depth": 1}[name]
        x, y = found["maps"][0]["maximum"]
        assert x < size[1] and y < size[0]
        height, width = decode(place / "m.png").shape[:2]
        assert (height > width) == (size[0] > size[1])


def test_each_input_is_explained_in_python(place) -> None:
    rng = np.random.default_rng(1)
    feeds = {"rgb": rng.random((1, 3, SIDE, SIDE), np.float32), "depth": rng.random((1, 1, SIDE, SIDE), np.float32)}
    picture = analyzer.explain(place / "two.onnx", feeds, "gradient").raw
    depth = analyzer.explain(place / "two.onnx", feeds, "gradient", explain_input="depth").raw
    assert picture.shape == (1, 3, SIDE, SIDE) and depth.shape == (1, 1, SIDE, SIDE)
    cls = int(analyzer.explain(place / "two.onnx", feeds, "gradient").target[0])
    moved = {n: a.copy() for n, a in feeds.items()}
    moved["depth"][0, 0, 5, 7] += 1e-2
    change = [analyzer.explain(place / "two.onnx", f, "gradient").scores[0, cls] for f in (feeds, moved)]
    assert (change[1] - change[0]) / 1e-2 == pytest.approx(depth[0, 0, 5, 7], rel=2e-2)
    model = Model(place / "two.onnx")
    assert model.image == "rgb" and model.about("depth").image == "depth" and model.about("rgb") is model
    with pytest.raises(InputError, match="'rgb'"):
        model.about("thermal")


def test_gradients_of_numbers_are_numbers(run, place) -> None:
    weights = numpy_helper.to_array(next(i for i in onnx.load(place / "table.onnx").graph.initializer if i.name == "w"))
    found = explained(run, "table.onnx", "p0.png", "--input", "meta=1,2,3")
    (row,) = found["inputs"]
    assert row["input"] == "meta" and np.allclose(row["values"], weights[4:, row["class"]], atol=1e-6)
    found = explained(run, "table.onnx", "p0.png", "--input", "meta=0.5", "--explain-input", "meta", "-m", "gradient")
    assert found["maps"][0]["input"] == "meta" and len(found["maps"][0]["values"]) == 3
    code, out, _ = run("explain", "table.onnx", "p0.png", "--input", "meta=1,2,3")
    assert code == 0 and "with respect to meta" in out


def test_sizes_are_filled_by_themselves(run) -> None:
    found = explained(run, "sized.onnx", "p0.png")
    assert {(t["class"], t["score"]) for t in found["top"]} >= {(3, 40.0), (4, 24.0)}  # width, height
    _, _, err = run("explain", "sized.onnx", "p0.png", "-v")
    assert "orig_target_sizes" in err and "filled automatically" in err
    placed = Placement((100, 200), (50, 50), (0.5, 0.25), (0.0, 0.0))
    for name, values in (("im_shape", (50, 50)), ("scale_factor", (0.5, 0.25)), ("image_shape", (100, 200))):
        assert tuple(size_of(Slot(name, (1, 2)))[1](placed)) == values
    assert size_of(Slot("im_shape", (1, 77))) is None and size_of(Slot("meta", (1, 2))) is None


def test_every_command_takes_other_inputs(run) -> None:
    more = ("--preset", "0-1", "--input", "depth=depth.png")
    pictures = ("p0.png", "p1.png", "p2.png")
    for call in (
        ("compare", "two.onnx", "two.onnx", *pictures),
        ("audit", "two.onnx", *pictures, "--exit-zero"),
        ("mine", "two.onnx", *pictures, "-l", "map", "-o", "mined"),
        ("features", "two.onnx", "p0.png", "-l", "map"),
        ("localize", "two.onnx", "p0.png"),
        ("project", "two.onnx", "p0.png", "-l", "map", "-o", "projected.png"),
        ("invariance", "two.onnx", "p0.png", "-l", "map"),
    ):
        code, _, err = run(*call, *more)
        assert code == 0, (call[0], err)


# ---- a fixed batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad-cam", "gradient", "occlusion"])
def test_a_fixed_batch_is_filled_up(place, method: str) -> None:
    x = np.random.default_rng(2).random((5, 3, SIDE, SIDE), np.float32)
    whole = analyzer.explain(place / "batch.onnx", x, method)
    assert whole.scores.shape == (5, 3) and len(whole.raw) == len(whole.diagnosis) == 5
    for at in range(5):
        single = analyzer.explain(place / "single.onnx", x[at : at + 1], method)
        alone = analyzer.explain(place / "batch.onnx", x[at : at + 1], method)
        assert len(alone.raw) == 1
        assert np.allclose(alone.raw, single.raw, atol=1e-6) and np.allclose(whole.raw[at], single.raw[0], atol=1e-6)


def test_commands_run_on_a_fixed_batch(run) -> None:
    pictures = [f"p{at}.png" for at in range(5)]
    for call in (("compare", "batch.onnx", "single.onnx"), ("audit", "batch.onnx", "--exit-zero")):
        code, out, err = run(*call, *pictures, "--preset", "0-1")
        assert code == 0 and "fail" not in out, out + err
    code, out, err = run("mine", "batch.onnx", *pictures, "--preset", "0-1", "-o", "of-four", "--format", "json")
    four = json.loads(out)["layers"]
    code, out, err = run("mine", "single.onnx", *pictures, "--preset", "0-1", "-o", "of-one", "--format", "json")
    assert code == 0 and four[0]["strongest"] == pytest.approx(json.loads(out)["layers"][0]["strongest"], rel=1e-5)


# ---- depth and bands ----------------------------------------------------------------------------------------------


def scan(place: Path, name: str, bits: int, sbit: int = 0) -> np.ndarray:
    """A 16-bit PNG of a ramp of as many levels, and the ramp."""
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    data = cv2.imencode(".png", ramp)[1].tobytes()
    if sbit:
        import zlib

        body = b"sBIT" + bytes([sbit])
        data = data[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    (place / name).write_bytes(data)
    return ramp


def test_grey_levels_of_deep_pictures_are_kept(run, place) -> None:
    ramp = scan(place, "deep.png", 16)
    how = Preprocess(size=None, channels="GRAY")
    tensor = how.apply_deep(read(place / "deep.png", None, 1).levels[0])[0]
    assert len(np.unique(tensor)) == len(np.unique(ramp)) and np.allclose(tensor[0, 0], ramp / 65535, atol=1e-6)
    scan(place, "twelve.png", 12)
    scan(place, "said.png", 12, sbit=12)
    by_flag, by_file = read(place / "twelve.png", 4095, 1), read(place / "said.png", None, 1)
    assert np.array_equal(by_flag.levels, by_file.levels) and by_flag.levels.max() == pytest.approx(255)
    assert len(np.unique(by_flag.levels)) == len(np.unique(scan(place, "twelve.png", 12)))
    _, _, err = run("explain", "grey.onnx", "twelve.png")
    assert "--white 4095" in err
    deep = explained(run, "grey.onnx", "deep.png")["top"][0]["score"]
    assert explained(run, "grey.onnx", "twelve.png", "--white", "4095")["top"][0]["score"] == pytest.approx(
        deep, rel=1e-3
    )


def test_pictures_of_eight_bits_are_decoded_as_ever(place) -> None:
    for name in ("p0.png", "depth.png", "alpha.png"):
        assert np.array_equal(read(place / name).pixels[0], decode(place / name))


def test_a_picture_is_read_and_decoded_once(place, monkeypatch) -> None:
    decoded = []
    imdecode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(1) or imdecode(*given))
    expected = read(place / "p0.png").pixels
    assert len(decoded) == 1
    end, start = os.pipe()  # what is in a pipe can be read once
    with os.fdopen(start, "wb") as file:
        file.write((place / "p0.png").read_bytes())
    found = read(f"/dev/fd/{end}").pixels
    os.close(end)
    assert np.array_equal(found, expected)


def test_alpha_and_bands(run, place) -> None:
    explained(run, "rgba.onnx", "alpha.png")
    rng = np.random.default_rng(3)
    bands = rng.random((1, 6, SIDE, SIDE), np.float32)
    np.save(place / "model.npy", bands)
    np.save(place / "hwc.npy", bands[0].transpose(1, 2, 0))
    np.save(place / "chw.npy", bands[0])
    (place / "six.tif").write_bytes(tiff((bands[0].transpose(1, 2, 0) * 65535).astype(np.uint16)))
    scores = [explained(run, "six.onnx", n)["top"][0]["score"] for n in ("model.npy", "hwc.npy", "chw.npy", "six.tif")]
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-3)
    for name, wanted in (("rgba.onnx", "4 channels"), ("six.onnx", "6 bands")):
        code, _, err = run("explain", name, "p0.png")
        assert code == 2 and wanted in err and ".npy" in err, err


def tiff(pixels: np.ndarray) -> bytes:
    """An uncompressed TIFF of any number of bands."""
    height, width, bands = pixels.shape
    data, bits = pixels.tobytes(), struct.pack(f"<{bands}H", *[8 * pixels.itemsize] * bands)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    start = 8 + len(data) + len(bits)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", start) + data + bits + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_damaged_files_of_many_bands_are_refused(tmp_path) -> None:
    whole = tiff(np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6))
    assert read_bands(whole).shape == (4, 5, 6)
    for end in range(9, len(whole) - 5, 7):
        (tmp_path / "cut.tif").write_bytes(whole[:end])
        with pytest.raises(InputError):
            read(tmp_path / "cut.tif", None, 6)


def test_arrays_that_are_no_pictures_are_refused(run, place) -> None:
    np.save(place / "cube.npy", np.zeros((2, 3, 4, 5, 6, 7)))
    np.save(place / "nan.npy", np.full((8, 8), np.nan))
    np.save(place / "objects.npy", np.array([{}], object), allow_pickle=True)
    (place / "text.npy").write_text("no array")
    for name in ("cube", "nan", "objects", "text"):
        code, _, err = run("explain", "single.onnx", f"{name}.npy")
        assert code == 2 and f"{name}.npy" in err and "Traceback" not in err


# ---- clips, volumes and videos ------------------------------------------------------------------------------------


def test_a_clip_has_a_map_per_frame(run, place) -> None:
    frames = [f"p{at}.png" for at in range(4)]
    found = explained(run, "clip.onnx", *frames, "-o", "strip.png", "--raw", "clip-map.npy")
    assert np.load(place / "clip-map.npy").shape == (1, 4, SIDE, SIDE) and 0 <= found["maps"][0]["frame"] < 4
    how = Preprocess(size=(SIDE, SIDE))
    clip = np.stack([how.apply(decode(place / f))[0] for f in frames], axis=1)
    whole = analyzer.explain(place / "clip.onnx", clip)
    assert whole.heatmap.shape == (1, 4, SIDE, SIDE) and np.allclose(
        whole.raw, np.load(place / "clip-map.npy"), atol=1e-6
    )
    moved = analyzer.explain(place / "clip.onnx", clip[:, ::-1].copy(), target=int(whole.target[0]))
    assert np.allclose(moved.raw[0, ::-1], whole.raw[0], atol=1e-6)
    assert decode(place / "strip.png").shape[1] > decode(place / "strip.png").shape[0]
    np.save(place / "clip.npy", clip)
    assert explained(run, "clip.onnx", "clip.npy")["top"] == found["top"]
    code, _, err = run("explain", "clip.onnx", "p0.png")
    assert code == 2 and "takes 4" in err


def test_a_volume_from_an_array_and_from_pages(run, place) -> None:
    slices = np.random.default_rng(4).integers(0, 65536, (8, 24, 24)).astype(np.uint16)
    np.save(place / "ct.npy", slices)
    cv2.imwritemulti(str(place / "ct.tif"), list(slices))
    tops = [
        explained(run, "volume.onnx", n, "-m", m)["top"] for n in ("ct.npy", "ct.tif") for m in ("grad-cam", "gradient")
    ]
    assert all(top == tops[0] for top in tops)
    found = analyzer.explain(place / "volume.onnx", np.random.default_rng(5).random((1, 1, 8, SIDE, SIDE), np.float32))
    assert found.heatmap.shape == (1, 8, SIDE, SIDE)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_is_explained_frame_by_frame(run, place, suffix: str) -> None:
    film = place / f"film{suffix}"
    rng = np.random.default_rng(6)
    write_video(film, (np.full((48, 64, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(7)), 10)
    out = f"heat{suffix}"
    code, text, err = run("explain", "single.onnx", film.name, "--every", "2", "-o", out, "--format", "json")
    assert code == 0, err
    assert [r["picture"] for r in json.loads(text)["results"]] == [f"{film.name}:{at}" for at in (0, 2, 4, 6)]
    assert video(place / out).count() == 4 and video(place / out).rate == pytest.approx(5, rel=0.1)
    code, _, err = run("explain", "single.onnx", film.name, "-o", "one.png")
    assert code == 2 and "-o out.mp4" in err and not (place / "one.png").exists()
    code, _, err = run("explain", "single.onnx", "p0.png", "-o", "picture.mp4")
    assert code == 2 and not (place / "picture.mp4").exists()


def test_rows_of_a_batch_are_pictures(run, place) -> None:
    np.save(place / "rows.npy", np.random.default_rng(7).random((3, 3, SIDE, SIDE), np.float32))
    code, out, _ = run("explain", "single.onnx", "rows.npy", "--format", "json")
    assert code == 0 and [r["picture"] for r in json.loads(out)["results"]] == [f"rows.npy:{at}" for at in range(3)]
