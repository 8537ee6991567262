"""Measures of maps against Quantus 0.6.0, pytorch-grad-cam 1.5.7, Captum 0.9.0, SciPy and scikit-learn.

Their numbers for the arrays made here are written down; nothing of them is needed to run this.
"""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.metrics.average_drop import average_drop, increase, kept
from analyzer.metrics.consistency import flip_consistency, shift_consistency, shifted
from analyzer.metrics.deletion import deletion, insertion, random_cells
from analyzer.metrics.energy import energy_inside, hit_rate
from analyzer.metrics.max_sensitivity import max_sensitivity
from analyzer.metrics.mprt import mprt
from analyzer.metrics.overlap import heat_iou, top_iou
from analyzer.metrics.pointing_game import pointing_game
from analyzer.metrics.similarity import cosine_of, spearman

SIZE = (12, 16)
RANDOM = np.random.default_rng(0)
HEAT = RANDOM.random(SIZE)
PICTURE, WEIGHTS = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((1, 3, *SIZE), (3, *SIZE)))
OTHER = RANDOM.random(SIZE)
PICTURES = RANDOM.standard_normal((4, 3, *SIZE)).astype(np.float32)
MAPS = RANDOM.random((4, *SIZE)).astype(np.float32)
MASK = np.zeros(SIZE, bool)
MASK[3:8, 4:11] = True
MASK[7, 4:6] = False


def probability(array: np.ndarray, weights: np.ndarray = WEIGHTS) -> float:
    """The softmax of (⟨x, w⟩ / 8, 0)."""
    return float(1 / (1 + np.exp(-float((array.astype(np.float64) * weights).sum()) / 8)))


# ---- Where the heat is ----


def test_energy_hit_rate_and_pointing_are_quantus():
    """RelevanceMassAccuracy, RelevanceRankAccuracy, PointingGame of the mask."""
    assert energy_inside(HEAT, MASK) == pytest.approx(0.1713368890693796, rel=1e-12)
    assert hit_rate(HEAT, MASK) == pytest.approx(0.18181818181818182, rel=1e-12)
    assert not pointing_game(HEAT, MASK) and pointing_game(np.where(MASK, HEAT, 0), MASK)


def test_a_box_is_its_mask():
    box, mask = (4, 3, 11, 8), np.zeros(SIZE, bool)
    mask[3:8, 4:11] = True
    for measure in (energy_inside, hit_rate, heat_iou, pointing_game):
        assert measure(HEAT, box) == measure(HEAT, mask)
    halves = [(4, 3, 8, 8), (7, 3, 11, 8)]  # they overlap: what both cover counts once
    assert energy_inside(HEAT, halves) == pytest.approx(energy_inside(HEAT, box))
    assert heat_iou(HEAT, halves) == heat_iou(HEAT, box)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"the mask has the size \(16, 12\)"):
        energy_inside(HEAT, MASK.T)


def test_iou_is_scikit_learns():
    """sklearn.metrics.jaccard_score(mask, heat >= 0.5 * heat.max())"""
    assert heat_iou(HEAT, MASK) == pytest.approx(0.12903225806451613, rel=1e-12)
    assert heat_iou(MASK.astype(float), MASK) == 1
    assert heat_iou(np.zeros(SIZE), MASK) == heat_iou(np.zeros(SIZE), np.zeros(SIZE, bool)) == 0
    assert top_iou(HEAT, HEAT) == 1


def test_rank_correlation_is_scipys():
    """scipy.stats.spearmanr"""
    assert spearman(HEAT, OTHER) == pytest.approx(-0.047428993842063866, rel=1e-9)


# ---- Faithfulness ----


def test_deletion_is_quantus_pixel_flipping():
    """PixelFlipping(features_in_step=16, perturb_baseline="black"), which does not have the score before the first."""
    random = np.random.default_rng(5)
    heat, picture, weights = random.random(SIZE), random.standard_normal((1, 1, *SIZE)), random.standard_normal(SIZE)
    expected = [0.963111, 0.795289, 0.687059, 0.510166, 0.058822, 0.019564, 0.00267, 0.006873, 0.001208, 0.012338,
                0.01817, 0.101255]  # fmt: skip
    curve = deletion(lambda x: probability(x, weights), picture, heat, picture.min())
    assert curve.scores[1:] == pytest.approx(expected, abs=1e-6)
    assert curve.scores[0] == probability(picture, weights)
    between = curve.scores[1:-1].sum() + (curve.scores[0] + curve.scores[-1]) / 2  # the areas of official code
    assert curve.area == pytest.approx(between / 12)


def test_curves_of_a_linear_score_are_sums_of_their_heat():
    """s = ⟨w, x⟩: what a portion of pixels adds is its part of w ⊙ x, so s is a line where all parts are equal."""
    contribution = (PICTURE[0] * WEIGHTS).sum(0).astype(np.float64)

    def score(x: np.ndarray) -> float:
        return float((x.astype(np.float64) * WEIGHTS).sum())

    falling = np.sort(contribution.ravel())[::-1].reshape(12, 16).sum(1)
    expected = np.concatenate([[0], falling.cumsum()])
    gone, come = deletion(score, PICTURE, contribution, 0), insertion(score, PICTURE, contribution, 0)
    assert come.scores == pytest.approx(expected, abs=1e-4)
    assert gone.scores == pytest.approx(expected[-1] - expected, abs=1e-4)
    assert gone.area + come.area == pytest.approx(expected[-1], abs=1e-4)
    for other in (HEAT, random_cells(SIZE, 1), -contribution):  # no order inserts more, none deletes more
        assert insertion(score, PICTURE, other, 0).area < come.area
        assert deletion(score, PICTURE, other, 0).area > gone.area


def test_channels_last_is_the_same():
    last, across = PICTURE.transpose(0, 2, 3, 1), WEIGHTS.transpose(1, 2, 0)
    for measure in (deletion, insertion):
        first = measure(probability, PICTURE, HEAT, 0.5)
        again = measure(lambda x: probability(x, across), last, HEAT, 0.5, axes=(1, 2))
        assert again.scores == pytest.approx(first.scores)
    assert np.array_equal(kept(last, HEAT, 0.5, axes=(1, 2)).transpose(0, 3, 1, 2), kept(PICTURE, HEAT, 0.5))


def test_drop_and_increase_are_pytorch_grad_cams():
    """DropInConfidence (which does not divide), IncreaseInConfidence with ClassifierOutputSoftmaxTarget(0)"""
    before = [probability(x[None]) for x in PICTURES]
    after = [probability(kept(x[None], heat)) for x, heat in zip(PICTURES, MAPS, strict=True)]
    assert average_drop(before, after) * before == pytest.approx([0, 0, 0.19039822, 0], abs=1e-6)
    assert increase(before, after).tolist() == [True, True, False, True]
    assert average_drop([0.0], [0.5]).tolist() == [0]


# ---- Robustness and sanity ----


def slope(x: np.ndarray) -> np.ndarray:
    """∇ Σ tanh(w x)"""
    return WEIGHTS * (1 - np.tanh(WEIGHTS.astype(np.float64) * x) ** 2)


def test_max_sensitivity_is_captums():
    """captum.metrics.sensitivity_max of the same ten perturbations, float64"""
    assert max_sensitivity(slope, PICTURE.astype(np.float64), 0.1) == pytest.approx(0.0792593676812113, rel=1e-9)


def test_max_sensitivity_of_a_linear_map_is_at_most_the_radius():
    """Φ(x) = x: ‖δ‖ / ‖x‖, and ‖δ‖₂ ≤ r √d; a constant map does not move."""
    bound = 0.1 * np.sqrt(PICTURE.size) / np.linalg.norm(PICTURE)
    found = max_sensitivity(lambda x: x, PICTURE, 0.1, samples=50)
    assert 0.5 * bound < found <= bound
    assert max_sensitivity(lambda x: HEAT, PICTURE, 0.1) == 0
    assert np.isnan(max_sensitivity(lambda x: 0 * x, PICTURE, 0.1))


def test_mprt_tells_a_map_that_depends_on_weights():
    stages = [np.random.default_rng(k).standard_normal(WEIGHTS.shape) for k in range(3)]
    blind = mprt(np.abs(PICTURE), [np.abs(PICTURE) for _ in stages])  # an edge detector
    assert blind == pytest.approx([1, 1, 1])
    assert np.abs(mprt(WEIGHTS, stages)).max() < 0.15
    assert mprt(HEAT, [OTHER]) == pytest.approx([-0.047428993842063866])


def test_what_moves_along_is_consistent():
    def bright(x: np.ndarray) -> np.ndarray:
        return x[0].sum(0)

    assert shift_consistency(bright, PICTURE) == pytest.approx(1)
    assert shift_consistency(bright, PICTURE, similarity=cosine_of) == pytest.approx(1)
    assert flip_consistency(bright, PICTURE) == pytest.approx(1)
    last = PICTURE.transpose(0, 2, 3, 1)
    assert shift_consistency(lambda x: x[0].sum(-1), last, axes=(1, 2)) == pytest.approx(1)


def test_what_stays_is_not():
    assert abs(shift_consistency(lambda x: HEAT, PICTURE, pixels=2)) < 0.2
    assert flip_consistency(lambda x: HEAT, PICTURE) == pytest.approx(spearman(HEAT[:, ::-1], HEAT))
    half = shift_consistency(lambda x: x[0].sum(0) + 4 * HEAT, PICTURE, pixels=2)
    assert 0.2 < half < 0.9


def test_a_map_that_is_too_small_for_a_shift_is_refused():
    with pytest.raises(ValueError, match="too small for shifts by 6 pixels"):
        shift_consistency(lambda x: HEAT, PICTURE, pixels=6)


def test_a_shift_repeats_the_edge():
    assert shifted(np.arange(4), 1, 0).tolist() == [0, 0, 1, 2]
    assert shifted(np.arange(4), -2, 0).tolist() == [2, 3, 3, 3]


def test_top_iou_is_that_of_sorted_positions():
    """Equal values by position, NaN last."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        maps = rng.integers(0, 5, (2, 7, 3)).astype(float)
        maps[rng.random(maps.shape) < 0.05] = np.nan
        tops = [set(np.argsort(-m.ravel(), kind="stable")[:4].tolist()) for m in maps]
        assert top_iou(*maps) == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
