"""One model over a folder of pictures: what a reviewer wants to know before it is deployed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.analysis import receptive_field
from analyzer.analysis.cost import cost
from analyzer.analysis.feature_maps import feature_maps
from analyzer.analysis.layouts import layouts
from analyzer.attribution import Explainer
from analyzer.errors import InputError
from analyzer.images import PRESETS, Preprocess
from analyzer.store import Store, key_of, packed, unpacked
from analyzer.validation.metrics import energy_inside, spearman
from analyzer.validation.randomised import randomised_head
from analyzer.validation.side import Side
from analyzer.validation.verdict import Finding

SHIFT = 4  # pixels of the network's input
BORDER = 0.1  # of the width and height, on each side
CELLS = 8  # of the random order, along each axis
STEPS = 12  # of a deletion or insertion curve
SATURATED = 0.5  # share of a channel's values at the highest of the layer, on every picture
TIED = 0.05  # share of pictures whose top scores may tie at the ceiling of the output's quantiser
CLASSES = 8  # whose mean maps are kept


@dataclass
class Picture:
    """`pixels` (H, W, 3) uint8 RGB; `label` the true class and `boxes` (n, 4) in pixels where they are known."""

    name: str
    pixels: np.ndarray
    label: int | None = None
    boxes: np.ndarray | None = None


@dataclass
class Audit:
    """`report` as plain data; `maps` {title: (H, W) heatmap} of means over pictures."""

    report: dict[str, Any]
    maps: dict[str, np.ndarray] = field(default_factory=dict)


def audit(
    explainer: Explainer,
    preprocess: Preprocess,
    pictures: Iterable[Picture],
    method: str = "grad-cam",
    probes: int = 16,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
    store: Store | None = None,
) -> Audit:
    """Identity, input contract, layers, robustness, sanity of the explanation, faithfulness and signs of shortcuts.

    Args:
        method: the map that is audited.
        probes: how many of the pictures the costlier checks use (presets, sanity checks, deletion and insertion).
        step: called after each picture.
        store: where what a picture showed is kept, and looked up by another run.

    Raises:
        InputError: there is no picture.
    """
    run: _Auditing | None = None
    for picture in pictures:
        if run is None:
            shape = preprocess.apply(picture.pixels)[0].shape
            run = _Auditing(explainer, preprocess, method, probes, seed, shape, store)
        run.add(picture)
        step()
    if run is None:
        raise InputError("there is no picture to audit on", "give --data a folder of pictures")
    return run.result()


@dataclass
class _Measured:
    """Everything an audit takes from one picture.

    Attributes:
        row: the report's row.
        heat: (H, W) map of the top class.
        channels: {layer: (3, K) lowest and highest value of each channel, share of its values at the layer's highest}.
        contract: {alternative preprocessing: (confidence, right or None)}, empty beyond the probes.
    """

    row: dict[str, Any]
    heat: np.ndarray
    channels: dict[str, np.ndarray]
    contract: dict[str, tuple[float, bool | None]]

    def arrays(self) -> dict[str, np.ndarray]:
        about = {"row": self.row, "contract": self.contract, "layers": list(self.channels)}
        return {"about": packed(about), "heat": self.heat} | {
            f"channels {i}": bounds for i, bounds in enumerate(self.channels.values())
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> _Measured:
        about = unpacked(arrays["about"])
        channels = {name: arrays[f"channels {i}"] for i, name in enumerate(about["layers"])}
        return cls(about["row"], arrays["heat"], channels, {n: (v, r) for n, (v, r) in about["contract"].items()})


class _Auditing:
    """An audit under way."""

    def __init__(
        self,
        explainer: Explainer,
        preprocess: Preprocess,
        method: str,
        probes: int,
        seed: int,
        shape: tuple[int, ...],
        store: Store | None,
    ) -> None:
        self.explainer, self.preprocess, self.method = explainer, preprocess, method
        self.probes, self.seed, self.store = probes, seed, store
        self.rows: list[dict[str, Any]] = []
        self.mean_map: np.ndarray | None = None
        self.class_maps: dict[int, list[Any]] = {}
        self.channels: dict[str, np.ndarray] = {}
        self.contract: dict[str, list[tuple[float, bool | None]]] = {}
        self.channel = preprocess.layout.index("C")
        self.side = Side(explainer, shape)
        self.layouts = layouts(self.side.graph)
        self.tapped = [m.name for m in feature_maps(self.side.graph, self.side.scores.logits)]
        self.side.tap(self.tapped)
        self.randomised = Explainer(randomised_head(explainer, seed), explainer.provider, **explainer.session_options)

    def add(self, picture: Picture) -> None:
        if self.store is None:
            self._take(self._measure(picture))
            return
        key = key_of(
            "audited picture",
            self.explainer.loaded.identity,
            self.explainer.environment,
            [repr(self.preprocess), self.method, self.seed],
            [len(self.rows), len(self.rows) < self.probes, picture.name, picture.label],
            picture.pixels,
            np.zeros(0) if picture.boxes is None else picture.boxes,
        )
        self._take(_Measured.of(self.store.kept(key, lambda: self._measure(picture).arrays())))

    def _take(self, measured: _Measured) -> None:
        """Adds what one picture showed; of one that is not finite, only that."""
        top, heat = measured.row["top"], measured.heat
        self.rows.append(measured.row)
        if "not_finite" in measured.row:
            return
        self.mean_map = heat if self.mean_map is None else self.mean_map + heat
        kept = self.class_maps.setdefault(top, [0, np.zeros_like(heat)])
        kept[0] += 1
        kept[1] = kept[1] + heat
        for name, bounds in measured.channels.items():
            known = self.channels.get(name, bounds)
            self.channels[name] = np.stack(
                [np.minimum(known[0], bounds[0]), np.maximum(known[1], bounds[1]), np.minimum(known[2], bounds[2])]
            )
        for name, seen in measured.contract.items():
            self.contract.setdefault(name, []).append(seen)

    def _measure(self, picture: Picture) -> _Measured:
        array, placement = self.preprocess.apply(picture.pixels)
        found = self.explainer.explain(array, self.method)
        if not found.legible[0] or np.isnan(found.scores[0]).any() or np.isposinf(found.scores[0]).any():
            said = {"picture": picture.name, "top": None, "not_finite": found.diagnosis[0] or "a score is infinite"}
            return _Measured(said, np.zeros_like(found.heatmap[0], np.float64), {}, {})
        top, heat = int(found.target[0]), found.heatmap[0].astype(np.float64)
        original = self._probabilities(array)
        row: dict[str, Any] = {
            "picture": picture.name,
            "top": top,
            "confidence": float(original[top]),
            "diagnosis": found.diagnosis[0],
            "tied": int(found.tied[0]),
            **shortcut_signs(heat),
        }
        if picture.label is not None:
            row["label"], row["right"] = picture.label, picture.label == top
        if picture.boxes is not None and len(picture.boxes):
            inside = np.array([placement.box_to_input(tuple(b)) for b in picture.boxes])
            row["energy_in_boxes"] = energy_inside(heat, inside)
            row["pointing_hit"] = _hits(heat, inside)
        row["shift"] = self._shifted(array, top, original)
        contract = {}
        if len(self.rows) < self.probes:
            row["faithfulness"] = self._faithfulness(array, heat, top, float(original[top]))
            row["sanity"] = self._sanity(array, found.heatmap[0], top, found.scores.shape[1])
            contract = self._alternatives(picture)
        return _Measured(row, heat, self._bounds(array), contract)

    def _probabilities(self, array: np.ndarray) -> np.ndarray:
        """Of every class, for a preprocessed picture: the scores where they are squashed, else their softmax."""
        scores = self.side.classes(array)
        if self.side.scores.stripped:
            return scores
        with np.errstate(invalid="ignore"):  # an altered picture's scores may not be finite
            powers = np.exp(scores - scores.max())
            return np.asarray(powers / powers.sum())

    # ---- Per picture ----

    def _bounds(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """As `_Measured.channels`."""
        found = {}
        for name, values in self.side.features(array).items():
            flat = values[0].astype(np.float64).reshape(len(values[0]), -1)
            flat = np.where(np.isfinite(flat), flat, 0)
            top = flat.max(initial=0) * (1 - 1e-6)
            found[name] = np.stack([flat.min(1), flat.max(1), (flat >= top).mean(1)])
        return found

    def _shifted(self, array: np.ndarray, top: int, original: np.ndarray) -> dict[str, float]:
        """Label kept, and change of the class's probability, when the input moves by a few pixels."""
        before = original[top]
        kept, change = [], []
        for axis in (a for a in (1, 2, 3) if a != self.channel):
            for amount in (-SHIFT, SHIFT):
                after = self._probabilities(_moved(array, axis, amount))
                kept.append(bool(np.isfinite(after).all()) and self.side.labels(after) == self.side.labels(original))
                change.append(abs(float(after[top] - before)))
        return {"label_kept": float(np.mean(kept)), "change": float(np.mean(change))}

    def _faithfulness(self, array: np.ndarray, heat: np.ndarray, top: int, before: float) -> dict[str, float]:
        """Areas under the class's probability as pixels are deleted or inserted, highest heat first, and at random.

        And the share of the probability that is lost where only what the map marks is shown (Chattopadhay et al. 2018).
        """
        others = tuple(a for a in range(array.ndim) if a != self.channel)
        base = array.astype(np.float64).mean(axis=others, keepdims=True)
        cells = np.random.default_rng([self.seed, len(self.rows)]).random((CELLS, CELLS))
        places = np.ix_(*(np.arange(s) * CELLS // s for s in heat.shape))
        noise = cells[places]  # as coarse as a class map: single pixels at random would destroy any picture at once
        shown = np.expand_dims(heat[None], self.channel)
        masked = (array * shown + base * (1 - shown)).astype(array.dtype)
        drop = max(0.0, before - float(self._probabilities(masked)[top])) / (before or 1.0)
        areas = {"average_drop": drop}
        for name, order in (("", heat), ("_random", noise)):
            rank = np.argsort(np.argsort(-order.ravel(), kind="stable"), kind="stable").reshape(order.shape)
            curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
            for count in np.linspace(0, heat.size, STEPS + 1):
                hot = np.expand_dims((rank < count)[None], self.channel)
                for kind, keep in (("deletion", ~hot), ("insertion", hot)):
                    changed = np.where(keep, array, base).astype(array.dtype)
                    curves[kind].append(float(self._probabilities(changed)[top]))
            for kind, curve in curves.items():
                areas[kind + name] = float((sum(curve) - (curve[0] + curve[-1]) / 2) / STEPS)
        return areas

    def _sanity(self, array: np.ndarray, heat: np.ndarray, top: int, classes: int) -> dict[str, float]:
        """Rank correlation of the map with that of a model with a random head, and with that of another class."""
        result = {"random_head": spearman(heat, self.randomised.explain(array, self.method, top).heatmap[0])}
        if classes > 1:
            other = int((top + 1 + np.random.default_rng([self.seed, len(self.rows)]).integers(classes - 1)) % classes)
            result["other_class"] = spearman(heat, self.explainer.explain(array, self.method, other).heatmap[0])
        return result

    def _alternatives(self, picture: Picture) -> dict[str, tuple[float, bool | None]]:
        """Confidence (and whether it is right) under the declared preprocessing and the customary ones."""
        found = {}
        for name, how in alternatives(self.preprocess).items():
            scores = self._probabilities(how.apply(picture.pixels)[0])
            top = int(scores.argmax())
            right = None if picture.label is None else bool(np.isfinite(scores).all() and top == picture.label)
            found[name] = float(scores[top]), right
        return found

    # ---- Result ----

    def result(self) -> Audit:
        judged = [row for row in self.rows if "not_finite" not in row]
        fields = receptive_field(self.side.graph)
        used = cost(self.side.graph)
        proto = self.explainer.loaded.proto
        report: dict[str, Any] = {
            "identity": {
                "model": self.side.name,
                "sha256": self.explainer.loaded.sha256,
                "identity": self.explainer.loaded.identity,
                "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
                "ir": proto.ir_version,
                "opsets": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
                "operators": dict(Counter(n.op_type for n in proto.graph.node).most_common()),
                "parameters": used.parameters,
                "macs": used.macs,
                "layer": self.side.layer,
                "method": self.method,
            },
            "pictures": len(self.rows),
            "contract": {n: _contract_row(v) | {"size": self._size(n)} for n, v in self.contract.items()},
            "layers": [self._layer_row(name, fields) for name in self.tapped if name in self.channels],
            "summary": _summary(judged) if judged else {},
            "rows": self.rows,
        }
        report["summary"]["not_finite"] = len(self.rows) - len(judged)
        if self.mean_map is None:
            return Audit(report, {"all pictures": np.zeros(self.preprocess.size or (1, 1))})
        maps = {"all pictures": self.mean_map / len(judged)}
        for label, (count, total) in sorted(self.class_maps.items(), key=lambda c: (-c[1][0], c[0]))[:CLASSES]:
            maps[f"class {label} ({count})"] = total / count
        report["summary"]["peak_of_mean_map"] = float(maps["all pictures"].max())
        return Audit(report, maps)

    def _size(self, name: str) -> float:
        """How large the inputs of an alternative are, in units of the declared ones."""
        scales = [float(np.mean(how.std)) / how.scale for how in (self.preprocess, alternatives(self.preprocess)[name])]
        return scales[0] / scales[1]

    def _layer_row(self, name: str, fields: Any) -> dict[str, Any]:
        low, high, full = self.channels[name]
        reach = fields.get(name)
        size = [d for d in self.layouts[name].grid if isinstance(d, int)]
        row: dict[str, Any] = {
            "layer": name,
            "size": size,
            "channels": len(low),
            "dead": int((low == high).sum()),
            "saturated": int(((full > SATURATED) & (low < high)).sum()),
            "field": "all"
            if reach is None or reach.is_global
            else ["all" if s is None else int(s) for s in reach.size],
        }
        if reach is not None and not reach.is_global and reach.padding and None not in (*reach.padding, *reach.size):
            shares = [max(0.0, float(p)) / float(s) for p, s in zip(reach.padding, reach.size, strict=True)]
            row["corner_on_padding"] = 1 - math.prod(1 - s for s in shares)
        return row


def shortcut_signs(heat: np.ndarray) -> dict[str, float]:
    """Shares of the map on the border and in the corners, each over its share of the area, and where the maximum is."""
    height, width = heat.shape
    top, left = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    border = np.ones(heat.shape, bool)
    border[top:-top, left:-left] = False
    corner = np.zeros(heat.shape, bool)
    for rows in (slice(0, 2 * top), slice(-2 * top, None)):
        for columns in (slice(0, 2 * left), slice(-2 * left, None)):
            corner[rows, columns] = True
    total = float(heat.sum()) or 1.0
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return {
        "border": float(heat[border].sum()) / total / float(border.mean()),
        "corners": float(heat[corner].sum()) / total / float(corner.mean()),
        "maximum_y": float((y + 0.5) / height),
        "maximum_x": float((x + 0.5) / width),
    }


def alternatives(declared: Preprocess) -> dict[str, Preprocess]:
    """The declared preprocessing, its channels the other way round, and the customary normalisations."""
    found = {"declared": declared}
    if declared.channels in ("RGB", "BGR"):
        found["channels swapped"] = declared.replace(channels="BGR" if declared.channels == "RGB" else "RGB")
    if declared.dtype == "float32":
        for name, values in PRESETS.items():
            wanted = {k: v for k, v in values.items() if k in ("scale", "mean", "std", "channels")}
            found[name] = declared.replace(**wanted)
    return found


def _contract_row(values: list[tuple[float, bool | None]]) -> dict[str, Any]:
    row: dict[str, Any] = {"confidence": _mean(v for v, _ in values)}
    known = [r for _, r in values if r is not None]
    return row | ({"accuracy": float(np.mean(known))} if known else {})


def _mean(values: Iterable[float | None]) -> float | None:
    """Over what is finite (a store keeps all else as None); None where nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.mean(known)) if known else None


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pictures, of what is finite; without the figures that no picture gives."""
    result: dict[str, Any] = {
        "confidence": _mean(r["confidence"] for r in rows),
        "label_kept_when_shifted": _mean(r["shift"]["label_kept"] for r in rows),
        "change_when_shifted": _mean(r["shift"]["change"] for r in rows),
        "border": _mean(r["border"] for r in rows),
        "corners": _mean(r["corners"] for r in rows),
        "maxima_together": _together(rows),
        "degenerate_maps": sum(bool(r["diagnosis"]) for r in rows),
        "saturated_scores": float(np.mean([r["tied"] > 1 for r in rows])),
    }
    for key in ("faithfulness", "sanity"):
        probed = [r[key] for r in rows if key in r]
        for name in sorted({n for p in probed for n in p}):
            result[name] = _mean(p[name] for p in probed if name in p)
    for key, name in (("right", "accuracy"), ("energy_in_boxes", "energy_in_boxes"), ("pointing_hit", "pointing_game")):
        known = [float(r[key]) for r in rows if key in r]
        if known:
            result[name] = _mean(known)
    return {name: value for name, value in result.items() if value is not None}


def _together(rows: list[dict[str, Any]]) -> float:
    """The largest share of maxima within a tenth of the picture's size of one of them."""
    places = np.array([[r["maximum_y"], r["maximum_x"]] for r in rows])
    near = np.abs(places[:, None] - places[None]).max(axis=2) <= 0.1
    return float(near.mean(axis=1).max())


def _moved(array: np.ndarray, axis: int, amount: int) -> np.ndarray:
    """The picture shifted along an axis, its edge repeated."""
    index = np.clip(np.arange(array.shape[axis]) - amount, 0, array.shape[axis] - 1)
    return np.take(array, index, axis=axis)


def _hits(heat: np.ndarray, boxes: np.ndarray) -> bool:
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return bool(((boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])).any())


# ---- Verdict ----


def findings(report: dict[str, Any]) -> list[Finding]:
    """What a reviewer should look at; each with the value and the limit it broke."""
    summary, found = report["summary"], []

    def find(code: str, where: str, value: float, limit: float, words: str) -> None:
        found.append(Finding(code, where, float(value), limit, words))

    bad = [row for row in report["rows"] if "not_finite" in row]
    if bad:
        names = f"{', '.join(row['picture'] for row in bad[:3])}{' …' if len(bad) > 3 else ''}"
        words = f"{len(bad)} of {report['pictures']} pictures are left out ({names}): {bad[0]['not_finite']}"
        find("not-finite", bad[0]["picture"], len(bad) / report["pictures"], 0.0, words)
    if len(bad) == report["pictures"]:
        return found
    contract = {n: row for n, row in report["contract"].items() if row["confidence"] is not None}
    key = "accuracy" if "accuracy" in contract.get("declared", {}) else "confidence"
    # Without labels there is only confidence to go by, which larger inputs alone push up.
    fair = [n for n, row in contract.items() if key == "accuracy" or 1 / 3 < row["size"] < 3]
    best = max(fair, key=lambda n: contract[n][key], default="declared")
    if best in contract and "declared" in contract and contract[best][key] > contract["declared"][key] + 0.1:
        words = f"{best!r} gives {key} {contract[best][key]:.2f}, the declared preset {contract['declared'][key]:.2f}"
        find("preprocessing-doubtful", best, contract[best][key] - contract["declared"][key], 0.1, words)
    for row in report["layers"]:
        share = row["dead"] / row["channels"]
        if share > 0.25:
            find(
                "dead-channels", row["layer"], share, 0.25, f"{row['dead']} of {row['channels']} channels never change"
            )
        share = row["saturated"] / row["channels"]
        if share > 0.25:
            words = f"{row['saturated']} of {row['channels']} channels are mostly at the layer's highest value"
            find("saturated-channels", row["layer"], share, 0.25, words)
    if summary.get("saturated_scores", 0) > TIED:
        words = (
            f"the top scores of {summary['saturated_scores']:.0%} of the pictures tie at the ceiling of the output's "
            "quantiser: its range was calibrated too narrow"
        )
        find("saturated-scores", "", summary["saturated_scores"], TIED, words)
    if summary.get("label_kept_when_shifted", 1) < 0.8:
        kept = summary["label_kept_when_shifted"]
        find(
            "shift-sensitive", "", kept, 0.8, f"the label survives a shift by {SHIFT} pixels in {kept:.0%} of the cases"
        )
    if summary.get("random_head", 0) > 0.7:
        words = "the map hardly changes when the model's head is shuffled: it does not explain the decision"
        find("sanity-parameters", report["identity"]["method"], summary["random_head"], 0.7, words)
    if summary.get("other_class", 0) > 0.9:
        words = "the map of another class is nearly the same: it does not tell classes apart"
        find("sanity-labels", report["identity"]["method"], summary["other_class"], 0.9, words)
    areas = [summary.get(f"{kind}{order}") for kind in ("deletion", "insertion") for order in ("", "_random")]
    if None not in areas and areas[0] > areas[1] and areas[2] < areas[3]:
        words = "what the map marks matters less to the score than places at random"
        find("unfaithful", report["identity"]["method"], summary["deletion"], summary["deletion_random"], words)
    for name, limit in (("border", 1.5), ("corners", 2.0)):
        if summary.get(name, 0) > limit:
            words = f"the maps put {summary[name]:.1f} times more on the {name} than the area would: padding, a mark?"
            find("border-evidence", name, summary[name], limit, words)
    if report["pictures"] >= 8 and summary["maxima_together"] > 0.6:
        words = f"{summary['maxima_together']:.0%} of the maxima lie at one place of the picture: a watermark, a frame?"
        find("fixed-position", "", summary["maxima_together"], 0.6, words)
    if summary["degenerate_maps"]:
        words = f"{summary['degenerate_maps']} maps are empty or constant"
        find("degenerate-maps", "", summary["degenerate_maps"], 0, words)
    return found
