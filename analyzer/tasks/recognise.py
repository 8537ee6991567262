"""Which task a model has: by its card where that says so, else by the shape, the producers and the name of its outputs.

The order of `_GUESSES` is the order in which kinds are tried for an output; the outputs are ranked by what they seem to
be, so that a class head comes before boxes or values whatever their order in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import SQUASHING, Quantisation, holds_floats, logits, quantisation
from analyzer.errors import InputError, NotFoundError, UnsupportedError, suggest
from analyzer.gradient.reverse import is_float
from analyzer.graph import Graph, Node, Value, loose
from analyzer.graph.nodes import known_shape
from analyzer.graph.query import image_input
from analyzer.graph.through import is_transparent, producer
from analyzer.images import ModelCard
from analyzer.tasks.base import Labels, Role, Task, quoted
from analyzer.tasks.classification import Binary, Classification, MultiLabel
from analyzer.tasks.dense import Dense
from analyzer.tasks.detection import Detection
from analyzer.tasks.detection.families import recognised
from analyzer.tasks.detection.text_formats import text_map
from analyzer.tasks.detection.text_maps import TextMap
from analyzer.tasks.detection.view import GridAnchors, Run, View
from analyzer.tasks.embedding import Embedding
from analyzer.tasks.keypoints import Keypoints, Landmarks, found_in
from analyzer.tasks.raw import Raw
from analyzer.tasks.regression import Regression
from analyzer.tasks.segmentation import Mask, Segmentation, background_of
from analyzer.tasks.text import Text

# What `task` in a card may be, and the classes that it can mean: which of them, the output's shape tells.
KINDS: dict[str, tuple[type[Task], ...]] = {
    "classification": (Classification, Binary),
    "multi-label classification": (MultiLabel, Binary),
    "binary classification": (Binary, Classification),
    "segmentation": (Segmentation, Mask),
    "text recognition": (Text,),
    "embedding": (Embedding,),
    "regression": (Regression,),
    "dense prediction": (Dense,),
    "detection": (Detection, TextMap),
    "keypoints": (Keypoints, Landmarks),
    "raw": (Raw,),
}
_ALSO = {  # other words for them
    "semantic segmentation": "segmentation",
    "matting": "segmentation",
    "ocr": "text recognition",
    "text": "text recognition",
    "depth": "dense prediction",
    "depth estimation": "dense prediction",
    "restoration": "dense prediction",
    "super-resolution": "dense prediction",
    "heatmap": "dense prediction",
    "object detection": "detection",
    "pose": "keypoints",
    "multi-label": "multi-label classification",
    "multilabel": "multi-label classification",
    "binary": "binary classification",
    "image classification": "classification",
    "face recognition": "embedding",
    "re-identification": "embedding",
}
DECODERS = ("ctc", "ctc-blank-first", "ctc-blank-last", "per-position")


@dataclass(frozen=True)
class Declared:
    """What a card says of the task; it wins over guesses.

    Attributes:
        task: a name of `KINDS` or `_ALSO`; None if it is not said.
        outputs: {output: role}; the output whose role is "main" is explained.
        decode: how text is decoded, one of `DECODERS`, or the format of a detector.
        score_threshold, iou_threshold: of detections; None for those of the format.
        anchors, strides, variances: of a detector, as in `ModelCard`.
    """

    task: str | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    decode: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides: tuple[int, ...] = ()
    variances: tuple[float, float] | None = None

    @classmethod
    def of(cls, card: ModelCard) -> Declared:
        """What a model's card says."""
        return cls(
            card.task, card.outputs, card.decode, card.score_threshold, card.iou_threshold,
            card.anchors, card.strides, card.variances,
        )  # fmt: skip

    @property
    def key(self) -> tuple[Any, ...]:
        """All of it."""
        return (
            self.task, tuple(self.outputs.items()), self.decode, self.score_threshold, self.iou_threshold,
            self.anchors, self.strides, self.variances,
        )  # fmt: skip

    @property
    def grid_anchors(self) -> GridAnchors | None:
        """The anchors of a detector; None if none are given.

        Raises:
            InputError: there are not as many strides as levels of anchors.
        """
        if self.strides and len(self.strides) != len(self.anchors):
            raise InputError(
                f"the model's TOML file has {len(self.strides)} strides and anchors of {len(self.anchors)} levels",
                "give a stride and a list of anchors for each level",
            )
        return GridAnchors(self.anchors, self.strides, self.variances) if self.anchors else None

    @property
    def kind(self) -> str | None:
        """The name in `KINDS`.

        Raises:
            InputError: there is none.
        """
        if self.task is None:
            return None
        name = self.task.strip().lower().replace("_", " ")
        name = _ALSO.get(name, name)
        if name not in KINDS:
            hint = suggest(name, [*KINDS, *_ALSO]) or f"known tasks are {', '.join(KINDS)}"
            raise InputError(f"the task {self.task!r} of the model's TOML file is not known", hint)
        return name


NOTHING = Declared()


def recognise(
    graph: Graph,
    output: str | None = None,
    declared: Declared = NOTHING,
    labels: Labels = None,
    finds: bool = True,
    run: Run | None = None,
) -> Task:
    """The task of a model: that of the output named, else of the one that looks most like an answer.

    Args:
        labels: the names of the classes, which tell a background from a class.
        finds: whether outputs that are read together, as a detector's, are; otherwise each is seen by itself.
        run: what the model gives for an example input, by names of outputs, for what its structure does not tell.

    Raises:
        NotFoundError: no such output. UnsupportedError: no output can be explained, since none depends on
            floating-point numbers.
    """
    names = [v.name for v in graph.outputs]
    main = output or next((n for n, role in declared.outputs.items() if role == "main"), None)
    if main is not None and main not in graph.values:
        raise NotFoundError(
            f"{graph.name} has no output {main!r}", suggest(main, names) or f"it has {', '.join(names)}"
        )
    kind = declared.kind
    if not finds:
        kind = None if kind in ("detection", "keypoints") else kind
    else:
        finding = {
            "detection": lambda: _detection(graph, main, declared, labels, run),
            "keypoints": lambda: _keypoints(graph, main, declared),
        }
        for name, read in finding.items():
            together = read() if kind in (None, name) else None
            if together is not None:
                return together
        if kind in finding:
            raise InputError(
                f"{graph.name}: the format of its {kind.rstrip('s')} outputs was not recognized",
                'change "task" in the model\'s TOML file, and explain an expression',
            )
    chosen = [graph[main]] if main is not None else list(graph.outputs)
    views = [_View(graph, value) for value in chosen]
    usable = [v for v in views if is_float(v.logits) and v.logits.dtype is not None]
    if not usable:
        text = ", ".join(f"{v.output.name!r} ({v.output.dtype})" for v in views)
        raise UnsupportedError(
            f"{graph.name}: no output is a differentiable score: {text}", "use a floating-point tensor as the target"
        )
    found = [view.declared(kind) if kind else view.guessed(labels) for view in usable]
    best = min(range(len(found)), key=lambda i: _rank(found[i], usable[i]))
    task, view = found[best], usable[best]
    if isinstance(task, Segmentation):
        one = isinstance(task, Mask)
        task = replace(task, background=0 if one else background_of(labels), certain=one or labels is not None)
    if isinstance(task, Text):
        task = replace(task, blank=_blank(task, declared.decode, labels))
    others = {v.name: v for v in graph.outputs if v.name != view.output.name}
    return replace(
        task, others=tuple(_role_of(graph, value, declared, bool(task.stripped)) for value in others.values())
    )


def _detection(
    graph: Graph, main: str | None, declared: Declared, labels: Labels, run: Run | None
) -> Detection | TextMap | None:
    """The detector that the outputs are of, if they are of one."""
    text = text_map(graph, main, declared.decode if declared.kind else None)
    if text is not None:
        beside = [v for v in graph.outputs if v.name != text.output.name]
        roles = tuple(_role_of(graph, v, declared, bool(text.stripped)) for v in beside)
        return replace(text, others=roles, threshold_=declared.score_threshold)
    count = len(labels) if labels is not None else None
    found = recognised(View(graph, count, declared.decode, run, declared.grid_anchors))
    if found is None or (main is not None and main not in found[0].outputs):
        return None
    decoder, evidence = found
    names = list(decoder.outputs)
    own = graph[decoder.levels[0].scores.output]
    beside = [v for v in graph.outputs if v.name not in names]
    others = tuple(Role(v.name, _role_of(graph, v, declared, False).role) for v in beside)
    known = tuple((name, quantisation(graph, graph[name])) for name in names)
    return Detection(
        own,
        own,
        batched=decoder.levels[0].scores.batched,
        evidence=evidence,
        others=others,
        decoder=decoder,
        quantisations=known,
        threshold_=declared.score_threshold,
        iou_=declared.iou_threshold,
    )


def _keypoints(graph: Graph, main: str | None, declared: Declared) -> Keypoints | None:
    """The keypoints that the outputs are of, if they are of any."""
    found = found_in(graph, main, declared.kind == "keypoints")
    if found is None:
        return None
    others = {v.name: v for v in graph.outputs if v.name not in found.reading}
    roles = tuple(_role_of(graph, value, declared, bool(found.stripped)) for value in others.values())
    return replace(found, others=roles, threshold_=declared.score_threshold)


def _role_of(graph: Graph, value: Value, declared: Declared, squashed: bool) -> Role:
    """What another output seems to hold.

    Args:
        squashed: whether the chosen output ends with a squashing function, as scores do, and values do not.
    """
    view, told = _View(graph, value), declared.outputs.get(value.name)
    if not is_float(view.logits) or view.logits.dtype is None:
        return Role(value.name, told or f"{value.dtype} numbers")
    task = view.guessed(None)
    if squashed and isinstance(task, Classification) and not task.stripped:
        task = view.made(Regression, "beside an output with a squashing function")
    row = isinstance(task, Classification | Regression) and not view.looks
    return Role(value.name, told or view.looks or task.role, task if row else None)


def task_from(data: Mapping[str, Any]) -> Task:
    """The task that `Task.as_data` gave; its tensors are of no graph."""
    known: dict[str, type[Task]] = {c.__name__: c for kinds in KINDS.values() for c in kinds}
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    kind = known[kept.pop("class")]
    for name in ("output", "logits"):
        tensor, shape, dtype = data[name]
        kept[name] = loose(tensor, shape)
        kept[name].dtype = None if dtype == "None" else int(dtype) if dtype.isdigit() else np.dtype(dtype)
    kept["others"] = tuple(
        Role(output, role, task_from(task) if task else None) for output, role, task in data["others"]
    )
    kept["quantisation"] = Quantisation(*data["quantisation"])
    return kind(**kind.restored(kept))


_PREFERRED = (Classification, Segmentation, Text, Embedding, Regression, Dense, Raw)


def _rank(task: Task, view: _View) -> tuple[int, int, int, int]:
    """Lower is more like an answer: no boxes, a better known kind, an output that ends with a squashing function."""
    kind = next(i for i, k in enumerate(_PREFERRED) if isinstance(task, k))
    return int(bool(view.looks)), kind, int("ArgMax" in task.stripped), int(not task.stripped)


def _blank(task: Text, decode: str | None, labels: Labels) -> int | None:
    """The class that stands for no character: the first, unless the card says that it is the last or that none is."""
    last = (task.classes or 0) - 1
    if decode is not None and decode not in DECODERS:
        raise InputError(f"decode is {decode!r}, must be one of {', '.join(DECODERS)}", suggest(decode, DECODERS))
    if decode is None and labels is not None and len(labels) == task.classes:
        named = [i for i, name in enumerate(labels) if name.strip().lower() in ("blank", "<blank>", "[blank]", "<pad>")]
        return named[0] if named else 0
    return {"ctc-blank-last": last, "per-position": None}.get(decode or "ctc", 0)


# ---- One output ----

_BOXES = re.compile(r"(^|[^a-z])(b?box(es)?|loc(ation)?s?|rects?|dets?|anchors?|offsets?|reg(ression)?)([^a-z]|$)")
_POINTS = re.compile(r"(^|[^a-z])(land(mark)?s?|landms|ldmks?|kps|key_?points?|joints?)([^a-z]|$)")
_VALUES = re.compile(
    r"(^|[^a-z])(age|depth|distance|angles?|yaw|pitch|roll|gaze|pose|count|price|weight|height|bmi|steering|speed|"
    r"quality|regression|value|mos|latitude|longitude)([^a-z]|$)"
)
_EMBEDDINGS = re.compile(r"(embed|feature|feat([^a-z]|$)|descriptor|reid|(^|[^a-z])emb([^a-z]|$))")
_MASKS = re.compile(r"(mask|seg|alpha|matte|logit|class|label|prob)")
_SCORES = re.compile(r"(score|logit|class|cls|label|prob|conf)")
_MAPS = re.compile(r"(depth|disp|flow|normal|heat|sr([^a-z]|$)|denois|restor|image|pic|rgb)")
_LINES = re.compile(r"(text|ctc|ocr|(^|[^a-z])rec([^a-z]|$)|char|plate|word)")
_LINEAR = ("Gemm", "MatMul", "Conv", "QGemm", "QLinearMatMul", "QLinearConv", "FusedConv", "FusedGemm", "FusedMatMul")
_PASSED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_RECURRENT = ("LSTM", "GRU", "RNN")
_WIDEST = 400  # steps of a line of text


@dataclass(frozen=True)
class _View:
    """An output, looked at."""

    graph: Graph
    output: Value

    # ---- What leads to it ----

    @cached_property
    def _found(self) -> tuple[Value, tuple[str, ...]]:
        """(the floating-point scores, the operators removed): an ArgMax is looked through."""
        found = logits(self.graph, self.output)
        if holds_floats(found.value):
            return found.value, found.stripped
        node = self._argmax
        if node is None:
            return found.value, found.stripped
        inner = logits(self.graph, node.inputs[0])
        return inner.value, ("ArgMax", *inner.stripped)

    @cached_property
    def _argmax(self) -> Node | None:
        """The ArgMax that the output repeats."""
        value = self.output
        while (node := self.graph.producer(value)) is not None:
            if node.op == "ArgMax" and not node.domain:
                return node
            if not is_transparent(node, _PASSED):
                return None
            value = node.inputs[0]
        return None

    @property
    def logits(self) -> Value:
        return self._found[0]

    @property
    def stripped(self) -> tuple[str, ...]:
        return self._found[1]

    @cached_property
    def shape(self) -> list[Any]:
        return list(known_shape(self.logits)) if self.logits.shape is not None else []

    @cached_property
    def layout(self) -> Layout | None:
        """The axes of the logits, where they are a map: channels over space of which not all sizes are 1."""
        if not self._keeps_axes:
            return None
        found = layouts(self.graph).get(self.logits.name)
        if found is None and len(self.shape) == 4 and self._as_fine_as_picture:
            found = Layout.of("NCHW", self.shape)
        if found is None or not found.is_map or "L" in found.axes or len(found.axes) != len(self.shape):
            return None
        return None if len(found.spatial) < 2 or all(self.shape[a] == 1 for a in found.spatial) else found

    @property
    def _keeps_axes(self) -> bool:
        """Whether the output has the grid of the logits, or the classes and a row of positions."""
        shown = self.output.shape
        if shown is None or "ArgMax" in self.stripped:
            return True
        if len(shown) != len(self.shape):
            return len(shown) == 3 and len(self.shape) > 3 and shown[1] == self.shape[1]
        pairs = zip(shown, self.shape, strict=True)
        return all(a == b or not isinstance(a, int) or not isinstance(b, int) for a, b in pairs)

    @property
    def _as_fine_as_picture(self) -> bool:
        """Whether this is (N, 1 or 3, H, W) of the picture's sides or multiples of them."""
        sides = (image_input(self.graph).shape or [])[-2:]
        pairs = zip(self.shape[-2:], sides, strict=False)
        return (
            self.shape[1] in (1, 3)
            and len(sides) == 2
            and all(isinstance(a, int) and isinstance(b, int) and a >= b > 4 and a % b == 0 for a, b in pairs)
        )

    @cached_property
    def batched(self) -> bool:
        inputs, shape = self.graph.inputs, self.logits.shape
        batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
        return shape is None or (len(shape) > 1 and (shape[0] == batch or not isinstance(shape[0], int)))

    @property
    def wide(self) -> list[Any]:
        """The sizes of the axes besides the batch that are not 1."""
        return [d for i, d in enumerate(self.shape) if d != 1 and (i or not self.batched)]

    @property
    def name(self) -> str:
        """The output's name as words."""
        return re.sub(r"([a-z])([A-Z])", r"\1_\2", self.output.name).lower()

    @cached_property
    def looks(self) -> str:
        """Boxes or points, by the name and the size of an output without a squashing function; else ""."""
        if self.stripped:
            return ""
        last = self.wide[-1] if self.wide else 1
        if _POINTS.search(self.name):
            return "points"
        if _BOXES.search(self.name):
            return "boxes"
        if last != 4 or len(self.shape) not in (2, 3, 4) or _SCORES.search(self.name):
            return ""
        others = [_View(self.graph, v) for v in self.graph.outputs if v.name != self.output.name]
        return "boxes" if any(v.stripped or _SCORES.search(v.name) for v in others) else ""

    @cached_property
    def last(self) -> Node | None:
        """The node that computes the logits, reshaping and adding of biases looked through."""
        value = self.logits
        while (node := self.graph.producer(value)) is not None:
            bias = node.op == "Add" and not node.domain and any(self.graph.constant(i) is not None for i in node.inputs)
            if not bias and not is_transparent(node, _PASSED):
                return node
            value = next((i for i in node.inputs if self.graph.constant(i) is None), node.inputs[0])
        return None

    @cached_property
    def normalised(self) -> Value | None:
        """The vector before its division by its length; None where it is not divided."""
        node = self.graph.producer(self.output)
        while node is not None and is_transparent(node, _PASSED):
            node = self.graph.producer(node.inputs[0])
        if node is None or node.domain:
            return None
        if node.op == "LpNormalization":
            return node.inputs[0]
        if node.op not in ("Div", "Mul") or len(node.inputs) != 2:
            return None
        for vector, length in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else (node.inputs,):
            if self._is_length(length, vector):
                return vector
        return None

    def _is_length(self, value: Value, vector: Value) -> bool:
        """Whether `value` is the length of `vector` (or its reciprocal), perhaps kept from 0."""
        waiting, norm = [value], False
        for _ in range(12):
            if not waiting:
                break
            current = waiting.pop()
            if current.name == vector.name:
                return norm
            node = self.graph.producer(current)
            if node is None:
                continue
            norm = norm or node.op in ("ReduceL2", "ReduceSumSquare", "ReduceSum")
            known = ("ReduceL2", "ReduceSumSquare", "ReduceSum", "Sqrt", "Pow", "Mul", "Clip", "Max", "Add", "Abs",
                     "Expand", "Reciprocal", "Div", "Cast", "Unsqueeze", "Reshape", "Where", "Identity")  # fmt: skip
            if node.op in known:
                waiting += [i for i in node.inputs if i.name and self.graph.constant(i) is None]
        return norm and any(current.name == vector.name for current in waiting)

    # ---- As a task ----

    def made(self, kind: type[Task], evidence: str, **more: Any) -> Task:
        layout = self.layout
        space = layout.spatial if layout is not None and issubclass(kind, Segmentation | Dense) else ()
        if issubclass(kind, Segmentation | Dense):
            more.setdefault("channel", layout.channel if layout is not None else None)
        more["quantisation"] = quantisation(self.graph, self.output)
        return kind(self.output, self.logits, self.stripped, self.batched, space, evidence, **more)

    def declared(self, kind: str) -> Task:
        """The task of that kind.

        Raises:
            InputError: the output cannot be that.
        """
        why = "declared in the model's TOML file"
        for known in KINDS[kind]:
            if known is Text and len(self.shape) >= 2:
                return self._text(why)
            if known is Embedding:
                return self._embedding(why)
            if known in (Segmentation, Mask):
                if self.layout is not None and (known is Mask) == (self.shape[self.layout.channel] == 1):
                    return self.made(known, why)
            elif known is Dense:
                return self.made(Dense, why)
            elif known is Binary:
                if not self.wide:
                    return self.made(Binary, why)
            elif known is not Text and (self.wide or known not in (Classification, MultiLabel)):
                return self.made(known, why)
        raise InputError(
            f"output {self.output.name!r} of shape {self.shape} cannot be {kind}, as the model's TOML file says",
            'name the output with --output, or change "task"',
        )

    def guessed(self, labels: Labels) -> Task:
        """The first kind that fits."""
        for guess in _GUESSES:
            task = guess(self, labels)
            if task is not None:
                return task
        if self._of_candidates:
            return self.made(Raw, "it has scores of a detector's candidates")
        return self.made(Raw, f"{len(self.wide)} axes besides the batch")

    def map(self, labels: Labels) -> Task | None:
        """A segmenter or a dense prediction."""
        layout = self.layout
        if layout is None or self.looks:
            return None
        channels = self.shape[layout.channel]
        grid = [self.shape[a] for a in layout.spatial]
        what = f"{quoted(self.output.name)} is a map {layout.axes} of {channels} channels"
        if "ArgMax" in self.stripped:
            return self.made(Segmentation, f"{what} with an ArgMax over them")
        if channels == 1:
            if "Sigmoid" in self.stripped or (_MASKS.search(self.name) and not _MAPS.search(self.name)):
                return self.made(Mask, f"{what}, {'after a Sigmoid' if self.stripped else 'named as a mask'}")
            return self.made(Dense, what) if self._upsampled(grid) else None
        if self._joins_scores:
            return None
        if any("Softmax" in s for s in self.stripped) and self._softmax_axis in (None, layout.channel):
            return self.made(Segmentation, f"{what} with a Softmax over them")
        if not self._upsampled(grid) or (len(self.graph.outputs) > 1 and not _MASKS.search(self.name)):
            return None
        after = self.last
        ends = after.op if after is not None else ""
        picture = channels == 3 and not _MASKS.search(self.name) and ends != "Resize"
        if _MAPS.search(self.name) or picture or ends in ("Relu", "Tanh", "Clip", "DepthToSpace", "Mul"):
            return self.made(Dense, what)
        return self.made(Segmentation, f"{what} as fine as the picture")

    @property
    def _joins_scores(self) -> bool:
        """Whether probabilities and other numbers are joined, as a detector joins scores and boxes."""
        node = self.last
        if node is None or node.op != "Concat":
            return False
        ends = [producer(i) for i in node.inputs]
        return len({end is not None and end.op in SQUASHING for end in ends}) == 2

    @property
    def _softmax_axis(self) -> int | None:
        """The axis of the Softmax that was removed, in terms of the logits; None where it is not known."""
        readers = [n for n in self.logits.outputs if n.op in ("Softmax", "LogSoftmax")]
        return int(readers[0].attrs.get("axis", -1)) % max(len(self.shape), 1) if readers else None

    def _upsampled(self, grid: Sequence[Any]) -> bool:
        """Whether a map is about as fine as the picture, or was made finer; a detector's grids are not."""
        image = image_input(self.graph).shape or []
        sides = [d for d in image[1:] if isinstance(d, int) and d > 4]
        sizes = [d for d in grid if isinstance(d, int)]
        if sides and sizes:
            return max(sizes) * 4 >= max(sides)
        finer = ("Resize", "Upsample", "ConvTranspose", "DepthToSpace")
        value = self.logits
        for _ in range(24):
            node = self.graph.producer(value)
            if node is None:
                return False
            if node.op in finer:
                return True
            value = next((i for i in node.inputs if i.name and self.graph.constant(i) is None), node.inputs[0])
        return False

    def text(self, labels: Labels) -> Task | None:
        """Characters along a line."""
        shape = self.shape
        if len(shape) not in (2, 3) or (self.layout is not None and len(shape) == 4):
            return None
        if len(shape) == 2 and (self.batched or "ArgMax" not in self.stripped):
            return None
        if len(self.wide) < 2 or len(self.graph.outputs) > 2:
            return None
        steps, classes = self._steps, shape[-1]
        many = isinstance(shape[steps], int) and shape[steps] > _WIDEST
        if many or (isinstance(classes, int) and classes < 3):
            return None
        image = image_input(self.graph).shape or []
        sides = [d for d in image[1:] if not isinstance(d, int) or d > 4]
        line = len(sides) == 2 and (
            not isinstance(sides[1], int) or (isinstance(sides[0], int) and sides[1] >= 2 * sides[0])
        )
        squashed = any("Softmax" in s for s in self.stripped) or "ArgMax" in self.stripped
        recurrent = any(n.op in _RECURRENT for n in self.graph.forward_nodes())
        named = bool(_LINES.search(self.name))
        reasons = [
            (recurrent, "after a recurrent layer"),
            (named, "named as text"),
            (squashed and line, "along a wide picture, with a maximum or Softmax over the classes"),
            (line and not self.looks and self._softmax_axis is None and isinstance(classes, int) and classes > 9
             and not self.stripped and isinstance(sides[0], int) and sides[0] <= 96, "along a wide picture"),
        ]  # fmt: skip
        for holds, why in reasons:
            if holds:
                return self._text(f"{quoted(self.output.name)} has scores of {classes} characters per step, {why}")
        return None

    @property
    def _steps(self) -> int:
        """The axis of the steps: 0 in (T, N, C) and (T, C), 1 in (N, T, C)."""
        if len(self.shape) == 2:
            return 0
        batch = (image_input(self.graph).shape or [None])[0]
        first, second = self.shape[0], self.shape[1]
        return 0 if (second == 1 and first != 1) or (second == batch and first != batch) else 1

    def _text(self, evidence: str) -> Task:
        return replace(self.made(Text, evidence, steps=self._steps), batched=self._steps == 1)

    def vector(self, labels: Labels) -> Task | None:
        """An embedding."""
        if len(self.wide) != 1 or self.stripped or self.looks or self._of_candidates:
            return None
        size = self.wide[0]
        if self.normalised is not None:
            return self._embedding(f"{quoted(self.output.name)} is a vector divided by its length")
        if labels is not None and len(labels) == size:
            return None
        if not isinstance(size, int) or size < 32:
            return None
        if _EMBEDDINGS.search(self.name):
            return self._embedding(f"{quoted(self.output.name)} is a vector named as an embedding")
        if size in (128, 256, 512):
            return self._embedding(f"{quoted(self.output.name)} is a vector of {size} numbers without a Softmax")
        node = self.last
        if size % 64 == 0 and node is not None and node.op not in _LINEAR:
            return self._embedding(f"{quoted(self.output.name)} is a vector of {size} features: it ends with {node.op}")
        return None

    def _embedding(self, evidence: str) -> Task:
        inner = self.normalised
        task = self.made(Embedding, evidence)
        return replace(task, logits=inner, stripped=("LpNormalization",)) if inner is not None else task

    def number(self, labels: Labels) -> Task | None:
        """One number, or values."""
        if self.layout is not None or len(self.wide) > 1 or self._of_candidates:
            return None
        what = quoted(self.output.name)
        named = bool(_VALUES.search(self.name))
        if self.wide:
            if self.looks or (named and not self.stripped):
                return self.made(Regression, f"{what} is named as {self.looks or 'values'}")
            return None
        if any("Sigmoid" in s for s in self.stripped):
            return self.made(Binary, f"{what} is one number after a Sigmoid")
        if self.stripped or (labels is not None and len(labels) == 2):
            return self.made(Binary, f"{what} is one number")
        if named or self.looks:
            return self.made(Regression, f"{what} is one number named as a value")
        node = self.last
        if node is not None and node.op not in _LINEAR and node.op not in ("GlobalAveragePool", "ReduceMean"):
            return self.made(Regression, f"{what} is one number that ends with {node.op}, not with a linear layer")
        return self.made(
            Binary, f'{what} is one number from a linear layer, assumed to be a logit; write task = "regression" if not'
        )

    @cached_property
    def _of_candidates(self) -> bool:
        """Whether these are the scores of a detector's candidates: rows that are no pictures, or boxes beside them."""
        if len(self.shape) > 1 and not self.batched and self.shape[0] != 1:
            return True
        others = [_View(self.graph, v) for v in self.graph.outputs if v.name != self.output.name]
        rows = len(self.shape) == 1
        return any(v.looks and (rows or len(v.wide) > 1) and v.layout is None for v in others) or (
            len(self.shape) == 3 and self.shape[2] == 1 and len(others) > 1
        )

    def classes(self, labels: Labels) -> Task | None:
        """A score per class."""
        if len(self.wide) != 1 or self.layout is not None or self._of_candidates:
            return None
        what = f"{quoted(self.output.name)} has {self.wide[0] if isinstance(self.wide[0], int) else 'several'} scores"
        if any("Sigmoid" in s for s in self.stripped):
            return self.made(MultiLabel, f"{what}, each after a Sigmoid")
        ending = f" after {self.stripped[0]}" if self.stripped else ""
        return self.made(Classification, f"{what}{ending}")


_GUESSES: tuple[Callable[[_View, Labels], Task | None], ...] = (
    _View.map,
    _View.text,
    _View.vector,
    _View.number,
    _View.classes,
)
