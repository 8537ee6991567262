"""Are the measures of `analyzer.metrics` those of the libraries and papers that define them?

    pip install quantus grad-cam captum pycocotools rapidfuzz torchvision scikit-learn pandas
    python -m benchmarks.metric_oracles [--write]

Each is computed beside an oracle on the same arrays, drawn here. `--write` stores the table that `docs/metrics.md`
shows. `tests/test_metrics.py` has such numbers written down, so it needs none of these packages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from analyzer import metrics
from analyzer.metrics.boxes import iou
from analyzer.metrics.detections import Detections

STORED = Path(__file__).parent / "metric_oracles.json"
SIZE = (12, 16)
RANDOM = np.random.default_rng(0)
HEATS = RANDOM.random((4, *SIZE))
PICTURES = RANDOM.standard_normal((4, 3, *SIZE))
WEIGHTS = RANDOM.standard_normal((3, *SIZE))
MASK = np.zeros(SIZE, bool)
MASK[3:8, 4:11] = True
MASK[7, 4:6] = False
MARKED = HEATS * (1 + MASK * np.arange(4).reshape(4, 1, 1))  # more and more heat in the mask


class Row(NamedTuple):
    """A measure and what it is compared with: both give numbers."""

    measure: str
    oracle: str
    package: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


class Linear(torch.nn.Module):
    """Scores ⟨x, w⟩ / 8 and 0 of two classes."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x.to(self.weights.dtype) * self.weights).flatten(1).sum(1) / 8
        return torch.stack([score, torch.zeros_like(score)], 1)


def probability(array: np.ndarray, weights: np.ndarray = WEIGHTS) -> float:
    """Of the first class of `Linear`."""
    return float(1 / (1 + np.exp(-float((array * weights).sum()) / 8)))


# ---- Where the heat is ----


def of_quantus(name: str, **options: Any) -> Callable[[], Any]:
    """A measure of Quantus for the mask, of every map."""

    def measured() -> Any:
        import quantus

        measure = getattr(quantus, name)(
            abs=False, normalise=False, disable_warnings=True, display_progressbar=False, **options
        )
        return measure(
            model=Linear(WEIGHTS).eval(), x_batch=PICTURES, y_batch=np.zeros(4, int), a_batch=MARKED[:, None],
            s_batch=np.broadcast_to(MASK, (4, 1, *SIZE)), device="cpu",
        )  # fmt: skip

    return measured


def where() -> Iterator[Row]:
    from sklearn.metrics import jaccard_score

    for measure, theirs in (
        (metrics.energy_inside, "RelevanceMassAccuracy"),
        (metrics.hit_rate, "RelevanceRankAccuracy"),
        (metrics.pointing_game, "PointingGame"),
    ):
        yield Row(
            measure.__name__, theirs, "quantus", lambda m=measure: [m(h, MASK) for h in MARKED], of_quantus(theirs)
        )
    yield Row(
        "heat_iou", "jaccard_score", "scikit-learn", lambda: [metrics.heat_iou(h, MASK) for h in MARKED],
        lambda: [jaccard_score(MASK.ravel(), (h >= h.max() / 2).ravel()) for h in MARKED],
    )  # fmt: skip


# ---- Faithfulness ----


def flipped(heat: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(12,) PixelFlipping of Quantus in twelve steps: probabilities as the hottest pixels become the darkest."""
    import quantus

    measure = quantus.PixelFlipping(
        features_in_step=16, normalise=False, disable_warnings=True, display_progressbar=False
    )
    given = {"x_batch": x[None, None], "y_batch": np.zeros(1, int), "a_batch": heat[None, None]}
    found = measure(model=Linear(w[None]).double().eval(), **given, device="cpu", softmax=True)
    return np.asarray(found[0])


def faithfulness() -> Iterator[Row]:
    heat, x, w = HEATS[0], PICTURES[0, 0], WEIGHTS[0]

    def ours(measure: Callable[..., metrics.Curve]) -> np.ndarray:
        return measure(lambda a: probability(a, w), x[None, None], heat, x.min()).scores

    yield Row("deletion", "PixelFlipping", "quantus", lambda: ours(metrics.deletion)[1:], lambda: flipped(heat, x, w))
    yield Row(
        "insertion", "PixelFlipping of the coldest pixels, from its end", "quantus",
        lambda: ours(metrics.insertion)[:-1], lambda: flipped(1 - heat, x, w)[::-1],
    )  # fmt: skip
    yield from drops()


def drops() -> Iterator[Row]:
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    def theirs(measure: Any) -> np.ndarray:
        given = torch.from_numpy(PICTURES.astype(np.float32))
        return np.asarray(
            measure()(given, HEATS.astype(np.float32), [ClassifierOutputSoftmaxTarget(0)] * 4, Linear(WEIGHTS))
        )

    before = np.array([probability(x) for x in PICTURES])
    after = [probability(metrics.kept(x[None], h)) for x, h in zip(PICTURES, HEATS, strict=True)]
    package = "grad-cam"
    yield Row(
        "average_drop · before, kept", "DropInConfidence, which does not divide", package,
        lambda: metrics.average_drop(before, after) * before, lambda: theirs(DropInConfidence),
    )  # fmt: skip
    yield Row(
        "increase, kept", "IncreaseInConfidence", package, lambda: metrics.increase(before, after),
        lambda: theirs(IncreaseInConfidence),
    )  # fmt: skip


# ---- Robustness and sanity ----


def slope(x: np.ndarray) -> np.ndarray:
    """∇ Σ tanh(w x)"""
    return np.asarray(WEIGHTS * (1 - np.tanh(WEIGHTS * x) ** 2))


def sensitivity() -> Any:
    """Captum's, of the same perturbations."""
    from captum.metrics import sensitivity_max

    random = np.random.default_rng(0)
    drawn = torch.from_numpy(np.concatenate([random.uniform(-0.1, 0.1, PICTURES[:1].shape) for _ in range(10)]))

    def explain(given: Any) -> tuple[torch.Tensor, ...]:
        values = given[0] if isinstance(given, tuple) else given
        return (torch.from_numpy(slope(values.numpy())),)

    def perturbed(given: Any, radius: float) -> torch.Tensor:
        return (given[0] if isinstance(given, tuple) else given) + drawn

    given = torch.from_numpy(PICTURES[:1])
    return sensitivity_max(explain, given, perturbed, n_perturb_samples=10, max_examples_per_batch=10)


class Randomized:
    """Quantus' MPRT of a small network, and the maps that it asks for on the way."""

    def __init__(self) -> None:
        self.maps: list[np.ndarray] = []
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(4 * 10 * 14, 2)
        ).eval()

    def explain(self, model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        given = torch.from_numpy(np.asarray(inputs, np.float32)).requires_grad_()
        model(given)[:, 0].sum().backward()
        assert given.grad is not None
        self.maps.append(given.grad.numpy().copy())
        return self.maps[-1]

    def theirs(self) -> np.ndarray:
        import quantus

        measure = quantus.MPRT(
            similarity_func=quantus.similarity_func.correlation_spearman, layer_order="top_down", abs=False,
            normalise=False, disable_warnings=True, display_progressbar=False,
        )  # fmt: skip
        given = {"x_batch": PICTURES[:1].astype(np.float32), "y_batch": np.zeros(1, int)}
        found = measure(model=self.net, **given, explain_func=self.explain, device="cpu")
        return np.concatenate([np.ravel(scores) for scores in found.values()])

    def ours(self) -> np.ndarray:
        heat, *stages = (each[0] for each in self.maps)
        return metrics.mprt(heat, stages)


def robustness() -> Iterator[Row]:
    yield Row(
        "max_sensitivity", "sensitivity_max", "captum", lambda: metrics.max_sensitivity(slope, PICTURES[:1], 0.1),
        sensitivity,
    )  # fmt: skip
    randomized = Randomized()
    yield Row("mprt", "MPRT, top down", "quantus", randomized.ours, randomized.theirs)
    for measure in (metrics.shift_consistency, metrics.flip_consistency):
        yield Row(
            measure.__name__, "1 for Φ(x) = Σ_c x_c, which is equivariant", "",
            lambda m=measure: m(lambda x: x[0].sum(0), PICTURES[:1]), lambda: 1.0,
        )  # fmt: skip
        yield Row(
            measure.__name__, "Φ constant: the mean correlation of the map with itself, moved", "",
            lambda m=measure: m(lambda x: HEATS[0], PICTURES[:1]), lambda m=measure: itself(m.__name__),
        )  # fmt: skip


def itself(measure: str) -> float:
    from scipy.stats import spearmanr

    heat = HEATS[0]
    if measure == "flip_consistency":
        return float(spearmanr(heat[:, ::-1].ravel(), heat.ravel()).statistic)
    pairs = [
        (heat[4:-4], heat[8:]),
        (heat[4:-4], heat[:-8]),
        (heat[:, 4:-4], heat[:, 8:]),
        (heat[:, 4:-4], heat[:, :-8]),
    ]
    return float(np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]))


# ---- Similarity ----


def similarity() -> Iterator[Row]:
    import rapidfuzz
    from scipy import stats
    from sklearn.metrics import jaccard_score
    from sklearn.metrics.pairwise import cosine_similarity

    a, b = HEATS[0], HEATS[1]
    words = [("kitten", "sitting"), ("", "abc"), ("saturday", "sunday"), ("00417", "0411")]
    yield Row(
        "spearman", "spearmanr", "scipy", lambda: metrics.spearman(a, b),
        lambda: stats.spearmanr(a.ravel(), b.ravel()).statistic,
    )  # fmt: skip
    yield Row(
        "cosine_of", "cosine_similarity", "scikit-learn", lambda: metrics.cosine_of(a, b),
        lambda: cosine_similarity(a.reshape(1, -1), b.reshape(1, -1))[0, 0],
    )  # fmt: skip
    tops = [m.ravel() > np.sort(m.ravel())[-1 - round(0.2 * m.size)] for m in (a, b)]
    yield Row(
        "top_iou", "jaccard_score of the highest fifths", "scikit-learn", lambda: metrics.top_iou(a, b),
        lambda: jaccard_score(*tops),
    )  # fmt: skip
    yield Row(
        "edit_distance", "Levenshtein.distance", "rapidfuzz", lambda: [metrics.edit_distance(*w) for w in words],
        lambda: [rapidfuzz.distance.Levenshtein.distance(*w) for w in words],
    )  # fmt: skip
    yield Row(
        "text_similarity", "Levenshtein.normalized_similarity", "rapidfuzz",
        lambda: [metrics.text_similarity(*w) for w in words],
        lambda: [rapidfuzz.distance.Levenshtein.normalized_similarity(*w) for w in words],
    )  # fmt: skip


# ---- Detections ----


def scene(rng: np.random.Generator) -> tuple[Detections, np.ndarray, np.ndarray]:
    """Detections of a picture, its true boxes, and their classes."""
    corners = rng.uniform(0, 80, (6, 2))
    true = np.concatenate([corners, corners + rng.uniform(10, 40, (6, 2))], 1)
    moved = np.concatenate([true + rng.normal(0, 3, true.shape), true[:2] + 30])
    classes = rng.integers(0, 3, 6)
    return Detections(moved, rng.random(8), np.concatenate([classes, [0, 1]])), true, classes


def of_pycocotools(scenes: list[tuple[Detections, np.ndarray, np.ndarray]]) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def boxed(image: int, box: np.ndarray, kind: int) -> dict[str, Any]:
        x0, y0, x1, y1 = box.tolist()
        return {"image_id": image, "category_id": int(kind), "bbox": [x0, y0, x1 - x0, y1 - y0]}

    truth = COCO()
    known = [
        (i, box, kind) for i, (_, boxes, kinds) in enumerate(scenes) for box, kind in zip(boxes, kinds, strict=True)
    ]
    area = {"iscrowd": 0, "area": 1.0}
    truth.dataset = {
        "images": [{"id": i} for i in range(len(scenes))],
        "categories": [{"id": k} for k in range(3)],
        "annotations": [boxed(*one) | area | {"id": n} for n, one in enumerate(known, 1)],
    }
    truth.createIndex()
    found = [
        boxed(i, box, kind) | {"score": float(score)}
        for i, (all_, _, _) in enumerate(scenes)
        for box, kind, score in zip(all_.boxes, all_.classes, all_.scores, strict=True)
    ]
    judged = COCOeval(truth, truth.loadRes(found), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return np.asarray(judged.stats[:2])


def detections() -> Iterator[Row]:
    from torchvision.ops import box_iou

    rng = np.random.default_rng(3)
    scenes = [scene(rng) for _ in range(5)]
    boxes, true = scenes[0][0].boxes, scenes[0][1]
    yield Row(
        "average_precision, matched_to_truth", "COCOeval", "pycocotools",
        lambda: metrics.average_precision([metrics.matched_to_truth(*each) for each in scenes]),
        lambda: of_pycocotools(scenes),
    )  # fmt: skip
    yield Row(
        "boxes.iou", "box_iou", "torchvision", lambda: iou(boxes, true),
        lambda: box_iou(torch.from_numpy(boxes), torch.from_numpy(true)).numpy(),
    )  # fmt: skip


# ---- Intervals ----


def intervals() -> Iterator[Row]:
    from scipy import stats

    values = HEATS[0].ravel()[:40]
    yield Row(
        "wilson", "binomtest.proportion_ci", "scipy", lambda: metrics.wilson(7, 20)[1:],
        lambda: list(stats.binomtest(7, 20).proportion_ci(0.95, "wilson")),
    )  # fmt: skip
    yield Row("wilson", "Newcombe 1998, table I", "", lambda: metrics.wilson(81, 263)[1:], lambda: [0.2553, 0.3662])
    yield Row(
        "bootstrap", "bootstrap, percentile", "scipy", lambda: metrics.bootstrap(values)[1:],
        lambda: list(
            stats.bootstrap(
                (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
        ),
    )  # fmt: skip
    yield Row("mcnemar", "binomtest", "scipy", lambda: metrics.mcnemar(5, 14), lambda: stats.binomtest(5, 19).pvalue)
    yield Row(
        "paired_difference", "Agresti 2002, table 10.1, Wald's interval", "",
        lambda: metrics.paired_difference(150, 86, 1600), lambda: [0.04, 0.0213, 0.0587],
    )  # fmt: skip
    yield Row(
        "pictures_needed", "the first n, with binomtest.proportion_ci", "scipy",
        lambda: metrics.pictures_needed(1, 0.95),
        lambda: next(n for n in range(1, 999) if stats.binomtest(n - 1, n).proportion_ci(0.95, "wilson").low >= 0.95),
    )  # fmt: skip


def rows() -> Iterator[Row]:
    for part in (where, faithfulness, robustness, similarity, detections, intervals):
        yield from part()


def measured(row: Row) -> dict[str, Any]:
    """The means of both, as the docs show them, and their largest difference."""
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = np.ravel(np.asarray(row.theirs(), float))  # first: some of ours use what it asked for
        ours = np.ravel(np.asarray(row.ours(), float))
    assert ours.shape == theirs.shape, row.measure
    return {
        "measure": row.measure,
        "oracle": row.oracle,
        "package": f"{row.package} {version(row.package)}" if row.package else "",
        "numbers": len(ours),
        "ours": float(ours.mean()),
        "theirs": float(theirs.mean()),
        "difference": float(np.abs(ours - theirs).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the table that the docs show")
    given = parser.parse_args()
    found = [measured(row) for row in rows()]
    for row in found:
        print(f"{row['measure']:36} {row['oracle']:58} {row['difference']:.1e}")
    if given.write:
        STORED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
