"""`localize`: boxes around what a heatmap lights up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    RunProgress,
    each_picture,
    format_option,
    layer_option,
    model_argument,
    note,
    parse_options,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    table,
    tell_doubt,
    with_session,
)
from analyzer.commands.explain import destinations, options_of
from analyzer.files import Places, make_folder


@click.command(name="localize")
@model_argument
@click.argument("pictures", nargs=-1, required=True, type=InputPath())
@click.option("-o", "--out", type=OutputPath(), help="PNG to write; a folder where there are several pictures.")
@click.option("-m", "--method", default="grad-cam", show_default=True, help="See `methods`.")
@click.option("-t", "--target", "targets", multiple=True, help="As for `explain`.  [the labels of --boxes, else top1]")
@click.option("--boxes", type=InputPath(), help='JSON: {"cat.jpg": {"cat": [x0, y0, x1, y1]}} to compare with.')
@click.option("--threshold", type=float, default=0.2, show_default=True, help="Share of the highest heat.")
@click.option("--several", is_flag=True, help="A box for every connected part, not only for the largest.")
@click.option("--masks", type=OutputPath(file_okay=False), help="Folder for the masks (PNG, white inside).")
@click.option("--units", type=click.IntRange(0), default=0, help="Print that many channels that speak for the target.")
@click.option("-O", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the method.")
@layer_option
@click.option("--output", help="Which output of the model holds the scores.")
@click.option("--labels", type=InputPath(), help="Class names: one per line, or JSON.")
@stacked(preprocess_options)
@provider_option
@with_session
@format_option
def command(
    model: str,
    pictures: tuple[str, ...],
    out: str | None,
    method: str,
    targets: tuple[str, ...],
    boxes: str | None,
    threshold: float,
    several: bool,
    masks: str | None,
    units: int,
    options: tuple[str, ...],
    layer: str | None,
    output: str | None,
    labels: str | None,
    provider: str,
    session: dict[str, Any],
    form: str,
    **preprocess: Any,
) -> int:
    """Draw boxes around what MODEL looks at in PICTURES: the connected parts of the heat above a threshold.

    With --boxes they are compared: intersection over union, whether the hottest pixel lies inside (pointing game), the
    share of the heat inside, and the threshold that would have been best.

    \b
    onnx-analyzer localize model.onnx cat.jpg -t 281 -o boxes.png
    onnx-analyzer localize models/digits_cnn.onnx examples/*.png --boxes examples/boxes.json -o boxes/
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card

    asked = options_of((method,), parse_options(options))[method]
    given = read_boxes(boxes)
    places = destinations(out, pictures, ".png")
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, labels, preprocess)
    explainer.labels = card.labels
    explainer.progress = RunProgress()
    job = Localizer(explainer, card, method, asked, layer or card.default_layer or "auto", output, threshold, several)
    job.units, job.masks = units, Places(make_folder(masks)) if masks else None
    results, failed = each_picture(
        "localize", pictures, lambda p: job.run(p, targets, given.get(Path(p).name, {}), places.get(p))
    )
    summary = job.summary()
    if form == "json":
        print_json(
            "localize", {"model": model, "method": method, "results": results, "summary": summary, "failed": failed}
        )
    else:
        print_results(results, summary)
    return 5 if failed else 0


class Localizer:
    """One picture after another; what was measured against given boxes is kept for the summary."""

    def __init__(
        self,
        explainer: Any,
        card: Any,
        method: str,
        options: dict[str, Any],
        layer: str,
        output: str | None,
        threshold: float,
        several: bool,
    ) -> None:
        self.explainer, self.card, self.method, self.options = explainer, card, method, options
        self.layer, self.output, self.threshold, self.several = layer, output, threshold, several
        self.units = 0
        self.doubt = ""
        self.masks: Places | None = None
        self.sweeps: list[Any] = []
        self.measured: list[dict[str, float]] = []

    def run(self, picture: str, targets: tuple[str, ...], given: dict[str, Any], out: Path | None) -> dict[str, Any]:
        """Localise the targets of a picture, draw them, and say how well they fit."""
        import numpy as np

        from analyzer.attribution.localization import class_units
        from analyzer.images import decode, draw_boxes, write_png

        image = decode(picture)
        array, placement = self.card.preprocess.apply(image)
        self.explainer.grey = self.card.preprocess.apply(np.full_like(image, 128))[0]
        wanted = list(targets) or list(given) or ["top1"]
        target: Any = wanted if len(wanted) > 1 else wanted[0]
        found = self.explainer.explain(array, self.method, target, self.layer, self.output, **self.options)
        self.doubt = tell_doubt(found.doubt, self.doubt)
        entries, boxes, names = [], [], []
        for row, asked in enumerate(wanted):
            heat = placement.map_to_image(found.heatmap[row])
            heat[~placement.covered] = np.nan
            index = int(found.target[row])
            name = self.card.label(index) if index >= 0 else asked
            entry = self.entry(picture, name, heat, given.get(name, given.get(asked)))
            entry["diagnosis"] = found.diagnosis[row] or None
            if found.diagnosis[row]:
                note(f"warning: {picture}: {name}: {found.diagnosis[row]}")
            if self.units:
                shares, layer = class_units(self.explainer, array, asked, self.layer, self.output)
                best = (-shares[0]).argsort(kind="stable")[: self.units]
                entry["units"] = {"layer": layer, "channels": best.tolist(), "contributions": shares[0][best].tolist()}
            entries.append(entry)
            for box in entry["boxes"]:
                boxes.append(box)
                names.append(str(name))
            if "given" in entry:
                boxes.append(entry["given"])
                names.append(f"{name} (given)")
        result = {"picture": picture, "targets": entries}
        if out:
            write_png(out, draw_boxes(image, boxes, names, title=f"{self.method}: heat above {self.threshold:g}"))
            result["written"] = str(out)
        return result

    def entry(self, picture: str, name: str, heat: Any, given: Any) -> dict[str, Any]:
        """Boxes of one target as data, masks written, the given box measured."""
        import numpy as np

        from analyzer.attribution.localization import box_iou, energy_inside, points_inside, regions, sweep
        from analyzer.images import write_png

        found = regions(heat, self.threshold)
        kept = found if self.several else found[:1]
        entry: dict[str, Any] = {"target": name, "boxes": [r.box for r in kept]}
        entry |= {"energy": [round(r.energy, 4) for r in kept], "peaks": [round(r.peak, 4) for r in kept]}
        if self.masks:
            mask = np.any([r.mask for r in kept], axis=0) if kept else np.zeros(heat.shape, bool)
            place = self.masks.place(f"{Path(picture).stem}.{name.replace('/', '_')}", ".png")
            write_png(place, np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
            entry["mask"] = str(place)
        if given is not None:
            measured = {
                "iou": max((box_iou(r.box, given) for r in kept), default=0.0),
                "pointing": float(points_inside(heat, given)),
                "energy_inside": energy_inside(heat, given),
            }
            self.measured.append(measured)
            self.sweeps.append(sweep(heat, given))
            entry |= {"given": [float(v) for v in given], **measured}
        return entry

    def summary(self) -> dict[str, Any]:
        """Means over everything that was compared, and the best single threshold."""
        import numpy as np

        from analyzer.attribution.localization import THRESHOLDS

        if not self.measured:
            return {}
        sweeps = np.stack(self.sweeps)
        best = int(sweeps.mean(axis=0).argmax())
        ious = np.array([m["iou"] for m in self.measured])
        return {
            "compared": len(ious),
            "mean_iou": float(ious.mean()),
            "iou_above_half": float((ious >= 0.5).mean()),
            "pointing": float(np.mean([m["pointing"] for m in self.measured])),
            "energy_inside": float(np.mean([m["energy_inside"] for m in self.measured])),
            "best_threshold": THRESHOLDS[best],
            "mean_iou_at_best": float(sweeps[:, best].mean()),
            "iou_above_half_at_best": float((sweeps[:, best] >= 0.5).mean()),
        }


def read_boxes(path: str | None) -> dict[str, dict[str, list[float]]]:
    """{file name: {label: [x0, y0, x1, y1]}} from JSON.

    Raises:
        InputError: not readable, or not of that form.
    """
    from analyzer.errors import InputError

    if path is None:
        return {}
    hint = 'write {"cat.jpg": {"cat": [x0, y0, x1, y1]}}, in pixels of the picture'
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read boxes from {path}: {error}", hint) from None
    for name, entry in given.items() if isinstance(given, dict) else [("the file", given)]:
        fits = isinstance(entry, dict) and all(
            isinstance(b, list) and len(b) == 4 and all(isinstance(v, int | float) for v in b) for b in entry.values()
        )
        if not fits:
            raise InputError(f"{path}: {name!r} does not hold labelled boxes", hint)
    return given


def print_results(results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """A line per box, then the means."""
    rows = []
    for result in results:
        for t in result["targets"]:
            fit = [f"{t[k]:.2f}" for k in ("iou", "energy_inside")] if "iou" in t else ["", ""]
            hit = {1.0: "hit", 0.0: "miss"}.get(t.get("pointing", -1.0), "")
            for box, energy in zip(t["boxes"] or [[]], t["energy"] or [0.0], strict=True):
                text = " ".join(f"{v:.0f}" for v in box) or "none"
                rows.append((Path(result["picture"]).name, t["target"], text, f"{energy:.2f}", *fit, hit))
    header = ("picture", "target", "box", "heat in it", "IoU", "heat in given", "pointing")
    wide = len(header) if any(r[4] for r in rows) else 4
    click.echo(table([r[:wide] for r in rows], header[:wide]))
    for result in results:
        for t in result["targets"]:
            if "units" in t:
                u = t["units"]
                pairs = ", ".join(f"{c} ({v:+.3g})" for c, v in zip(u["channels"], u["contributions"], strict=True))
                click.echo(f"{Path(result['picture']).name}: {t['target']}: channels of {u['layer']}: {pairs}")
        if "written" in result:
            click.echo(f"written: {result['written']}")
    if summary:
        s = summary
        click.echo(
            f"{s['compared']} boxes: mean IoU {s['mean_iou']:.3f}, {s['iou_above_half']:.0%} at least ½; "
            f"pointing game {s['pointing']:.0%}; heat inside {s['energy_inside']:.0%}\n"
            f"best threshold {s['best_threshold']:g}: mean IoU {s['mean_iou_at_best']:.3f}, "
            f"{s['iou_above_half_at_best']:.0%} at least ½"
        )
