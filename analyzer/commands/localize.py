"""`localize`: boxes around what a heatmap lights up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import IntRange

from analyzer.commands.common import RunProgress, each_picture, note, parse_options, print_json, table, tell_doubt
from analyzer.commands.explain import destinations, options_of
from analyzer.commands.options import (
    READ,
    WRITE_FOLDER,
    Given,
    Setup,
    format_option,
    group,
    labels_option,
    layer_option,
    method_option,
    model_argument,
    option,
    options_option,
    output_option,
    pictures_argument,
    pictures_out_option,
    several,
)
from analyzer.files import Places, make_folder

if TYPE_CHECKING:
    from analyzer.attribution import Model, Question


class Localize(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    out: str | None = pictures_out_option
    method: str = method_option
    targets: tuple[str, ...] = several("-t --target", "As for `explain`.  [the labels of --boxes, else top1]")
    boxes: str | None = option("--boxes", 'JSON: {"cat.jpg": {"cat": [x0, y0, x1, y1]}} to compare with.', type=READ)
    threshold: float = option("--threshold", "Share of the highest heat.", type=float, default=0.2)
    several: bool = option("--several", "A box for every connected part, not only for the largest.", is_flag=True)
    masks: str | None = option("--masks", "Folder for the masks (PNG, white inside).", type=WRITE_FOLDER)
    units: int = option(
        "--units",
        "Print that many channels that speak for the target.",
        type=IntRange(0),
        default=0,
        show_default=False,
    )
    options: tuple[str, ...] = options_option
    layer: str | None = layer_option
    output: str | None = output_option
    labels: str | None = labels_option
    setup: Setup = group(Setup)
    form: str = format_option


@Localize.command("localize")
def command(given: Localize) -> int:
    """Draw boxes around what MODEL looks at in PICTURES: the connected parts of the heat above a threshold.

    With --boxes they are compared: intersection over union, whether the hottest pixel lies inside (pointing game), the
    share of the heat inside, and the threshold that would have been best.

    \b
    onnx-analyzer localize model.onnx cat.jpg -t 281 -o boxes.png
    onnx-analyzer localize models/digits_cnn.onnx examples/*.png --boxes examples/boxes.json -o boxes/
    """
    from analyzer.attribution import Job, Question

    method = given.method
    asked = options_of((method,), parse_options(given.options))[method]
    boxes = read_boxes(given.boxes)
    places = destinations(given.out, given.pictures, ".png")
    model, card = given.setup.load(given.model, given.labels)
    layer = given.layer or card.default_layer or "auto"
    question = Question((Job(method, layer, asked),), output=given.output, labels=card.labels)
    job = Localizer(model, question, card, given)
    results, failed = each_picture(
        "localize", given.pictures, lambda p: job.run(p, boxes.get(Path(p).name, {}), places.get(p))
    )
    summary = job.summary()
    if given.form == "json":
        document = {"model": given.model, "method": method, "results": results}
        print_json("localize", document | {"summary": summary, "failed": failed})
    else:
        print_results(results, summary)
    return 5 if failed else 0


class Localizer:
    """One picture after another; what was measured against given boxes is kept for the summary."""

    def __init__(self, model: Model, question: Question, card: Any, given: Localize) -> None:
        self.model, self.question, self.card, self.given = model, question, card, given
        self.progress = RunProgress()
        self.doubt = ""
        self.masks = Places(make_folder(given.masks)) if given.masks else None
        self.sweeps: list[Any] = []
        self.measured: list[dict[str, float]] = []

    def run(self, picture: str, known: dict[str, Any], out: Path | None) -> dict[str, Any]:
        """Localise the targets of a picture, draw them, and say how well they fit."""
        import numpy as np

        from analyzer.attribution import answer
        from analyzer.attribution.localization import class_units
        from analyzer.images import decode, draw_boxes, write_png

        image = decode(picture)
        array, placement = self.card.preprocess.apply(image)
        grey = self.card.preprocess.apply(np.full_like(image, 128))[0]
        wanted = list(self.given.targets) or list(known) or ["top1"]
        target: Any = wanted if len(wanted) > 1 else wanted[0]
        question = replace(self.question, target=target, grey=grey)
        (job,) = question.jobs
        (found,) = answer(self.model, question, array, self.progress)
        self.doubt = tell_doubt(found.doubt, self.doubt)
        entries, boxes, names = [], [], []
        for row, asked in enumerate(wanted):
            heat = placement.map_to_image(found.heatmap[row])
            heat[~placement.covered] = np.nan
            index = int(found.target[row])
            name = self.card.label(index) if index >= 0 else asked
            entry = self.entry(picture, name, heat, known.get(name, known.get(asked)))
            entry["diagnosis"] = found.diagnosis[row] or None
            if found.diagnosis[row]:
                note(f"warning: {picture}: {name}: {found.diagnosis[row]}")
            if self.given.units:
                how = (job.layer, question.output, question.labels)
                shares, layer = class_units(self.model, array, asked, *how)
                best = (-shares[0]).argsort(kind="stable")[: self.given.units]
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
            write_png(out, draw_boxes(image, boxes, names, title=f"{job.method}: heat above {self.given.threshold:g}"))
            result["written"] = str(out)
        return result

    def entry(self, picture: str, name: str, heat: Any, given: Any) -> dict[str, Any]:
        """Boxes of one target as data, masks written, the given box measured."""
        import numpy as np

        from analyzer.attribution.localization import box_iou, energy_inside, points_inside, regions, sweep
        from analyzer.images import write_png

        found = regions(heat, self.given.threshold)
        kept = found if self.given.several else found[:1]
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
