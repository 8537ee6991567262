"""`compare` and `audit` as functions."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analyzer.api.data import File, Pictures, listed, opened_samples, samples_of
from analyzer.api.models import Asked, Names, Preprocessing, for_pictures, known_options
from analyzer.attribution import Explainer
from analyzer.attribution.cards import default_method, first_shapes
from analyzer.attribution.deployed import open_both
from analyzer.attribution.drawn import maps_of
from analyzer.attribution.features import features
from analyzer.attribution.lines import Placed
from analyzer.attribution.methods import find_method
from analyzer.data import (
    Sample,
    annotated,
    as_said,
    read_classes,
    read_masks,
    read_true_boxes,
    true_boxes,
    with_box_classes,
    with_classes,
)
from analyzer.errors import AnalyzerError, InputError
from analyzer.images import Drawing, Feeding, Found, ModelCard, write_png
from analyzer.images.draw import draw_found
from analyzer.images.mosaic import stacked
from analyzer.images.views import several
from analyzer.passes import Workers
from analyzer.passes.explaining import to_draw
from analyzer.plain import rounded
from analyzer.report.audit import to_show
from analyzer.report.files import (
    check_endings,
    difference_figure,
    evidence_figure,
    flat_channels,
    layer_figure,
    mean_maps,
    shows_maps,
    write_audit,
    write_comparison,
)
from analyzer.report.page import Shot, ran_on
from analyzer.tasks.base import Prediction
from analyzer.tasks.detection.boxed import Boxed
from analyzer.validation import SAMPLE, Comparison, Store, as_data, doubts, judge, read_thresholds
from analyzer.validation import compare as compare_sides
from analyzer.validation.audit import Audit, Auditing
from analyzer.validation.audit import audit as audit_pictures
from analyzer.validation.checks import checked, findings, read_limits
from analyzer.validation.evidence_difference import evidence_difference as evidence_difference_of
from analyzer.validation.half import half_findings, half_precision
from analyzer.validation.runner_side import check_insides, side_of
from analyzer.validation.sensitivity import sensitivity_of

MODES = {"as-shipped": None, "semantics": "disable"}  # graph optimisation of both sides; see `runtime.Session`
FOLDERS = "folders"  # in place of a file of classes: each picture's folder is named by its class
Mode = Literal["as-shipped", "semantics"]


def compare(
    reference: Any,
    candidate: Any,
    pictures: Pictures,
    method: str | Sequence[str] = (),
    *,
    labels: Names = None,
    boxes: File | Mapping[str, Any] | None = None,
    classes: File | Mapping[str, int | str] | None = None,
    masks: File | None = None,
    slice: str | None = None,
    threshold: Mapping[str, float] | None = None,
    thresholds: File | None = None,
    sensitivity: bool = False,
    evidence_difference: bool = False,
    report: File | Sequence[File] | None = None,
    draw: int = 6,
    provider: str = "cpu",
    candidate_provider: str | None = None,
    mode: Mode = "as-shipped",
    limit: int | None = None,
    every: int = 1,
    workers: Workers = None,
    store: File | None = None,
    input: Mapping[str, Any] | None = None,
    explain_input: str | None = None,
    preprocess: Preprocessing = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Compare two builds of a model on pictures: their outputs, their layers, and what they look at.

    Args:
        reference, candidate: as `model` of `analyzer.explain` each, or the address of a model in another runtime, such
            as "openvino:model.xml"; see docs/runners.md.
        pictures: files, folders, glob patterns or lists of files; or pictures in memory, as for `analyzer.explain`.
        method: methods whose maps are compared: grad-cam and gradient if none are named; beside another runtime rise,
            for detectors d-rise.
        labels: class names, or a file of them.
        boxes: true boxes, {"cat.jpg": [[x0, y0, x1, y1], …]} or {"cat.jpg": {"cat": [x0, y0, x1, y1]}}, or a JSON file
            of them, COCO's format too; compares mAP of detectors.
        masks: folder of true masks: PNG files of class numbers, named like the pictures; or "dataset", as archives,
            tables and metadata files say. Compares mIoU of segmenters.
        classes: true classes, {"cat.jpg": 281}, a JSON or CSV file of them, or "folders" where pictures are in folders
            named by their class; compares accuracy.
        slice: column of the CSV file; each group of pictures is judged by itself.
        threshold: {name: value} of single thresholds. thresholds: a TOML file of them; see docs/compare.md.
        sensitivity: also rank the layers of a quantized or half-precision candidate by what each contributes to the
            drift; see docs/compare.md.
        evidence_difference: also say which channels and regions make the Grad-CAMs differ, on the pictures that agree
            least.
        report: report to write, or several: .html, .md, .xml (JUnit), .sarif, .json, or a folder, named with a slash at
            its end, with all of them and the pictures in files.
        draw: number of pictures in the report, those that agree least.
        provider, candidate_provider: execution provider of the reference, and of the candidate if it is another.
        mode: "as-shipped": with the runtime's graph optimizations; "semantics": without.
        limit: use at most so many pictures, evenly spread. every: use every so-manieth frame of a video.
        workers: pictures at a time, one per CPU unless given; or an engine, `analyzer.Processes()`, `analyzer.Ray()`.
        store: cache folder; an interrupted run resumes.
        input, explain_input, preprocess: as for `analyzer.explain`, of both models.
        progress: called with the number of pictures after each.
        options: of the preprocessing and of the session, as for `analyzer.explain`.

    Returns:
        Comparison: `.passed`, `.findings`, `.inconclusive`, `.report`, `.figure()`.

    Raises:
        InputError: no pictures, an unknown threshold, or the two models have different numbers of classes.
    """
    paths = _paths(report)
    check_endings(paths)
    allowed = read_thresholds(None if thresholds is None else os.fspath(thresholds), dict(threshold or {}))
    pictures = listed(pictures)
    by_folder = classes == FOLDERS
    samples = _annotated(samples_of(pictures, limit), boxes, None if by_folder else classes, slice, masks)
    asked = _many(options, preprocess, labels=labels, input=input, explain_input=explain_input, level=MODES[mode])
    known_options(options, "compare")
    providers = provider, candidate_provider or provider
    models = reference, candidate
    sides = open_both(models, lambda at, like: for_pictures(models[at], providers[at], asked, like))
    samples = opened_samples(samples, pictures, sides[0][1].feeds, every)
    samples = with_classes(samples, sides[0][1].labels, by_folder)
    methods = (method,) if isinstance(method, str) else tuple(method)
    done = compared(sides, samples, methods, store, workers, progress, sensitivity, evidence_difference)
    done = replace(
        done, findings=as_data(judge(done.report, allowed)), inconclusive=as_data(doubts(done.report, allowed))
    )
    shots = shots_of(done, samples, sides[0][1].feeds, draw) if shows_maps(paths) else []
    for path in paths:
        write_comparison(path, done.as_data(), shots, shot=functools.partial(shot_of, done))
    return done


def compared(
    sides: Sequence[tuple[Explainer, ModelCard]],
    samples: Sequence[Sample],
    methods: Sequence[str],
    store: File | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
    sensitivity: bool = False,
    difference: bool = False,
) -> Comparison:
    """The comparison of two models, the reference first, without findings, with how it was run."""
    explainers, cards = [e for e, _ in sides], [card for _, card in sides]
    session = explainers[0].session_options
    shapes = first_shapes(samples, [card.feeds for card in cards])
    kept = Store(os.fspath(store)) if store else None
    ours, theirs = (side_of(e, shape, kept) for e, shape in zip(explainers, shapes, strict=True))
    feeds = cards[0].feeds, cards[1].feeds
    if isinstance(ours.task, Boxed):
        samples = with_box_classes(samples, cards[0].labels)
    if sensitivity or difference:
        check_insides(ours, theirs)
    ranked = sensitivity_of(ours, theirs, feeds, samples) if sensitivity else None
    done = compare_sides(ours, theirs, samples, methods, 6, feeds, store, workers, progress)
    by_name = {sample.id: sample for sample in samples}
    report, drawn = dict(done.report), done.differences
    if ranked is not None:
        report["sensitivity"] = ranked
    if difference:
        least = [sample for sample in samples if sample.id in done.maps]
        report["evidence_difference"], drawn = evidence_difference_of(ours, theirs, report, least, feeds)

    def draw(name: str) -> np.ndarray:
        again = done.again
        maps = done.maps[name] if name in done.maps or again is None else again(by_name[name])
        return evidence_figure(maps, cards[0].feeds.feed(by_name[name].source))

    def draw_layer(layer: str, name: str) -> np.ndarray | None:
        pair = layer, next(row["candidate"] for row in report["layers"] if row["layer"] == layer)
        with suppress(AnalyzerError):
            return layer_figure(
                *(_maps(*each, by_name[name].source) for each in zip(explainers, feeds, pair, strict=True))
            )
        return None  # no maps, or of other sizes

    return replace(
        done,
        report=rounded(report),
        differences=drawn,
        run={
            "reference ran on": receipt_of(ours.receipt),
            "candidate ran on": receipt_of(theirs.receipt),
            "optimisation": session.get("level") or "all",
            "threads": str(session.get("threads")),
            "TF32": "off",
            "layers": f"at most {SAMPLE} elements of each"
            if ours.is_recorded or theirs.is_recorded
            else "every element",
            "preprocessing": " and ".join(dict.fromkeys(card.description for card in cards)),
        },
        draw=draw,
        draw_layer=draw_layer,
    )


def shots_of(done: Comparison, samples: Sequence[Sample], feeding: Feeding, count: int) -> list[Shot]:
    """All pictures of a comparison's page: those that agree least, and what makes their evidence differ."""
    shots = [shot for name in done.least(count) if (shot := shot_of(done, name)) is not None]
    sources = {sample.id: sample.source for sample in samples}
    for name, maps in done.differences.items():
        shots.append(
            Shot(f"{name}: the evidence difference", functools.partial(_difference, maps, feeding, sources[name]))
        )
    return shots


def shot_of(done: Comparison, name: str) -> Shot | None:
    """A picture with the maps of both sides and their difference, or a layer with its channels that differ most.

    None for a layer that has no maps.
    """
    row = next((row for row in done.report["rows"] if row["picture"] == name), None)
    if row is None:
        picture = next(iter(done.least(1)), "")
        drawn = done.draw_layer(name, picture) if done.draw_layer is not None and picture else None
        return (
            None
            if drawn is None
            else Shot(
                f"{name} on {picture}: the channels that differ most, with their share of Σ (a − b)²", lambda: drawn
            )
        )
    return Shot(agreement(row), functools.partial(done.figure, name))


def _difference(maps: Mapping[str, np.ndarray], feeding: Feeding, source: Any) -> np.ndarray:
    return difference_figure(maps, feeding.feed(source))


def agreement(row: Mapping[str, Any]) -> str:
    """A picture's name and how well both sides agree on it."""
    said = ["labels differ"] if row.get("agree") is False else []
    said += [f"score drift {row['score_drift']:.2%}"] if row.get("score_drift") is not None else []
    for method, found in row["evidence"].items():
        if found.get("rank_correlation") is not None:
            said.append(f"{method} rank correlation {found['rank_correlation']:.3f}")
    return f"{row['picture']}: {', '.join(said)}" if said else str(row["picture"])


def receipt_of(receipt: dict[str, Any]) -> str:
    """A side's receipt in words."""
    if "runs" in receipt:
        return f"{receipt['runs']}, Python {receipt['python']}"
    fallbacks = receipt.get("fallbacks", receipt.get("fell to the CPU", ()))  # as older recordings call it
    fell = ", ".join(fallbacks) or "nothing"
    scores = f"; scores of {receipt['scores']}" if "scores" in receipt else ""
    return f"{ran_on(receipt)}; fell to the CPU: {fell}{scores}"


def audit(
    model: Any,
    pictures: Pictures,
    method: str | None = None,
    *,
    labels: Names = None,
    classes: File | Mapping[str, int | str] | None = None,
    boxes: File | Mapping[str, Any] | None = None,
    probes: int = 16,
    seed: int = 0,
    placement: Placed = "effective",
    threshold: Mapping[str, float] | None = None,
    thresholds: File | None = None,
    report: File | Sequence[File] | None = None,
    draw: int = 6,
    maps: File | None = None,
    fp16: bool = False,
    provider: str = "cpu",
    limit: int | None = None,
    every: int = 1,
    workers: Workers = None,
    store: File | None = None,
    input: Mapping[str, Any] | None = None,
    explain_input: str | None = None,
    preprocess: Preprocessing = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Audit:
    """Audit a model on pictures: preprocessing, dead channels, robustness, and how faithful its maps are.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        pictures: as for `analyzer.compare`.
        method: method whose maps are audited; by default grad-cam, for text, detections and keypoints layer-cam.
        labels: class names, or a file of them.
        classes: true classes, as for `analyzer.compare`; adds accuracy.
        boxes: true boxes, as for `analyzer.compare`; adds the pointing game.
        probes: number of pictures for the slow checks (faithfulness and sanity).
        seed: seed of the random numbers.
        placement: where the units of a layer lie in the image, as for `analyzer.explain`.
        threshold: {check: value} of single thresholds. thresholds: a TOML file of them; see docs/audit.md.
        report: report to write, or several, as for `analyzer.compare`.
        draw: number of pictures in the report besides those of findings, those with the least confidence.
        maps: picture of the mean maps to write.
        fp16: check instead which tensors float16 cannot hold, for a float32 model of any task.
        provider, limit, every, workers, store, input, explain_input, preprocess, progress, options: as for
            `analyzer.compare`.

    Returns:
        Audit: `.findings`, `.report`, `.figure()`.

    Raises:
        InputError: no pictures.
    """
    paths = _paths(report)
    check_endings(paths)
    if method is not None:
        find_method(method, {})
    limits = read_limits(None if thresholds is None else os.fspath(thresholds), threshold)
    pictures = listed(pictures)
    by_folder = classes == FOLDERS
    samples = _annotated(samples_of(pictures, limit), boxes, None if by_folder else classes)
    asked = _many(options, preprocess, labels=labels, input=input, explain_input=explain_input)
    known_options(options, "audit")
    explainer, card = for_pictures(model, provider, asked)
    samples = with_classes(opened_samples(samples, pictures, card.feeds, every), card.labels, by_folder)
    over = provider, store, workers, progress
    if fp16:
        done = audited_half(explainer, card, samples, *over)
    else:
        done = audited(explainer, card, samples, method, probes, seed, *over, placement, limits)
    document = done.as_data()
    shots, examples = audit_shots(done, explainer, card, samples, placement, draw) if shows_maps(paths) else ([], {})
    for path in paths:
        write_audit(path, document, shots, "", examples)
    if maps is not None and done.maps:
        write_png(maps, done.figure())
    return done


def audit_shots(
    done: Audit, explainer: Explainer, card: ModelCard, samples: Sequence[Sample], placement: Placed, count: int
) -> tuple[list[Shot], dict[str, Shot]]:
    """(the mean maps and the pictures with the least confidence, {name: those that speak most for a finding})"""
    sources = {sample.id: sample.source for sample in samples}
    rows = {row["picture"]: row for row in done.report.get("rows", ()) if row.get("top") is not None}

    def shot(name: str) -> Shot:
        draw = functools.partial(
            _explained, explainer, card, done.report["identity"]["method"], placement, sources[name]
        )
        said = f": {card.label(rows[name]['top'])}" if isinstance(rows[name]["top"], int) else ""
        sure = f", confidence {rows[name]['confidence']:.2f}" if rows[name].get("confidence") is not None else ""
        return Shot(f"{name}{said}{sure}", draw)

    def layer(name: str) -> Shot | None:
        picture = next(iter(rows))
        words = f"{name} on {picture}; channels with the most values at their maximum first, constant ones hatched"
        with suppress(AnalyzerError):  # it has no maps
            drawn = flat_channels(_maps(explainer, card.feeds, name, sources[picture]))
            return Shot(words, lambda: drawn)
        return None

    layers = {row["layer"] for row in done.report["layers"]} if rows else set()
    drawn = {found["where"]: layer(found["where"]) for found in done.findings or () if found["where"] in layers}
    examples = {name: shot(name) for name in to_show(done.as_data()) if name in rows}
    examples |= {name: each for name, each in drawn.items() if each is not None}
    others = sorted(rows, key=lambda name: rows[name].get("confidence") or 0.0)
    first = [Shot("Mean maps: of all pictures, and of the most frequent classes", done.figure)] if done.maps else []
    return first + [shot(name) for name in others if name not in examples][:count], examples


def _maps(explainer: Explainer, feeding: Feeding, layer: str, source: Any) -> np.ndarray:
    """(K, h, w) the channels of a layer on a picture.

    Raises:
        InputError: they are no maps of two axes.
    """
    found = features(explainer, feeding.feed(source).feeds, layer)
    if layer not in found.drawable:
        raise InputError(f"{layer} has no maps of two axes")
    return found.planes(layer)


def _explained(explainer: Explainer, card: ModelCard, method: str, placement: Placed, source: Any) -> np.ndarray:
    """A picture and its map side by side; of a detector with its detections, and those when it is moved or smaller."""
    fed = card.feeds.feed(source)
    found = explainer.explain(fed.feeds, method, placement=placement)
    if not isinstance(found.task, Boxed):
        return several(maps_of(found, 0, fed, card.preprocess.channels), Drawing(), 1)
    task, explained = found.task, found.names[0] if found.names else ""

    def boxes(said: Sequence[Prediction]) -> list[Found]:
        return to_draw(task, said, explained, fed)

    drawn = [
        several(maps_of(found, 0, fed, card.preprocess.channels, "", boxes(found.predicted(card.labels))), Drawing(), 1)
    ]
    disturbed = Auditing(explainer, card.feeds, method, placement=placement).disturbed(fed)
    drawn += [draw_found(fed.image, boxes(said), title=words) for words, said in disturbed.items()]
    return stacked(drawn, across=True)


def audited(
    explainer: Explainer,
    card: ModelCard,
    samples: Sequence[Sample],
    method: str | None,
    probes: int,
    seed: int,
    provider: str,
    store: File | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
    placement: Placed = "effective",
    limits: Mapping[str, float] | None = None,
) -> Audit:
    """The audit with its findings and how it was run."""
    method = method or default_method(explainer, None)
    done = audit_pictures(explainer, card.feeds, samples, method, probes, seed, store, workers, progress, placement)
    content = rounded(done.report | ({"checks": checked(done.report, limits)} if limits else {}))
    return replace(
        done,
        report=content,
        findings=rounded(as_data(findings(content))),
        run=_run(explainer, card, provider) | {"seed": seed, "probes": probes},
        draw=lambda: mean_maps(done.maps, method, card.label),
    )


def audited_half(
    explainer: Explainer,
    card: ModelCard,
    samples: Sequence[Sample],
    provider: str,
    store: File | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Values that float16 cannot represent, with its findings and how it was run."""
    done = half_precision(explainer, card.feeds, samples, store, workers, progress)
    content = rounded(done.report)
    found = rounded(as_data(half_findings(content)))
    return replace(done, report=content, findings=found, run=_run(explainer, card, provider))


def _run(explainer: Explainer, card: ModelCard, provider: str) -> dict[str, Any]:
    return {"provider": provider, "ran on": ran_on(explainer.environment), "preprocessing": card.description}


def _many(options: dict[str, Any], preprocess: Preprocessing, level: str | None = None, **more: Any) -> Asked:
    """As for a command that goes through many pictures: each session has one thread unless `options` says otherwise."""
    options.setdefault("threads", 1)
    options.setdefault("level", level)
    return Asked.of(options, preprocess, **more)


def _paths(given: File | Sequence[File] | None) -> list[str]:
    """The files of one name, of several, or of none."""
    return [os.fspath(path) for path in ([given] if isinstance(given, str | os.PathLike) else given or ())]


def _annotated(
    samples: Sequence[Sample],
    boxes: File | Mapping[str, Any] | None,
    classes: File | Mapping[str, int | str] | None,
    column: str | None = None,
    masks: File | None = None,
) -> list[Sample]:
    """The samples with what is known of them."""
    if isinstance(classes, Mapping):
        named: Mapping[str, Any] = {Path(name).name: {"label": label} for name, label in classes.items()}
    else:
        named = read_classes(None if classes is None else os.fspath(classes), column)
    if isinstance(boxes, Mapping):
        placed: Mapping[str, Any] = {Path(name).name: true_boxes(entry) for name, entry in boxes.items()}
    else:
        placed = read_true_boxes(None if boxes is None else os.fspath(boxes))
    found = annotated(samples, placed, named, read_masks(None if masks is None else os.fspath(masks)))
    return as_said(found, str(classes), str(boxes), str(masks))
