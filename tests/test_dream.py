"""Activation maximisation: adjoints and derivatives are exact, the unit is driven, a seed gives one picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.attribution.dream import Dreamer, alike
from analyzer.attribution.parametrizations import COLOURS, DreamOptions, Fourier, Phases, mean_spectrum
from analyzer.attribution.units import STRONGEST
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.images import Preprocess
from analyzer.images.warp import Warp
from tests.models import model, node, small_cnn

RNG = np.random.default_rng(4)
HOW = Preprocess(size=(12, 12), mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("size", [(9, 12), (12, 9), (10, 10)])
def test_the_fourier_gradient_is_the_derivative(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = Fourier(DreamOptions(), (*size, 3), rng)
    picture.state = 0.05 * rng.standard_normal(picture.state.shape)
    along = rng.standard_normal(picture.state.shape)
    target = rng.standard_normal((*size, 3)).astype(np.float32)
    slope = float((picture.pull(target) * along).sum())
    before, step = picture.state, 1e-4
    values = []
    for sign in (1, -1):
        picture.state = before + sign * step * along
        values.append(float((picture.pixels().astype(np.float64) * target).sum()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=1e-2)


def test_the_axes_of_colours_are_principal_ones() -> None:
    """C = U √S of the covariance of ImageNet's colours: CᵀC = S, but for the published rounding of entries to 0.01."""
    products, sums = COLOURS.T @ COLOURS, np.abs(COLOURS).sum(axis=0)
    rounding = 0.005 * (sums[:, None] + sums)
    assert (np.abs(products - np.diag(np.diag(products))) < rounding).all()
    assert (np.diff(np.diag(products)) < 0).all() and (COLOURS[:, 0] > 0.25).all()  # brightness varies most


@pytest.mark.parametrize("options", [{}, {"parametrization": "pixels", "rate": 1.0, "decay": 0.01, "blur": 0.5}])
def test_the_unit_is_driven_and_a_seed_gives_one_picture(options: dict) -> None:
    dreamer = Dreamer(Explainer(small_cnn(), threads=1), "r2", HOW)
    settings = DreamOptions(steps=40, jitter=1, **options)
    first, again = dreamer.run(3, options=settings), dreamer.run(3, options=settings)
    assert first.score > 2 * max(first.scores[0], 0.01)
    np.testing.assert_array_equal(first.image, again.image)
    other = dreamer.run(3, options=DreamOptions(steps=40, jitter=1, seed=1, **options))
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (12, 12, 3) and first.image.dtype == np.uint8


def test_the_score_is_the_models(tmp_path) -> None:
    explainer = Explainer(small_cnn())
    dreamer = Dreamer(explainer, "logits", HOW)
    found = dreamer.run(2, options=DreamOptions(steps=30, jitter=0, degrees=0, rescale=False))
    logits = features(small_cnn(), HOW.apply(found.image)[0], "logits")["logits"][0]
    assert logits[2] == pytest.approx(found.score, abs=0.05)
    assert found.score > found.scores[0] + 1


def test_directions_positions_and_dead_starts() -> None:
    weights = {"w": np.ones((2, 3, 3, 3), np.float32), "b": np.array([-20.0, -20.0], np.float32)}
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), node("Relu", ["c"], ["map"])]
    explainer = Explainer(model(nodes, {"x": [1, 3, 12, 12]}, {"map": [1, 2, 10, 10]}, weights))
    dreamer = Dreamer(explainer, "map", Preprocess(size=(12, 12)))
    plain = DreamOptions(steps=60, rate=0.2, jitter=0, degrees=0, rescale=False)
    found = dreamer.run(1, STRONGEST, plain)
    assert found.scores[0] == 0
    assert found.score > 1
    both = dreamer.run(np.array([1.0, 1.0]), options=plain)
    assert both.score > 0
    with pytest.raises(InputError, match="2 entries"):
        dreamer.run(np.ones(3))
    with pytest.raises(NotFoundError):
        dreamer.run(2)


@pytest.mark.parametrize("options", [{"clip_norm": 30.0}, {"clip_contribution": 30.0}])
def test_clipped_pixels_are_grey(options: dict) -> None:
    dreamer = Dreamer(Explainer(small_cnn()), "r2", HOW)
    settings = DreamOptions(steps=10, parametrization="pixels", rate=1.0, jitter=0, degrees=0, **options)
    grey = (dreamer.run(3, options=settings).image == 128).all(axis=2)
    assert grey.mean() >= 0.25


def test_integer_inputs_that_are_converted_twice_are_refused() -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Cast", ["x"], ["double"], to=onnx.TensorProto.DOUBLE),
        node("Cast", ["double"], ["g"], to=onnx.TensorProto.FLOAT),
        node("Add", ["f", "g"], ["h"]),
        node("Conv", ["h", "w"], ["y"]),
    ]
    given = model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 2, 6, 6]}, {"w": np.ones((2, 3, 3, 3), np.float32)})
    given.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(UnsupportedError, match="uint8"):
        Dreamer(Explainer(given), "y", Preprocess(size=(8, 8), scale=1.0, dtype="uint8"))


def test_warps_have_exact_adjoints() -> None:
    warp = Warp.affine((11, 14), (2.3, -1.7), 1.2, 23.0)
    x, y = (RNG.standard_normal((11, 14, 3)).astype(np.float32) for _ in range(2))
    assert float((warp.apply(x) * y).sum()) == pytest.approx(float((x * warp.adjoint(y)).sum()), rel=1e-3)


def test_warps_are_movements_turns_and_scalings() -> None:
    image = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(Warp.affine((8, 8)).apply(image), image)
    moved = Warp.affine((8, 8), (2, -3)).apply(image, 7)
    np.testing.assert_array_equal(moved[:5, 2:], image[3:, :6])
    assert (moved[5:] == 7).all() and (moved[:, :2] == 7).all()
    np.testing.assert_array_equal(Warp.affine((8, 8), degrees=90).apply(image), np.rot90(image))
    np.testing.assert_array_equal(Warp.affine((8, 8), degrees=180).apply(image), np.rot90(image, 2))
    doubled = Warp.affine((8, 8), scale=2).apply(image.astype(np.float32))
    np.testing.assert_allclose(doubled[3:5, 3:5].mean((0, 1)), image[3:5, 3:5].mean((0, 1)), atol=1e-3)
    with pytest.raises(InputError):
        Warp.affine((8, 8), scale=0)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main

    onnx.save(small_cnn(), tmp_path / "model.onnx")

    def call(*arguments: str) -> tuple[int, str]:
        command = ["dream", "model.onnx", "--size", "12x12", "--preset", "0-1", "-o", "out.png", "--steps", "5"]
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command, *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    code, out = call("-l", "r2", "-u", "3", "-u", "4@1,1", "--format", "json")
    assert code == 0 and [u["channel"] for u in json.loads(out)["units"]] == [3, 4]
    assert (tmp_path / "out.png").exists()
    assert call("-t", "1")[0] == 0
    assert call()[0] == call("-u", "max")[0] == call("-l", "r2", "-u", "99")[0] == 2

    np.save(tmp_path / "along.npy", np.eye(16)[3])
    larger = "-l", "r2", "--picture-size", "12x20", "--variants", "2", "--raw", "raw.npy", "--format", "json"
    code, out = call("--direction", "along.npy", *larger)
    rows = json.loads(out)["units"]
    assert code == 0 and [row["unit"] for row in rows] == ["along.npy, 1 of 2", "along.npy, 2 of 2"]
    assert all(row["channel"] is None and 0 < row["similarity"] <= 1 for row in rows)
    code, out = call("-u", "3", *larger)
    assert [row["score"] for row in json.loads(out)["units"]] == [row["score"] for row in rows]  # e₃ is channel 3
    assert np.load(tmp_path / "raw.npy").shape == (2, 12, 20, 3)
    np.save(tmp_path / "along.npy", np.ones(5))
    for wrong in (["--direction", "along.npy"], ["-u", "3", "-t", "1"], ["-u", "3", "--picture-size", "11x20"]):
        assert call("-l", "r2", *wrong)[0] == 2
    assert call("-u", "3", "--picture-size", "wide")[0] == 2
    assert call("-t", "1", "--variants", "2")[0] == 2  # a class has no feature maps
    assert call("-t", "1", "--variants", "2", "--diversity", "0")[0] == 0


# ---- Larger than the input ----


def test_tiles_cover_the_picture_at_every_offset() -> None:
    dreamer = Dreamer(Explainer(small_cnn(), threads=1), "r2", HOW)
    views = dreamer._moved((20, 24), DreamOptions(), np.random.default_rng(1))
    assert len(views) == 4
    seen = np.zeros((20, 24), int)
    for view in views:
        seen[np.ix_(view.rows, view.columns)] += 1
    assert seen.min() == 1 and (seen[:, :12] > 0).all()
    x, y = RNG.standard_normal((20, 24, 3)).astype(np.float32), RNG.standard_normal((12, 12, 3)).astype(np.float32)
    rng = np.random.default_rng(0)
    starts = {
        (int(v.rows[0]), int(v.columns[0])) for _ in range(200) for v in dreamer._moved((12, 14), DreamOptions(), rng)
    }
    assert {start for _, start in starts} == set(range(14)) and {start for start, _ in starts} == {0}
    moved = DreamOptions(jitter=3, degrees=0, rescale=False)
    (white,) = dreamer._moved((12, 12), moved, np.random.default_rng(0))
    shown = np.unique(white.of(np.ones((12, 12, 3), np.float32)))
    assert shown.tolist() == [0.5, 1.0]  # gray comes in
    inside = replace(views[0], warp=replace(views[0].warp, outside=np.zeros(144, bool)))  # gray is no linear part
    back = np.zeros_like(x)
    inside.add(y, back)
    assert float((inside.of(x) * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-3)


def test_a_larger_picture_drives_the_unit_everywhere_without_seams() -> None:
    dreamer = Dreamer(Explainer(small_cnn(), threads=1), "r2", HOW)
    options = DreamOptions(steps=80, jitter=1, degrees=0, picture_size=(36, 24))
    found = dreamer.run(3, options=options)
    assert found.image.shape == (36, 24, 3) and found.score > 2 * found.scores[0]
    lines = np.abs(np.diff(found.image.astype(float), axis=0)).mean(axis=(1, 2))
    seams = lines[[11, 23]]
    assert seams.mean() < 1.5 * lines.mean()
    with pytest.raises(InputError, match="11×24 is smaller than the model's input, 12×12"):
        dreamer.run(3, options=DreamOptions(picture_size=(11, 24)))


# ---- Several optima ----


def test_likeness_is_the_cosine_of_gram_matrices_and_its_gradient_the_derivative() -> None:
    maps = [RNG.standard_normal((4, 9)) for _ in range(3)]
    found, slopes = alike(maps)
    cosines = np.array([[np.vdot(a @ a.T, b @ b.T) for b in maps] for a in maps])
    cosines /= np.sqrt(np.outer(np.diag(cosines), np.diag(cosines)))
    np.testing.assert_allclose(found, (cosines.sum(axis=0) - 1) / 2)
    along, step = RNG.standard_normal((4, 9)), 1e-5
    ahead, behind = (alike([maps[0] + sign * step * along, *maps[1:]])[0][0] for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((slopes[0] * along).sum()), rel=1e-5)
    silent = alike([np.zeros((4, 9), np.float32), np.ones((4, 9), np.float32)])
    assert np.isfinite(silent[0]).all() and all(np.isfinite(slope).all() for slope in silent[1])


def test_variants_differ_more_with_diversity() -> None:
    dreamer = Dreamer(Explainer(small_cnn(), threads=1), "r2", HOW)
    likeness = {}
    for diversity in (0.0, 3.0):
        options = DreamOptions(steps=60, jitter=1, variants=3, diversity=diversity)
        found = dreamer.runs(3, options=options)
        assert all(each.score > 2 * max(each.scores[0], 0.01) for each in found)
        likeness[diversity] = float(np.mean([each.similarity for each in found if each.similarity is not None]))
    assert likeness[3.0] < likeness[0.0] - 0.02
    alone = dreamer.run(3, options=options)
    assert alone.similarity is None


# ---- Phases alone ----


def photographs(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    coarse = rng.integers(40, 220, (count, 3, 3, 3)).astype(np.uint8)
    return [np.ascontiguousarray(np.kron(c, np.ones((size[0] // 3, size[1] // 3, 1), np.uint8))) for c in coarse]


@pytest.mark.parametrize("decorrelate", [True, False])
def test_the_spectrum_stays_while_phases_are_climbed(decorrelate: bool) -> None:
    """By a Fourier transform of the logits of what comes out: every magnitude but those that mirror themselves."""
    options = DreamOptions(steps=5, parametrization="maco", rate=0.1, decorrelate=decorrelate)
    photos = photographs(4, (12, 12))
    axes = COLOURS / np.linalg.norm(COLOURS, axis=0).max() if decorrelate else np.eye(3)

    def transformed(picture: np.ndarray) -> np.ndarray:
        logits = np.log(picture / (1 - picture))
        return np.fft.fft2(np.linalg.solve(axes, logits.reshape(-1, 3).T).reshape(3, 12, 12))

    given = np.mean([np.abs(transformed(p.astype(np.float64) / 255)) for p in photos], axis=0)
    picture = Phases(options, (12, 12, 3), np.random.default_rng(0), mean_spectrum(photos, options))
    for step in range(5):
        picture.step(np.random.default_rng(step).standard_normal((12, 12, 3)).astype(np.float32), step)
        found = np.abs(transformed(picture.pixels().astype(np.float64)))
        np.testing.assert_allclose(found[:, :, 1:6], given[:, :, 1:6], rtol=2e-2, atol=1e-2)
    mean = np.mean([transformed(p / 255)[:, 0, 0].real for p in photos], axis=0)
    np.testing.assert_allclose(transformed(picture.pixels().astype(np.float64))[:, 0, 0].real, mean, rtol=1e-2)


def test_the_gradient_of_phases_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    picture = Phases(DreamOptions(), (12, 12, 3), rng, mean_spectrum(photographs(3, (12, 12))))
    along, target = rng.standard_normal(picture.state.shape), rng.standard_normal((12, 12, 3)).astype(np.float32)
    along[:, 0, 0] = 0
    slope = float((picture.pull(target) * along).sum())
    before, step, values = picture.state, 1e-4, []
    for sign in (1, -1):
        picture.state = before + sign * step * along
        values.append(float((picture.pixels().astype(np.float64) * target).sum()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=1e-2)


def test_phases_drive_the_unit_and_need_photographs() -> None:
    dreamer = Dreamer(Explainer(small_cnn(), threads=1), "r2", HOW)
    options = DreamOptions(steps=60, parametrization="maco", rate=0.1)
    spectrum = mean_spectrum(photographs(3, (12, 12)), options)
    found, again = (dreamer.run(3, options=options, spectrum=spectrum) for _ in range(2))
    assert np.mean(found.scores[-20:]) > 1.2 * np.mean(found.scores[:5])
    np.testing.assert_array_equal(found.image, again.image)
    with pytest.raises(InputError, match="photographs"):
        dreamer.run(3, options=options)
    with pytest.raises(InputError, match="shape"):
        dreamer.run(3, options=options, spectrum=spectrum[:, :-1])
