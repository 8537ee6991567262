"""How a model is fed pictures and named: from flags and model cards to preprocessing, labels and task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.attribution import Model
    from analyzer.data import Sample
    from analyzer.graph import Graph, Value
    from analyzer.images import Feeding, ModelCard
    from analyzer.images.feeding import Given, PictureSlot, Slot
    from analyzer.tasks import Task


def read_card(
    model: Model,
    labels: str | None,
    flags: dict[str, Any],
    inputs: Sequence[str] | Mapping[str, Any] = (),
    explain_input: str | None = None,
) -> ModelCard:
    """How the model is fed, its labels, task and default layer: flags first, then TOML files, then its inputs.

    The model knows its task and labels from then on.

    Args:
        labels: file of class names.
        inputs: `NAME=FILE|VALUE` each, or {name: file, numbers or array}.
        explain_input: the input that is explained.

    Raises:
        InputError: an input is missing, unknown or given twice. UnsupportedError: no input takes a picture.
    """
    from analyzer.analysis.scores import input_quantisation
    from analyzer.graph.query import picture_inputs
    from analyzer.images import Feeding, model_card
    from analyzer.images.feeding import size_of
    from analyzer.tasks import Declared

    graph = model.plain
    given = _named(graph, inputs) if isinstance(inputs, Mapping) else _given(graph, inputs)
    slots = {i.name: _slot(i) for i in graph.inputs}
    pictures = {v.name: v for v in picture_inputs(graph)}
    sizes = tuple(s for n, s in slots.items() if n not in given and n not in pictures and size_of(s))
    main = _main(graph, slots, pictures, given, {s.name for s in sizes})
    shape, axes = _frame(graph, main)
    card_flags = flags | ({} if labels is None else {"labels_file": labels})
    if len(axes) == 5:
        card_flags["layout"] = axes.replace("D", "")
    about = model.loaded.path, card_flags, shape, main.dtype, input_quantisation(graph, main)
    card = model_card(*about)
    model.declared, model.labels = Declared.of(card), card.labels or model.names
    if card.is_guessed and (usual := customary(model)):
        card = model_card(*about, usual)
    if explain_input is not None and explain_input not in slots:
        raise _unknown(graph, explain_input)
    if explain_input is not None and explain_input != main.name and explain_input not in given:
        from analyzer.errors import InputError

        raise InputError(
            f"{graph.name}: the input {explain_input!r} is not given, so it cannot be explained",
            f"add --input {explain_input}=FILE",
        )
    feeding = Feeding(
        _picture_slot(slots[main.name], card, axes),
        {n: _value(graph, text, slots[n], pictures.get(n), flags) for n, text in given.items()},
        sizes,
        explain_input or main.name,
    )
    return replace(card, feeding=feeding, labels=card.labels or model.names)


def read_task(model: Model, labels: str | None) -> tuple[str, ...] | None:
    """The labels, for a command that reads no pictures; the model knows its task and labels from then on."""
    from analyzer.errors import UnsupportedError
    from analyzer.images import load_labels
    from analyzer.tasks import Declared

    try:
        card = picture_card(model)
    except UnsupportedError:  # no pictures: there is no card to read
        model.labels = load_labels(labels) if labels else model.names
    else:
        model.declared, model.labels = Declared.of(card), load_labels(labels) if labels else card.labels or model.names
    return model.labels


def default_method(model: Model, output: str | None) -> str:
    """The method by which the model is explained unless another is asked for; see `Task.method`."""
    task = _task(model, output)
    return "grad-cam" if task is None else task.method


def customary(model: Model) -> tuple[str, Mapping[str, Any]] | None:
    """Whose preprocessing is usual for what the model is recognised as, and its keys; None for nobody's."""
    if model.usual is not None:
        return model.usual
    task = _task(model)
    return task.usual if task is not None and task.usual[1] else None


def _task(model: Model, output: str | None = None) -> Task | None:
    """The model's task by its card and labels; None where it has none, which is said when a question is asked."""
    from analyzer.attribution.asked import task_of
    from analyzer.attribution.question import Question
    from analyzer.errors import AnalyzerError

    def found() -> Task | None:
        try:
            question = Question(output=output, declared=model.declared, labels=model.labels)
            return task_of(model, question, model.plain)
        except AnalyzerError:
            return None

    return model.remembered(("task", output, model.declared.key, tuple(model.labels or ())), found)


def picture_card(model: Model, flags: Mapping[str, Any] | None = None) -> ModelCard:
    """The card of a model's likeliest picture input, whatever its other inputs are.

    Raises:
        UnsupportedError: no input is one.
    """
    from analyzer.errors import UnsupportedError
    from analyzer.graph.query import image_input
    from analyzer.images import model_card

    image = image_input(model.plain)
    if image.shape is not None and len(image.shape) not in (3, 4, 5):
        raise UnsupportedError(f"{model.plain.name}: no input is a picture", "")
    shape, _ = _frame(model.plain, image)
    return model_card(model.loaded.path, flags, shape, image.dtype)


def _given(graph: Graph, inputs: Sequence[str]) -> dict[str, str]:
    """{input: what it is given} from NAME=FILE|VALUE."""
    from analyzer.errors import InputError

    found: dict[str, str] = {}
    for text in inputs:
        names = sorted((i.name for i in graph.inputs if text.startswith(f"{i.name}=")), key=len)
        name = names[-1] if names else text.partition("=")[0]
        if "=" not in text:
            raise InputError(f"--input {text!r} is not NAME=FILE or NAME=VALUE", "for example: --input depth=depth.png")
        if not names:
            raise _unknown(graph, name)
        if name in found:
            raise InputError(f"--input {name} is given twice")
        found[name] = text[len(name) + 1 :]
        if not found[name]:
            raise InputError(f"--input {text} has no value", f"write --input {name}=FILE or {name}=0,0,0")
    return found


def _named(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same in Python: {input: what it is given}."""
    names = {i.name for i in graph.inputs}
    for name in inputs:
        if name not in names:
            raise _unknown(graph, name)
    return {name: os.fspath(given) if isinstance(given, os.PathLike) else given for name, given in inputs.items()}


def _unknown(graph: Graph, name: str) -> Exception:
    from analyzer.errors import InputError, suggest

    names = [i.name for i in graph.inputs]
    listed = ", ".join(map(repr, names))
    return InputError(f"{graph.name} has no input {name!r}; its inputs are {listed}", suggest(name, names))


def _main(
    graph: Graph, slots: dict[str, Slot], pictures: dict[str, Value], given: Mapping[str, Any], sizes: set[str]
) -> Value:
    """The input that the picture goes to."""
    from analyzer.errors import InputError, UnsupportedError

    if not pictures:
        listed = ", ".join(slot.text for slot in slots.values())
        raise UnsupportedError(
            f"{graph.name}: no input is a batch of pictures: {listed}",
            "pictures need an input of four or five axes, such as [N, 3, H, W]; for others, use the Python API",
        )
    free = [name for name in pictures if name not in given]
    missing = [name for name in slots if name not in given and name not in pictures and name not in sizes]
    if not free:
        named = " ".join(f"--input {name}=…" for name in pictures)
        raise InputError(
            f"{graph.name}: all picture inputs are given ({named}), so none is left for the picture",
            f"omit --input {next(iter(pictures))}=… and give its picture alone",
        )
    if len(free) > 1 or missing:
        wanted = [f"--input {name}=FILE" for name in free[1:]]
        wanted += [f"--input {name}={_example(slots[name])}" for name in missing]
        listed = "; ".join(slots[name].text for name in [*free[1:], *missing])
        kinds = f"the picture goes to {free[0]!r}" if len(free) == 1 else f"the picture would go to {free[0]!r}"
        raise InputError(f"{graph.name} needs more inputs: {listed} ({kinds})", f"add {' '.join(wanted)}")
    return pictures[free[0]]


def _example(slot: Slot) -> str:
    import math

    count = math.prod(d if isinstance(d, int) and d > 0 else 1 for d in slot.shape)
    return ",".join(["0"] * count) if count <= 8 else "FILE.npy"


def _slot(value: Value) -> Slot:
    from analyzer.images.feeding import Slot

    return Slot(value.name, tuple(value.shape or ()), str(value.dtype))


def _frame(graph: Graph, value: Value) -> tuple[list[Any] | None, str]:
    """(the shape of one frame with its batch, the letters of the axes) of a picture input."""
    from analyzer.graph.query import image_layout

    if value.shape is None:
        return None, "NCHW"
    axes = image_layout(graph, value)
    return [d for a, d in enumerate(value.shape) if len(value.shape) != 5 or axes[a] != "D"], axes


def _picture_slot(slot: Slot, card: ModelCard, axes: str) -> PictureSlot:
    from analyzer.images.feeding import PictureSlot

    return PictureSlot(slot, card.preprocess, axes if len(axes) == 5 else card.preprocess.layout)


def _value(graph: Graph, given: Any, slot: Slot, picture: Value | None, flags: dict[str, Any]) -> Given | Any:
    """What an input is given; a picture is prepared by the flags that fit it."""
    from analyzer.errors import InputError
    from analyzer.files import protect
    from analyzer.images import model_card
    from analyzer.images.feeding import read_value

    if isinstance(given, str) and Path(given).exists():
        protect(given)
    if picture is None:
        return read_value(given, slot, None)
    shape, axes = _frame(graph, picture)
    wanted = {k: v for k, v in flags.items() if k not in ("channels", "layout", "size") and v is not None}
    if len(axes) == 5:
        wanted["layout"] = axes.replace("D", "")
    try:
        card = model_card(None, wanted, shape, picture.dtype)
    except InputError:  # means of three channels for one of depth
        card = model_card(
            None, {k: v for k, v in wanted.items() if k in ("resize", "white", "layout")}, shape, picture.dtype
        )
    return read_value(given, slot, _picture_slot(slot, card, axes))


def opened(
    samples: Sequence[Sample], sources: Sequence[str], feeding: Feeding, every: int = 1
) -> tuple[list[Sample], list[str]]:
    """(what the model is given, one at a time; the names of the sources it is from).

    Videos are opened frame by frame, and arrays that hold a batch row by row. A model of clips or volumes takes a
    folder of pictures, or all pictures that are named, as one.

    Args:
        every: use every Nth frame of a video.
    """
    found = _as_clips(samples, sources) if feeding.main.stacked else _one_by_one(samples, feeding, every)
    if [sample.source for sample in found] == [sample.source for sample in samples]:
        return list(samples), list(sources)
    renumbered = [replace(sample, number=number) for number, sample in enumerate(found)]
    whole = len(found) == 1 and feeding.main.stacked
    return renumbered, [found[0].id] if whole else list(sources)


def _one_by_one(samples: Sequence[Sample], feeding: Feeding, every: int) -> list[Sample]:
    from analyzer.images.read import is_array, read_array
    from analyzer.images.sources import Frame, Row
    from analyzer.images.video import is_video, video

    found = []
    for sample in samples:
        path = sample.source
        if is_video(path):
            frames = range(0, video(path).count(), every)
            found += [replace(sample, id=f"{sample.id}:{at}", source=Frame(path, at)) for at in frames]
        elif isinstance(path, Path) and path.is_file() and is_array(path):
            array = read_array(path)
            rows = len(array) if feeding.main.slot.fits(array) else 1
            if rows > 1:
                found += [replace(sample, id=f"{sample.id}:{at}", source=Row(path, at)) for at in range(rows)]
            else:
                found.append(sample)
        else:
            found.append(sample)
    return found


def _as_clips(samples: Sequence[Sample], sources: Sequence[str]) -> list[Sample]:
    from analyzer.images.bands import page_count
    from analyzer.images.read import is_array
    from analyzer.images.sources import Together
    from analyzer.images.video import is_video

    def whole(sample: Sample) -> bool:
        """Whether a file is a clip or volume by itself."""
        path = sample.source
        if is_array(path) or is_video(path):
            return True
        if isinstance(path, Path) and path.is_file() and path.suffix.lower() in (".tif", ".tiff"):
            return page_count(path.read_bytes()) > 1
        return False

    folders = [Path(source) for source in sources if Path(source).is_dir()]
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        folder = next((f for f in folders if isinstance(sample.source, Path) and f in sample.source.parents), None)
        groups.setdefault(sample.id if whole(sample) else str(folder or ""), []).append(sample)
    found = []
    for name, group in groups.items():
        if len(group) == 1:
            found += group
        else:
            parts = tuple(sample.source for sample in group)
            found.append(replace(group[0], id=name or group[0].id, source=Together(parts)))
    return found


def first_shapes(samples: Sequence[Sample], feedings: Sequence[Feeding]) -> list[dict[str, tuple[int, ...]]]:
    """{input: shape} that each side makes of the first picture that can be read.

    Raises:
        InputError: none can be.
    """
    from analyzer.errors import InputError

    for number, sample in enumerate(samples):
        try:
            fed = [feeding.feed(sample.source).feeds for feeding in feedings]
        except InputError:
            if number + 1 == len(samples):
                raise
            continue
        return [{name: array.shape for name, array in feeds.items()} for feeds in fed]
    raise InputError("no pictures given", "add a folder of pictures with --data FOLDER")
