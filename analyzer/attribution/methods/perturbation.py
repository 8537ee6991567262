"""Methods that change the image or a feature map and look at the score.

y is the target score (the logit, or the expression), A the feature map, ⊙ broadcasts. Images are changed as the network
takes them, after preprocessing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from analyzer.attribution.evaluator import Evaluator, Found, channel_mask, position_mask
from analyzer.attribution.postprocess import resized, unit_scaled
from analyzer.attribution.registry import method
from analyzer.errors import InputError, UnsupportedError, suggest
from analyzer.metrics.boxes import iou
from analyzer.tasks.detection import Detection

FILLS = ("zero", "gray", "mean", "blur", "inpaint")
SCORES = ("score", "probability")


# ---- The image ----


@method(
    "occlusion",
    "map",
    "Zeiler & Fergus 2014, 1311.2901, section 4.2",
    needs_gradient=False,
    runs=True,
    views=("signed",),
)
def occlusion(
    model: Evaluator,
    patch: int | str | tuple[int, int] = 0,
    stride: int | str | tuple[int, int] = 0,
    fill: str | float = "gray",
    score: str = "score",
) -> Found:
    """R_p = mean over the patches that cover pixel p of y(x) − y(x with the patch filled)

    `details["score"]` and `details["top"]` hold the score and the class with the highest one at every position of the
    patch, (rows, vertical, horizontal): the two maps of the paper's figure. For its third, the activation of a
    feature map, give that as the target: `"layer"[:, 12].sum()`.

    Args:
        patch: side in pixels, or height × width; a seventh of the image's shorter side where 0. Patches at the end
            are cut off at the border.
        stride: half of the patch where 0.
        fill: one of `FILLS` or a number in the values of the preprocessed image.
        score: "score", or "probability" after the model's squashing function, as in the paper.
    """
    check_choice("score", score, SCORES)
    size = model.size
    window = _sides("patch", patch, size, [max(1, min(size) // 7)] * len(size))
    step = _sides("stride", stride, size, [max(1, w // 2) for w in window])
    grid = [max(0, -(-(s - w) // d)) + 1 for s, w, d in zip(size, window, step, strict=True)]
    places = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), axis=1) * step
    fill_at = Fill(model, fill)

    def occluded(indices: np.ndarray) -> np.ndarray:
        # The image itself comes first.
        return np.stack([model.image if i == 0 else fill_at(_patch(places[i - 1], window)) for i in indices])

    scores, top = model.scores_and_labels(occluded, len(places) + 1, score)
    drops = scores[:, :1].astype(np.float64) - scores[:, 1:]
    total, covered = np.zeros((len(scores), *size)), np.zeros(size)
    for index, place in enumerate(places):
        at = _patch(place, window)
        total[(slice(None), *at)] += drops[:, index].reshape(-1, *[1] * len(size))
        covered[at] += 1
    shape = (len(scores), *grid)
    details = {"score": scores[:, 1:].reshape(shape), "top": top[:, 1:].reshape(shape)}
    return total / np.maximum(covered, 1), details


@method("rise", "map", "Petsiuk et al. 2018, 1806.07421, eq. 6", needs_gradient=False, runs=True, from_zero=False)
def rise(
    model: Evaluator,
    masks: int = 1000,
    cells: int = 8,
    keep: float = 0.5,
    score: str = "probability",
    seed: int = 0,
) -> Found:
    """R = 1 / (N p) Σ_n y(x ⊙ M_n) M_n, M_n a random grid of cells, each kept with probability p, enlarged and shifted

    The paper takes 4,000 masks (VGG-16) and 8,000 (ResNet-50) and the probability as y.

    Args:
        masks: N. cells: of the grid along each axis. keep: p.
    """
    check_choice("score", score, SCORES)
    given = _Masks("rise", masks, cells, keep, seed, model.size)
    scores = model.scores(lambda indices: model.image * model.over_image(given.stacked(indices)), masks, score)
    return given.weighted(scores), {}


@method("d-rise", "map", "Petsiuk et al. 2021, 2006.03204, eq. 2–5", needs_gradient=False, runs=True, from_zero=False)
def d_rise(model: Evaluator, masks: int = 1000, cells: int = 8, keep: float = 0.5, seed: int = 0) -> Found:
    """R = 1 / (N p) Σ_n w_n M_n, w_n = max_j IoU(b, b_j) cos(c, c_j) o_j over candidates j of x ⊙ M_n, M_n as in RISE

    b is the box of the detection that is explained, c its scores of all classes; o_j is the objectness, or the highest
    score where the detector has none. The paper takes 5,000 masks of 16 × 16 cells.

    Args:
        masks, cells, keep: as in rise.

    Raises:
        UnsupportedError: the target is no detection.
    """
    given = _Masks("d-rise", masks, cells, keep, seed, model.size)
    task, slots = model.task, [s for s in model.slots if isinstance(s, int)]
    if not isinstance(task, Detection) or len(slots) < len(model.slots):
        what = "its output is no detection" if not isinstance(task, Detection) else "the target is an expression"
        raise UnsupportedError(f"d-rise explains detections, and {what}", "use rise")
    weights = np.zeros((len(slots), masks))
    places = np.array(slots) // task.decoder.classes
    wanted: list[Detected] = []

    def add(index: int, said: Any) -> None:
        found = Detected.of(task, said)
        if not wanted:  # the image itself comes first
            wanted.append(found.rows(places))
        else:
            weights[:, index - 1] = found.alike(wanted[0])

    def masked(indices: np.ndarray) -> np.ndarray:
        whole = np.ones((1, *model.size), np.float32)
        stacked = [whole[0] if i == 0 else given.mask(int(i) - 1) for i in indices]
        return model.image * model.over_image(np.stack(stacked))

    model.outputs(masked, masks + 1, add)
    return given.weighted(weights), {}


class Detected(NamedTuple):
    """Candidates: their boxes (P, 4), scores (P, C) of length 1, classes (P,) where those have a single number, and
    sureness (P,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray | None
    sureness: np.ndarray

    @classmethod
    def of(cls, task: Detection, said: Any) -> Detected:
        found = task.decoder.candidates(said)
        length = np.linalg.norm(found.scores, axis=1, keepdims=True)
        sureness = task.decoder.sureness(said, found.scores)
        return cls(found.boxes, found.scores / np.where(length > 0, length, 1), found.labels, sureness)

    def rows(self, places: np.ndarray) -> Detected:
        return Detected(*(None if part is None else part[places] for part in self))  # type: ignore[arg-type]

    def alike(self, wanted: Detected) -> np.ndarray:
        """(T,) max_j IoU · cosine · sureness of candidates j, for each of the wanted."""
        found = iou(wanted.boxes, self.boxes) * (wanted.scores @ self.scores.T) * self.sureness
        if self.labels is not None and wanted.labels is not None:
            found = found * np.equal.outer(wanted.labels, self.labels)
        return np.asarray(np.nan_to_num(found, posinf=0).max(axis=1, initial=0))


class _Masks:
    """M_n: a grid of random cells, each kept with probability `keep`, enlarged and shifted; made as they are needed."""

    def __init__(self, method: str, count: int, cells: int, keep: float, seed: int, size: tuple[int, ...]) -> None:
        if count < 1 or cells < 1 or not 0 < keep <= 1:
            asked = f"{count}, {cells}, {keep}"
            raise InputError(f"{method} needs masks ≥ 1, cells ≥ 1, 0 < keep ≤ 1, not {asked}")
        self.count, self.cells, self.keep, self.seed, self.size = count, cells, keep, seed, size

    def mask(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, index])
        grid = (rng.random([self.cells] * len(self.size)) < self.keep).astype(np.float32)
        cell = [-(-s // self.cells) for s in self.size]
        wide = resized(grid, [(self.cells + 1) * c for c in cell])
        shift = [int(rng.integers(c)) for c in cell]
        return wide[tuple(slice(a, a + s) for a, s in zip(shift, self.size, strict=True))]

    def stacked(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self.mask(int(i)) for i in indices])

    def weighted(self, scores: np.ndarray) -> np.ndarray:
        """(T, …) 1 / (N p) Σ_n y_n M_n of (T, N) y."""
        total, scores = np.zeros((len(scores), *self.size)), scores.astype(np.float64)
        for index in range(self.count):
            total += scores[:, index].reshape(-1, *[1] * len(self.size)) * self.mask(index)
        return total / (self.count * self.keep)


# ---- The image, by the channels of a feature map ----


@method("score-cam", "cam", "Wang et al. 2020, 1910.01279", needs_gradient=False, runs=True)
def score_cam(model: Evaluator, channels: int = 0) -> Found:
    """L = ReLU(Σ_k w_k A_k), w = softmax_k y(x ⊙ s(U(A_k))), s(m) = (m − min m) / (max m − min m)

    The paper subtracts the score of a baseline image from each y, which the softmax takes out again. A channel whose y
    is not finite has no weight.

    Args:
        channels: only that many, of the highest standard deviation over space (Faster Score-CAM); all where 0.
    """
    maps = model.maps
    chosen = np.arange(len(maps))
    if channels:
        spread = maps.reshape(len(maps), -1).std(axis=1)
        chosen = np.sort(np.argsort(-spread, kind="stable")[:channels])

    def masked(indices: np.ndarray) -> np.ndarray:
        return model.image * model.over_image(unit_scaled(resized(maps[chosen[indices]], model.size, model.centers)))

    scores = model.scores(masked, len(chosen)).astype(np.float64)
    known = np.isfinite(scores)
    scores = np.where(known | ~known.any(axis=1, keepdims=True), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return _weighted(weights / weights.sum(axis=1, keepdims=True), maps[chosen]), {}


def _weighted(weights: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """ReLU(Σ_k w_k A_k): (T, h, w)"""
    return np.maximum(np.tensordot(weights, maps.astype(np.float64), 1), 0)


# ---- Methods that change a feature map: only the nodes after it run ----


@method("ablation-cam", "cam", "Desai & Ramaswamy 2020, Ablation-CAM, WACV", needs_gradient=False, runs=True)
def ablation_cam(model: Evaluator) -> Found:
    """L = ReLU(Σ_k w_k A_k), w_k = (y − y_k) / |y|, y_k the score with channel k set to 0

    The paper divides by y, which is positive there; |y| keeps a negative logit from turning the map over. Behind the
    layer, global average pooling and a linear layer make y − y_k = Σ_ij g_kij A_kij: then one gradient of the tail
    gives all channels. Otherwise the tail runs once per channel, in batches.
    """
    linear = model.linear_effect
    maps = model.maps
    layout, rank = model.feature.layout, model.activations.ndim

    def without(indices: np.ndarray) -> np.ndarray:
        # Index 0 leaves all channels.
        rows = np.ones((len(indices), len(maps)), np.float32)
        ablated = indices > 0
        rows[np.flatnonzero(ablated), indices[ablated] - 1] = 0
        return channel_mask(layout, rank, rows)

    if linear is not None:
        effect, score = linear
    else:
        scores = model.tail_scores(without, len(maps) + 1).astype(np.float64)
        effect, score = scores[:, :1] - scores[:, 1:], scores[:, :1]
    return _weighted(effect / np.where(score == 0, 1, np.abs(score)), maps), {}


@method("recipro-cam", "cam", "Byun & Lee 2022, 2209.14074", needs_gradient=False, runs=True, from_zero=False)
def recipro_cam(model: Evaluator, gaussian: bool = False, score: str = "probability") -> Found:
    """L_ij = y(A ⊙ M_ij), M_ij 1 at position (i, j) and 0 elsewhere; class and register tokens are kept

    Args:
        gaussian: M_ij as the binomial 3 × 3 window around the position instead, as in the paper's second variant.
    """
    check_choice("score", score, SCORES)
    grid = model.maps.shape[1:]
    layout, rank = model.feature.layout, model.activations.ndim

    def only(indices: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(indices), *grid), np.float32)
        rows[(np.arange(len(indices)), *np.unravel_index(indices, grid))] = 1
        return position_mask(layout, rank, _binomial(rows) if gaussian else rows)

    scores = model.tail_scores(only, int(np.prod(grid)), score)
    return scores.reshape(-1, *grid), {}


def _binomial(rows: np.ndarray) -> np.ndarray:
    """Each row smoothed by ¼, ½, ¼ along its axes, zeros outside."""
    for axis in range(1, rows.ndim):
        wide = np.pad(rows, [(int(a == axis), int(a == axis)) for a in range(rows.ndim)])
        parts = [np.take(wide, np.arange(d, d + rows.shape[axis]), axis) for d in range(3)]
        rows = 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    return rows


# ---- Patches and what fills them ----


class Fill:
    """Images with a patch filled: `fill(place)`."""

    def __init__(self, model: Evaluator, fill: Any) -> None:
        self.model, self.fill = model, fill
        self.values = None if fill == "inpaint" else filled(model, fill)

    def __call__(self, place: tuple[slice, ...]) -> np.ndarray:
        """The image with `place`, a slice per axis of space, filled."""
        image = self.model.image.copy()
        at: list[Any] = [slice(None)] * image.ndim
        for axis, part in zip(self.model.space, place, strict=True):
            at[axis] = part
        values = self._inpainted(place) if self.values is None else np.broadcast_to(self.values, image.shape)
        image[tuple(at)] = values[tuple(at)]
        return image

    def _inpainted(self, place: tuple[slice, ...]) -> np.ndarray:
        from analyzer.images import inpaint

        axis = self.model.axes.index("C")
        mask = np.zeros(self.model.size, bool)
        mask[place] = True
        return np.moveaxis(inpaint(np.moveaxis(self.model.image, axis, -1), mask), -1, axis)


def filled(model: Evaluator, fill: Any) -> np.ndarray:
    """What an image is replaced by, broadcastable to it.

    zero (the mean pixel, for networks that take normalized pixels), gray (the value of a mid-gray pixel where the
    preprocessing is known, else halfway between the image's smallest and largest value), mean (of the image, per
    channel), blur (the image under a Gaussian of a tenth of its shorter side), or a number. "grey" is an earlier name.
    """
    if isinstance(fill, str):
        try:
            fill = float(fill)
        except ValueError:
            fill = "gray" if fill == "grey" else fill
            check_choice("fill", fill, FILLS)
    if not isinstance(fill, str):
        return np.asarray(fill, np.float32)
    image, space = model.image, model.space
    if fill == "zero":
        return np.zeros((), np.float32)
    if fill == "mean":
        return np.asarray(image.mean(axis=space, keepdims=True))
    if fill == "gray":
        return np.asarray((image.min() + image.max()) / 2) if model.grey is None else model.grey
    if fill == "inpaint":
        others = ", ".join(f for f in FILLS if f != fill)
        raise InputError("inpainting needs a patch smaller than the image", f"choose {others} or a number")
    if len(space) != 2:
        raise UnsupportedError("blur needs an input with height and width", "choose mean or zero")
    from analyzer.images import gaussian_blur

    axis = model.axes.index("C")
    blurred = gaussian_blur(np.moveaxis(image, axis, -1), min(model.size) / 10)
    return np.moveaxis(blurred, -1, axis)


def check_choice(option: str, given: Any, choices: tuple[str, ...]) -> None:
    """InputError where an option is none of its choices."""
    if given not in choices:
        raise InputError(f"{option} must be one of {', '.join(choices)}, not {given!r}", suggest(str(given), choices))


def _sides(option: str, given: Any, size: tuple[int, ...], default: list[int]) -> list[int]:
    """Pixels along each axis from 16, (16, 24), "16" or "16x24"; 0 is the default."""
    parts = str(given).lower().split("x") if isinstance(given, str) else given
    try:
        sides = [int(p) for p in parts] if isinstance(parts, list | tuple) else [int(parts)]
    except (TypeError, ValueError):
        raise InputError(f"{option} must be in pixels, not {given!r}", "write 16 or 16x24 (height x width)") from None
    sides = sides * len(size) if len(sides) == 1 else sides
    if len(sides) != len(size) or any(s < 0 for s in sides):
        raise InputError(f"{option} {given!r} does not fit an image of {len(size)} axes", "write 16 or 16x24")
    return [min(s or d, n) for s, d, n in zip(sides, default, size, strict=True)]


def _patch(start: np.ndarray, window: list[int]) -> tuple[slice, ...]:
    return tuple(slice(int(s), int(s) + w) for s, w in zip(start, window, strict=True))
