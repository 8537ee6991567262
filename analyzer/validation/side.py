"""One of the two sides of a comparison: a model, how pictures are fed to it, and sessions over it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from analyzer.analysis.feature_maps import FeatureMap, default_layer, feature_maps
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import REAL, Quantisation, holds_floats, quantisation
from analyzer.attribution import Explainer
from analyzer.attribution.features import Taps, channels_first
from analyzer.attribution.finite import find_origins
from analyzer.attribution.lines import Centers, Placed
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Graph, Value
from analyzer.graph.query import ancestors, descendants, image_input
from analyzer.graph.through import readers
from analyzer.passes.base import Remade
from analyzer.runtime import Session, kernel_difference, kernels
from analyzer.store import Store, key_of, packed, unpacked
from analyzer.tasks import Task, recognise
from analyzer.validation.inputs import Prepared, prepared

FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "HardSigmoid", "BatchNormalization"})

FLOATS = frozenset({"float16", "float32", "float64"})
HALVES = frozenset({"float16", "bfloat16"})
SORTING = frozenset({"TopK", "NonMaxSuppression"})  # they order rows by what a picture holds
SAMPLE = 1 << 14  # elements of a layer that a store keeps
PICTURES = 16  # of one run, at most
_SHAPES = "shapes of all"  # beside the layers in the store


Inputs: TypeAlias = "np.ndarray | Mapping[str, np.ndarray]"
Shape: TypeAlias = "tuple[int, ...] | Mapping[str, tuple[int, ...]]"


class Evidence(NamedTuple):
    """A method's map of one picture.

    Attributes:
        heat: (H, W) in [0, 1].
        low, high: the numbers of the method that 0 and 1 stand for.
        diagnosis: "" where all is well.
        placed: where the units of its layer lie in the image.
        channels: (H, W, C) the signed numbers of every pixel in units of the largest; None with one number per place.
    """

    heat: np.ndarray
    low: float
    high: float
    diagnosis: str
    placed: Placed
    channels: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """(H, W), or (H, W, C) of pixels with signed channels, in the numbers of the method."""
        if self.channels is not None:
            return self.channels.astype(np.float32) * self.high
        return np.asarray(self.low + self.heat * (self.high - self.low))


class Side(Remade):
    """A model and its preprocessing.

    Args:
        model: path, bytes or ModelProto.
        shape: of one picture as the model takes it, (1, …); {input: shape} of a model with several inputs.
        store: where `record` keeps what the model gives, and where that is looked up; layers are then samples of their
            elements, and results are of the environment in which `record` ran. Threads may share a side whose layers
            have been chosen.
        provider, options: as for `Explainer`.
    """

    def __init__(
        self, model: Any, shape: Shape, provider: str = "cpu", store: Store | None = None, **options: Any
    ) -> None:
        self.explainer = model if isinstance(model, Explainer) else Explainer(model, provider, **options)
        self.shape = shape
        self.store = store
        self.name = str(self.explainer.loaded.path or self.explainer.loaded.name)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.judged = False  # whether it is a candidate: then what is wrong with it is a finding, not an error
        self._scored: str | None = None
        self._wanted: list[str] = []
        self._taps: Taps | None = None

    @cached_property
    def input(self) -> str:
        return str(image_input(self.explainer.plain).name)

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        """{input: shape} of a run: of one picture, or of the batch that the file fixes."""
        sizes = dict(self.shape) if isinstance(self.shape, Mapping) else {self.input: tuple(self.shape)}
        fixed = self.explainer.fixed_batch or 1
        return {n: (fixed, *s[1:]) if self.explainer.counts_images(n) and fixed > 1 else s for n, s in sizes.items()}

    def _fed(self, given: Inputs) -> dict[str, np.ndarray]:
        """The inputs of a run."""
        return self.explainer.batch([dict(given) if isinstance(given, Mapping) else {self.input: given}])

    def _first(self, array: np.ndarray) -> np.ndarray:
        """Of the first picture, where a batch was filled up with it."""
        fixed = self.explainer.fixed_batch or 1
        return array[: len(array) // fixed] if fixed > 1 and array.ndim and not len(array) % fixed else array

    @cached_property
    def graph(self) -> Graph:
        """The graph for one picture; for questions, not to be appended to."""
        return self._fresh()

    def _fresh(self) -> Graph:
        return self.explainer.graph(self._sizes)

    @cached_property
    def scores(self) -> Task:
        return recognise(self.graph, self._scored, self.explainer.declared, self.explainer.labels, finds=False)

    @cached_property
    def task(self) -> Task:
        """What is explained; of a candidate that is no longer what its card declares, its scores."""
        try:
            return recognise(self.graph, self._scored, self.explainer.declared, self.explainer.labels)
        except InputError:
            if not self.judged:
                raise
            return self.scores

    def score_by(self, output: str) -> None:
        """Take the scores from that output, if it can hold them and nothing has been asked for yet."""
        if output in self.outputs and output != self.scores.output.name:
            self._scored = output
            for name in ("scores", "task", "layer", "layers", "_maps", "probabilities", "plain"):
                self.__dict__.pop(name, None)

    @cached_property
    def outputs(self) -> dict[str, Quantisation]:
        """{output that holds real numbers: how they are quantised}, the file's own order."""
        found = {v.name: (quantisation(self.graph, v), v.dtype) for v in self.graph.outputs}
        return {n: q for n, (q, dtype) in found.items() if q != REAL or str(dtype) in FLOATS}

    @property
    def other_outputs(self) -> dict[str, str]:
        """{output that cannot be compared: what it holds}"""
        return {v.name: f"type {v.dtype or 'unknown'}" for v in self.graph.outputs if v.name not in self.outputs}

    @cached_property
    def _needed(self) -> dict[str, set[str]]:
        """{output: all tensors that it depends on}"""
        return {v.name: ancestors(self.graph, [v.name]) for v in self.graph.outputs}

    def leads_to(self, layer: str) -> list[str]:
        """The outputs that depend on a layer."""
        return [name for name, needed in self._needed.items() if layer in needed]

    def sorted_by(self, output: str) -> str:
        """The node that orders an output's rows by what it found (TopK, NonMaxSuppression), "" where none does."""
        needed = self._needed[output]
        nodes = [n for n in self.graph.forward_nodes() if n.op in SORTING and any(o.name in needed for o in n.outputs)]
        return str(nodes[0].name or nodes[0].op) if nodes else ""

    @cached_property
    def layer(self) -> str:
        """The layer whose class map is compared."""
        return default_layer(self.graph, self.scores.logits).name

    @cached_property
    def layers(self) -> list[str]:
        """Every feature map on the way to an output, then the logits.

        What only an activation or a BatchNormalization reads is left out: deployed builds fuse the two, and a
        quantised one may cut off before the activation what the activation would.
        """
        names = [m.name for m in self._maps if not self._is_fused(m.value)]
        return list(dict.fromkeys([*(n for n in names if n != self.scores.logits.name), self.scores.logits.name]))

    @cached_property
    def _maps(self) -> list[FeatureMap]:
        """Those after the preprocessing, in the places of the picture, not of what was found in it."""
        graph = self.graph
        ordering = [n for n in graph.forward_nodes() if n.op in SORTING]
        ordered = descendants(graph, [o.name for n in ordering for o in n.outputs if o.name])
        before = {o.name for n in graph.before([self._prepared]) for o in n.outputs}
        return [m for m in feature_maps(graph) if m.name not in ordered | before | self.probabilities]

    @cached_property
    def probabilities(self) -> set[str]:
        """What a Softmax, LogSoftmax or Sigmoid makes of the logits: scores, and no layer."""
        logits = self.scores.logits.name
        return descendants(self.graph, [logits]) - {logits} if self.scores.stripped else set()

    @cached_property
    def _prepared(self) -> str:
        """The image after the preprocessing in the file."""
        return prepared(self.graph, self.graph[self.input]).name

    @cached_property
    def rectified(self) -> list[str]:
        """The feature maps that only a Relu reads, which `layers` leaves out."""
        return [m.name for m in self._maps if [n.op for n in readers(m.value)] == ["Relu"]]

    @cached_property
    def gates(self) -> list[str]:
        """Channels without space that a feature map is made with, as squeeze-and-excitation makes them."""
        reach = descendants(self.graph, [self.input]) & ancestors(self.graph, [m.name for m in self._maps])
        made = [o for n in self.graph.forward_nodes() for o in n.outputs if o.name in reach and not self._is_fused(o)]
        return [o.name for o in made if holds_floats(o) and _is_vector(o.shape)]

    def _is_fused(self, value: Value) -> bool:
        following = readers(value)
        return len(following) == 1 and following[0].op in FUSED

    @property
    def plain(self) -> Session:
        """The model as it is, nothing tapped."""
        read = list(self._read)
        return self.explainer.kept(
            ("plain", *sorted(self._sizes.items()), *read), lambda: self.explainer.session(self._fresh(), read)
        )

    @property
    def _read(self) -> dict[str, Quantisation]:
        """`outputs`, the scores first, and what the task reads; these may be integers without a scale."""
        scores = self.scores.output.name
        return {scores: quantisation(self.graph, self.scores.output)} | self.task.reading | self.outputs

    @property
    def options(self) -> dict[str, Any]:
        return self.explainer.session_options

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        return layouts(self.graph)

    # ---- What is known of a picture ----

    def output(self, array: Inputs) -> np.ndarray:
        """All numbers of the scores of one picture, flat, as the model gives them; quantised ones as what they mean."""
        return self.all_outputs(array)[self.scores.output.name].ravel()

    def prepared(self, given: Inputs) -> Prepared:
        """The image after the preprocessing in the file."""
        array = np.asarray(given[self.input] if isinstance(given, Mapping) else given)
        end = self._prepared
        rounded = array.dtype.kind in "iu" or any(n.op == "QuantizeLinear" for n in self.graph.before([end]))
        if end == self.input:
            return Prepared(array, rounded, False)

        def run() -> dict[str, np.ndarray]:
            return {"image": self._first(Taps(self.explainer, self._fresh(), [end]).run(self._fed(given))[end])}

        return Prepared(self.kept(run, "prepared", given)["image"], rounded, True)

    def classes(self, array: Inputs) -> np.ndarray:
        """The score of every class, (classes,): `output`, by its means over space for a segmenter."""
        return self.classes_of(self.all_outputs(array)[self.scores.output.name])

    def scores_of(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The scores among all outputs of one picture: of a detector those of its candidates, without coordinates."""
        if not self.task.per_picture:
            return outputs[self.scores.output.name]
        return self.task.read(self.task.answer(outputs), 1).ravel().astype(np.float64)

    def classes_of(self, scores: np.ndarray) -> np.ndarray:
        return self.scores.read(scores, 1).ravel()

    def all_outputs(self, array: Inputs) -> dict[str, np.ndarray]:
        """Every output that holds real numbers, quantised ones as what they mean, float64."""
        session = (self.explainer.deployed if self.explainer.quantised else None) or self.plain
        found = self.kept(lambda: session.run(self._fed(array), list(self._read)), "outputs", array)
        return self.meant({name: self._first(found[name]) for name in self._read})

    def said(self, pictures: np.ndarray, given: Inputs) -> list[dict[str, np.ndarray]]:
        """`all_outputs` of several pictures, (n, …) each, which stand in for the one of `given`."""
        others = dict(given) if isinstance(given, Mapping) else {}
        parts = [others | {self.input: pictures[i : i + 1]} for i in range(len(pictures))]
        rows = _split(self.batch(self.explainer.batch(parts)), len(parts), self.explainer.fixed_batch)
        if rows is None:  # the outputs do not count pictures
            return [self.said(pictures[i : i + 1], given)[0] for i in range(len(pictures))]
        return [self.meant(row) for row in rows]

    @property
    def most(self) -> int:
        """Pictures of one run."""
        return self.explainer.fixed_batch or (PICTURES if self.explainer.deployed is not None else 1)

    def batch(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the runtime gives for inputs, of the file as it is where that loads."""
        return (self.explainer.deployed or self.plain).run(dict(feeds), list(self._read))

    def meant(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The real numbers that the outputs for one picture stand for, float64."""
        return {n: q.real(found[n]).astype(np.float64) for n, q in self._read.items()}

    def squashed(self, scores: np.ndarray, how: str) -> np.ndarray:
        """Task after a Softmax, LogSoftmax or Sigmoid that only the other side's file ends with."""
        if how in ("Sigmoid", "HardSigmoid"):
            return np.asarray(1 / (1 + np.exp(-np.clip(scores, -700, 700))))
        layout = self._layouts.get(self.scores.output.name)
        axis = layout.channel if self.scores.space and layout is not None else -1
        shifted = scores - scores.max(axis=axis, keepdims=True)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        return np.asarray(np.exp(shifted) / total if how == "Softmax" else shifted - np.log(total))

    def why_not_finite(self, array: Inputs, layer: str = "") -> str:
        """Where NaN or ∞ first appears for a picture, followed back from the outputs and `layer`; "" where nowhere."""

        def searched() -> dict[str, np.ndarray]:
            feeds = self.explainer.feeds(array)
            origin = find_origins(self.explainer, feeds, [0], [layer] if layer else [])[0]
            return {"origin": packed(str(origin or ""))}

        return str(unpacked(self.kept(searched, "origin", layer, array)["origin"]))

    def labels(self, scores: np.ndarray) -> list[int]:
        """The top class, or for a sigmoid's scores every class above ½."""
        if "Sigmoid" in self.scores.stripped:
            return np.flatnonzero(scores > 0.5).tolist()
        return [self.top_of(scores)]

    def top_of(self, scores: np.ndarray) -> int:
        """The class that is explained by default, of the scores of all classes."""
        return int(self.scores.best(scores[None])[0])

    @property
    def _by_class(self) -> bool:
        return self.task.by_class and not self.task.per_picture

    def heatmap(
        self, array: Inputs, method: str, target: int, layer: str = "auto", placed: Placed = "effective"
    ) -> Evidence:
        """A method's map of one picture.

        Args:
            placed: where the units of the layer lie; of a candidate, as those of the reference.

        Raises:
            AnalyzerError: as `Explainer.explain`.
        """

        def explained() -> dict[str, np.ndarray]:
            found = self.explainer.explain(array, method, target if self._by_class else "top1", layer, placement=placed)
            if not len(found.heatmap):
                return {
                    "heatmap": np.zeros(found.heatmap.shape[1:], np.float32),
                    "channels": np.zeros(0, np.float16),
                    "extent": np.zeros(2),
                    "centers": np.zeros((0, 2)),
                    "diagnosis": packed(self.task.nothing),
                }
            channels, extent = found.channels(0), found.extent(0)
            return {
                "heatmap": found.heatmap[0],
                "channels": np.zeros(0, np.float16) if channels is None else _shares(channels, extent[1]),
                "extent": np.array(extent),
                "centers": np.array([(c.first, c.step) for c in found.centers.values()]).reshape(-1, 2),
                "diagnosis": packed(found.diagnosis[0]),
            }

        found = self.kept(explained, "heatmap, 4", method, target, layer, repr(placed), array)
        low, high = found["extent"].tolist()
        lines = found["centers"].tolist()  # none: half-pixel centers; several: of layers of their own
        where = Centers(tuple(lines[0]), tuple(lines[1])) if len(lines) == 2 else "effective" if lines else "half-pixel"
        channels = found["channels"] if found["channels"].size else None
        return Evidence(found["heatmap"], low, high, unpacked(found["diagnosis"]), where, channels)

    def record(self, array: Inputs, methods: Sequence[str]) -> dict[str, str]:
        """Fills the store with what a comparison asks of a reference: scores, all layers, maps of the top class.

        Returns:
            {method: why it is not available}.
        """
        if self.store and self._recorded != self.explainer.environment:
            self.store.put(self._record, {"environment": packed(self.explainer.environment)})
            del self._recorded
        _ = self.receipt
        self.tap([*self.layers, *self.rectified, *self.gates])
        self.features(array)
        self.kernels()
        top = self.top_of(self.classes(array))
        if not all(np.isfinite(values).all() for values in self.all_outputs(array).values()):
            self.why_not_finite(array)
        missing = {}
        for method in methods:
            try:
                self.heatmap(array, method, top, self.layer)
            except UnsupportedError as error:
                missing[method] = error.message
        return missing

    def tap(self, names: Sequence[str]) -> None:
        """Choose the layers that `features` gives."""
        wanted = list(dict.fromkeys(names))
        if wanted != self._wanted:
            self._wanted, self._taps = wanted, None

    def features(self, array: Inputs) -> dict[str, np.ndarray]:
        """The tapped layers for one picture, channels first where they are maps, as floats.

        Of a recorded side at most `SAMPLE` elements of each, flat; `shapes` holds what they are of.
        """
        if self.store is None or not self.is_recorded or not self._wanted:
            return self._measured(array)
        key = self._key("features", array)
        known = dict(self.store.get(key) or {})
        if not set(self._wanted) <= set(known):
            known |= {name: sampled(values) for name, values in self._run(lambda: self._measured(array)).items()}
            shapes = (unpacked(known[_SHAPES]) if _SHAPES in known else {}) | self.shapes
            self.store.put(key, known | {_SHAPES: packed(shapes)})
        else:
            self.shapes = {n: tuple(s) for n, s in unpacked(known[_SHAPES]).items()}
        return {name: known[name] for name in self._wanted}

    def _measured(self, array: Inputs) -> dict[str, np.ndarray]:
        if not self._wanted:
            return {}
        if self._taps is None:
            self._taps = Taps(self.explainer, self._fresh(), self._wanted)
        found = {n: self.channels_first(n, self._first(a)) for n, a in self._taps.run(self._fed(array)).items()}
        self.shapes = {name: a.shape for name, a in found.items()}
        return found

    def channels_first(self, name: str, array: np.ndarray) -> np.ndarray:
        layout = self._layouts.get(name)
        return channels_first(array, layout) if layout is not None and layout.is_map else array

    # ---- What is known of its runs ----

    def kernels(self) -> dict[str, Any]:
        """How the kernels with the chosen taps differ from those without; see `runtime.kernel_difference`.

        Of a recorded side, those of all its layers.
        """

        def plans() -> dict[str, np.ndarray]:
            graph, tapped = self._fresh(), self._fresh()
            plain = kernels(graph, self.explainer.provider, [self.scores.output.name], **self.options)
            names = [self.scores.output.name, *tapped.outputs_for(self._wanted).values()]
            names = list(dict.fromkeys(names))
            found = kernels(tapped, self.explainer.provider, names, **self.options)
            return {"plan": packed(kernel_difference(plain, found))}

        taps = [] if self._recorded else [self._wanted]
        return dict(unpacked(self.kept(plans, "plan", *taps)["plan"]))

    @cached_property
    def receipt(self) -> dict[str, Any]:
        """Where its results are from: provider, float nodes that fell to the CPU, runtime, machine, Python."""

        def made() -> dict[str, np.ndarray]:
            deployed = self.explainer.quantised and self.explainer.deployed is not None
            scores = "the file as it is, bit for bit" if deployed else "the rewritten model"
            here = {"python": platform.python_version(), "fallbacks": self.plain.fallbacks, "scores": scores}
            return {"receipt": packed(self.explainer.environment | here)}

        return dict(unpacked(self.kept(made, "receipt")["receipt"]))

    @property
    def precision(self) -> str:
        """What it computes with, at the coarsest: "float", "half" or "quantized"."""
        if self.explainer.quantised:
            return "quantized"
        return "half" if any(str(v.dtype) in HALVES for v in self.graph.values.values()) else "float"

    @property
    def about(self) -> dict[str, str]:
        """Which model it is: the hash of its file, and of all its bytes where there are others."""
        loaded = self.explainer.loaded
        return {"model": self.name, "sha256": loaded.sha256, "identity": loaded.identity}

    # ---- The store ----

    @cached_property
    def _record(self) -> str:
        """The key under which `record` says where it ran: a machine may use what another one recorded."""
        asked = [self.explainer.provider, sorted(self.options.items())]
        return key_of("record", self.explainer.loaded.identity, asked, self._sizes)

    @cached_property
    def _recorded(self) -> dict[str, Any] | None:
        """The environment of the record in the store; None where there is none."""
        found = self.store.get(self._record) if self.store else None
        return None if found is None else dict(unpacked(found["environment"]))

    @property
    def is_recorded(self) -> bool:
        """Whether the store holds a record of this model."""
        return self._recorded is not None

    @property
    def identity(self) -> dict[str, Any]:
        """All that what it gives for a picture depends on, as plain data."""
        where = self._recorded or self.explainer.environment
        return {"model": self.explainer.loaded.identity, "environment": where, "shape": self._sizes}

    def _key(self, *what: Any) -> str:
        where = self._recorded or self.explainer.environment
        parts = [p for w in what for p in (sorted(w.items()) if isinstance(w, Mapping) else [(w,)])]
        return key_of(
            self.explainer.loaded.identity, where, self.explainer.chosen, self._sizes, *(p for q in parts for p in q)
        )

    def kept(self, make: Callable[[], Mapping[str, np.ndarray]], *what: Any) -> Mapping[str, np.ndarray]:
        """What `make` gives; of a recorded side from the store, under a key of `what`."""
        if self.store is None or not self.is_recorded:
            return make()
        return self.store.kept(self._key(*what), lambda: self._run(make))

    def _run(self, make: Callable[[], Any]) -> Any:
        """What `make` gives, unless the record in the store is of another environment.

        Raises:
            InputError: they are.
        """
        known, here = self._recorded, self.explainer.environment
        if known and known != here:
            words = [f"{k}: {known.get(k)} there, {here[k]} here" for k in here if known.get(k) != here[k]]
            raise InputError(
                f"{self.name}: the store has an incomplete record of this model from another environment "
                f"({'; '.join(words)})",
                "record the missing pictures there, or use another --store",
            )
        return make()


def _is_vector(shape: Any) -> bool:
    """(1, C), (1, C, 1, 1) or (1, 1, 1, C)"""
    sizes = [d for d in (shape or ()) if isinstance(d, int)]
    if len(sizes) not in (2, 4) or len(sizes) != len(shape):
        return False
    return max(sizes) > 1 and max(sizes) in (sizes[1], sizes[-1]) and sizes.count(1) == len(sizes) - 1


def _shares(channels: np.ndarray, largest: float) -> np.ndarray:
    """(H, W, C) float16: numbers from −1 to 1, which are stored in half the space."""
    return (channels / max(largest, np.finfo(np.float32).tiny)).astype(np.float16)


def _split(found: Mapping[str, np.ndarray], count: int, fixed: int | None) -> list[dict[str, np.ndarray]] | None:
    """The outputs of each of `count` pictures; None where their first axis does not count them."""
    size = fixed or count
    if size == 1:
        return [dict(found)]
    if any(not a.ndim or len(a) % size for a in found.values()):
        return None
    rows = {name: len(a) // size for name, a in found.items()}
    return [{n: a[i * rows[n] : (i + 1) * rows[n]] for n, a in found.items()} for i in range(count)]


def sampled(array: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` elements, flat, at places that depend on the size alone."""
    flat = array.ravel()
    if flat.size <= SAMPLE:
        return flat
    return flat[np.sort(np.random.default_rng(flat.size).choice(flat.size, SAMPLE, replace=False))]
