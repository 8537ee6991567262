"""A deployable model with an added `heatmap` output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from analyzer.attribution.asked import slot_of, task_of
from analyzer.attribution.cards import read_task
from analyzer.attribution.compiler import Compiled, compile_question
from analyzer.attribution.explainer import Explainer
from analyzer.attribution.methods import find_method
from analyzer.attribution.question import Job, Question
from analyzer.attribution.result import Attribution
from analyzer.attribution.runner import answer
from analyzer.attribution.seeds import PREFIX
from analyzer.errors import InputError, NotFoundError, UnsupportedError, suggest
from analyzer.files import guard
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.older import return_to
from analyzer.graph.opencv import avoid_faults
from analyzer.graph.passes.newer import OPSET
from analyzer.graph.portable import make_portable
from analyzer.graph.protos import opsets
from analyzer.graph.query import fillings, single_batch
from analyzer.graph.roles import separate_roles
from analyzer.graph.save import save
from analyzer.plain import as_json
from analyzer.runtime import Plain, random_feeds, relative
from analyzer.runtime.elsewhere import INSTALL, run_in, version_in
from analyzer.tasks import Declared, Task
from analyzer.tasks.targets import is_expression

OUTPUT = "heatmap"
# Rounding alone moves a few pixels of a map, at kinks of ReLU and steps of quantisers, and scores by steps.
LARGEST_DISTANCE = 0.05
LARGEST_DIFFERENCE = 0.1
_SMALL = 1e-4  # an output that is nowhere larger is compared with this: rounding near 0 is no difference
_SEEDS = 3
_Arrays: TypeAlias = dict[str, np.ndarray]


@guard()
def export(
    model: Any,
    path: str | os.PathLike,
    method: str | None = None,
    target: Any = "top1",
    layer: str = "auto",
    labels: Sequence[str] | None = None,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
    output: str | None = None,
    runtime: str = "onnxruntime",
    declared: Declared | None = None,
    placement: str = "effective",
    opset: int | None = None,
    check: bool = False,
    **options: Any,
) -> Path:
    """Write the model with an added output `heatmap`: (N, H, W) in [0, 1], float32.

    The file has only standard operators, so any onnxruntime can run it without this package. The original outputs come
    first and keep their names. If the model's scores have no batch axis, the file takes one image.

    Before the file gets its final name, it is run in a plain session at the default level, on random input, with two
    sizes and two batch sizes if these are open. The file's metadata (`onnx-analyzer`) record the result: `receipt`, the
    largest relative difference of the original outputs; `heatmap_difference`, the relative L2 distance of the heatmap
    from that of `explain`; `executed`, the input sizes; `opset` of the file; `needs`, the nodes that need a newer one
    than the model has; and `doubt`, if units are not where `placement` puts them, why.

    Args:
        model: path, bytes or ModelProto.
        path: where to write.
        method: that of the model's task unless given, as for `explain`.
        layer, options: as for `explain`.
        target: "top1" (of each image, when the model runs), a class index, a label, an expression, or a keypoint
            ("keypoint:3") of a model that finds one person.
        input_shapes: {input: sizes} to fix symbolic sizes; only token grids need it.
        runtime: what the file is for: "onnxruntime", "web" (onnxruntime-web), "openvino", "opencv" (its dnn module,
            from OpenCV 5 on), "tract", or "tensorrt" for a file that TensorRT's parser accepts: it avoids operators
            that the parser rejects, and gradients of MaxPool take longer on other runtimes. Fix the input sizes too.
        declared: what the model is for; what its card says unless given.
        placement: as for `explain`.
        opset: of the file; by default that of the model, or the first newer one that has all operators.
        check: run the file in that runtime too, where it is installed. The metadata's `checked` is the relative L2
            distance of the heatmap there from that of onnxruntime, or says why there is none.

    Raises:
        InputError, NotFoundError, UnsupportedError: as `explain`. UnsupportedError also if the file does not run or
            differs from `explain`; nothing is written then.
    """
    explainer = Explainer(model, labels=labels)
    idioms = _idioms_of(runtime)
    if any(v.name == OUTPUT for v in explainer.plain.outputs):
        raise InputError(f"the model already has an output {OUTPUT!r}", "it seems to be an exported model already")
    if declared is None:
        names = read_task(explainer, None)
        labels, declared = labels or names, explainer.declared
    about = Question((), target, output, labels, runtime=idioms, placement=placement, declared=declared)
    task = task_of(explainer, about, explainer.graph(input_shapes))
    job = Job(method or task.method, layer, options)
    question = replace(about, jobs=(job,))
    slot = slot_of(task, question, target)
    _check_sizes(task, slot, explainer.graph(input_shapes))
    asked = _by_level(question, task)
    compiled = compile_question(explainer, asked, [slot], input_shapes)
    alone = {} if compiled[0].scores.batched else single_batch(explainer.plain.inputs)
    if alone:
        compiled = compile_question(explainer, asked, [slot], alone | (input_shapes or {}))
    first = compiled[0]
    graph = first.graph
    assert graph is not None
    heat = _heat(graph, compiled)
    graph.new_outputs.clear()
    graph.add_output(heat, OUTPUT)
    layers = [one.layer for one in compiled]
    named = {"layer": ", ".join(layers), "target": str(target), "output": first.scores.output.name}
    record: dict[str, Any] = {"method": job.method, **named}
    if doubt := "; ".join(dict.fromkeys(one.located.doubt for one in compiled if one.located.doubt)):
        record["doubt"] = doubt

    def explained(feeds: Mapping[str, np.ndarray]) -> Attribution:
        return answer(explainer, question, feeds)[0]

    def rewritten(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> None:
        own = opsets(explainer.loaded.proto).get("", OPSET)
        ir_version = explainer.loaded.proto.ir_version if opset in (None, own) else 0
        needs = return_to(proto, opset or own, ir_version, weights, exactly=opset is not None)
        record["opset"] = opsets(proto)[""]
        if needs:
            record["needs"] = list(dict.fromkeys(map(str, needs)))
        if record["opset"] < OPSET:
            make_portable(proto)
        separate_roles(proto, weights)
        if runtime == "opencv":
            avoid_faults(proto)
        if runtime == "tract":  # which cannot unify the symbols of sizes there with the sizes that it is given
            del proto.graph.value_info[:]

    def tried(file: Path) -> dict[str, str]:
        trial = Trial(explainer, first, file, explained, layers)
        trial.run()
        if check:
            record["checked"] = _checked(runtime, file, trial)
        return {"onnx-analyzer": as_json(record | trial.record, sort_keys=True)}

    return save(graph, path, rewrite=rewritten, check=tried)


def _idioms_of(runtime: str) -> str:
    """The name under which the idioms of a runtime are found.

    Raises:
        NotFoundError: there is no runtime of that name.
    """
    names = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt"} | dict.fromkeys(INSTALL, "others")
    names["web"] = "onnxruntime"  # which it is, compiled to WebAssembly
    if runtime not in names:
        raise NotFoundError(f"no runtime {runtime!r}", suggest(runtime, names) or f"choose one of {', '.join(names)}")
    return names[runtime]


def _checked(runtime: str, file: Path, trial: Trial) -> float | str:
    """How far the heatmap of `runtime` is from that of onnxruntime (relative L2), or why that is not known.

    Raises:
        UnsupportedError: the runtime is there and does not run the file, or gives another heatmap.
    """
    if runtime not in INSTALL:
        return "not run in TensorRT" if runtime == "tensorrt" else "run by onnxruntime itself"
    sizes = trial.record["executed"]
    if not sizes:
        return "not run: onnxruntime does not run the file either"
    if version_in(runtime) is None:
        return f"not run: {runtime} is not installed ({INSTALL[runtime]})"
    plain = Plain(file, custom_ops=trial.explainer.custom_ops)
    feeds = random_feeds(plain.inputs, sizes={name: tuple(shape) for name, shape in sizes[0].items()})
    expected, found = plain.run(feeds)[OUTPUT], run_in(runtime, file, feeds).get(OUTPUT)
    if found is None or found.shape != expected.shape:
        raise UnsupportedError(
            f"{trial.name}: {runtime} gives no heatmap of shape {expected.shape}", "nothing was written"
        )
    distance = float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))
    if not distance <= LARGEST_DISTANCE:
        raise UnsupportedError(
            f"{trial.name}: the heatmap of {runtime} differs from that of onnxruntime "
            f"(relative difference {distance:.2g})",
            "nothing was written; check that the model itself gives the same outputs there",
        )
    return distance


def _check_sizes(task: Task, slot: str | int, graph: Graph) -> None:
    """UnsupportedError where a detector's candidates lie on grids whose sizes are open."""
    open_sizes = [v for v in graph.inputs if any(not isinstance(d, int) for d in (v.shape or [None])[1:])]
    if task.per_picture and task.sized and not isinstance(slot, str) and open_sizes:
        raise UnsupportedError(
            f"{graph.name}: the sizes of the input are open, so its candidates are not known before it runs",
            f"fix the input sizes, for example {_flags(next(iter(fillings(graph)), {}))}",
        )


def _by_level(question: Question, task: Task) -> Question:
    """The question with a job for every layer that the target can have: which one shows when the model runs."""
    (job,) = question.jobs
    layers = task.layers if job.layer == "auto" and not is_expression(question.target) else ()
    if not find_method(job.method, job.options).needs_layer or not layers:
        return question
    return replace(question, jobs=tuple(replace(job, layer=layer) for layer in layers))


def _heat(graph: Graph, compiled: Sequence[Compiled]) -> Value:
    """The heatmap; of several layers, that of the layer which the target has when the model runs."""
    heats = [graph[one.slots[0][1]] for one in compiled]
    if len(heats) == 1:
        return heats[0]
    op = Builder(graph, PREFIX)
    level = compiled[0].scores.level_in(op, graph[compiled[0].slots[0][2]])
    shape = [-1] + [1] * (op.rank(heats[0]) - 1)
    chosen = [op.Reshape(op.cast(op.Equal(level, np.int64(at)), heats[0].dtype), shape) for at in range(len(heats))]
    total = op.Mul(heats[0], chosen[0])
    for heat, mine in zip(heats[1:], chosen[1:], strict=True):
        total = op.Add(total, op.Mul(heat, mine))
    return total


@dataclass
class Trial:
    """An exported file, run beside the model that it was made from and beside `explain`; one session at a time.

    Args:
        explained: `explain` of the same question, given the inputs.
        layers: that `explain` may choose; that of `compiled` where there are none.

    Attributes:
        record: {"receipt": largest relative difference of the original outputs, "heatmap_difference": relative L2
            distance of the heatmap from that of `explain`, "executed": [{input: sizes}]}. A sentence says why where
            one was not measured: onnxruntime cannot run the model, or has no kernel for the file.
    """

    explainer: Explainer
    compiled: Compiled
    file: Path
    explained: Callable[[Mapping[str, np.ndarray]], Attribution]
    layers: Sequence[str] = ()
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.explainer.loaded.name

    def run(self) -> None:
        """Fills in `record`.

        Raises:
            UnsupportedError: the file does not load, does not run where the model does, differs, or can be tried at no
                size.
        """
        best: list[_Measured] = []
        for seed in range(_SEEDS):
            runs = self._runs(seed)
            if not runs or all(run.good for run in runs):
                best = runs
                break
            best = min(best or runs, runs, key=lambda runs: max(run.distance for run in runs))
        for run in best:
            if not run.good:
                about = "heatmap differs from that of `explain`"
                if run.distance <= LARGEST_DISTANCE:
                    about = "outputs differ from those of the original model"
                raise UnsupportedError(
                    f"{self.name}: at {_text(run.sizes)} the exported model's {about} "
                    f"(relative difference {max(run.distance, run.difference):.2g})",
                    "nothing was written; try another method or layer, and please report this",
                )
        if best:
            self.record.setdefault("receipt", max(run.difference for run in best))
            self.record["heatmap_difference"] = max(run.distance for run in best)
        self.record["executed"] = [run.sizes for run in best]

    def _runs(self, seed: int) -> list[_Measured]:
        """A run at each of up to two sizes; none where a kernel is missing."""
        expected = self._expected(seed)
        after = self._loaded()
        if after is None:
            return []
        found = self._found(after, expected or [(feeds, {}) for feeds in self._feeds(after, seed)], bool(expected))
        del after
        runs = []
        for feeds, outputs, given in found:
            difference = max((_difference(array, given[name]) for name, array in outputs.items()), default=0.0)
            runs.append(_Measured(_sizes(feeds), difference, self._distance(feeds, given[OUTPUT])))
        return runs

    def _expected(self, seed: int) -> list[tuple[_Arrays, _Arrays]]:
        """(inputs, outputs) of the model as it came, at the first two sizes that it takes."""
        loaded, answers, reasons = self.explainer.loaded, list[tuple[_Arrays, _Arrays]](), list[str]()
        try:
            before = Plain.original(loaded.path or loaded.serialized(), self.explainer.custom_ops)
        except Exception as error:
            self.record["receipt"] = f"not measured: onnxruntime cannot load the model: {_sentence(error)}"
            return []
        for feeds in self._feeds(before, seed):
            try:
                alone = self.explainer.without_batch
                answers.append((feeds, before.run({n: a[0] if n in alone else a for n, a in feeds.items()})))
            except Exception as error:
                reasons.append(_sentence(error))
            if len(answers) == 2:
                break
        if not answers:
            self.record["receipt"] = f"not measured: the original model does not run: {reasons[0]}"
        return answers

    def _loaded(self) -> Plain | None:
        """The exported file in a plain session; None where a kernel is missing that the model misses too."""
        try:
            return Plain(self.file, custom_ops=self.explainer.custom_ops)
        except Exception as error:
            reason = _sentence(error)
            missing = "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__
            if not (missing and "receipt" in self.record):
                raise UnsupportedError(
                    f"{self.name}: onnxruntime cannot load the exported model: {reason}",
                    "nothing was written; try another method or layer, and please report this",
                ) from None
            self.record["heatmap_difference"] = f"not measured: {reason}"
            return None

    def _found(
        self, after: Plain, questions: Sequence[tuple[_Arrays, _Arrays]], all_run: bool
    ) -> list[tuple[_Arrays, _Arrays, _Arrays]]:
        """(inputs, the model's outputs, those of the exported file), up to two.

        Args:
            all_run: the model runs on these inputs, so the file has to.
        """
        found, reasons = list[tuple[_Arrays, _Arrays, _Arrays]](), list[str]()
        for feeds, outputs in questions:
            try:
                found.append((feeds, outputs, after.run(feeds)))
            except Exception as error:
                reasons.append(f"at {_text(_sizes(feeds))}: {_sentence(error)}")
                if all_run:
                    break
            if len(found) == 2:
                break
        if reasons and (all_run or not found):
            raise UnsupportedError(
                f"{self.name}: the exported model does not run {reasons[0]}",
                "nothing was written; fix the input sizes, for example " + self._example(),
            )
        return found

    def _feeds(self, session: Plain, seed: int) -> Iterator[_Arrays]:
        """Random inputs: the likeliest sizes first, batches of one and of two by turns where the batch is open."""
        for sizes in self._tried_sizes():
            yield random_feeds(session.inputs, seed, sizes=sizes)

    def _tried_sizes(self) -> list[dict[str, tuple[int, ...]]]:
        graph = self.compiled.graph
        assert graph is not None
        single, double = fillings(graph), fillings(graph, batch=2)
        turns = [s for pair in zip(single, [*double[1:], *double[:1]], strict=True) for s in pair]
        sizes = {v.name: fixed_sizes(v.shape) for v in graph.inputs}
        fixed = {name: shape for name, shape in sizes.items() if shape is not None}
        return [fixed | s for i, s in enumerate(turns) if s not in turns[:i]] or [fixed]

    def _distance(self, feeds: _Arrays, heat: np.ndarray) -> float:
        """How far the heatmap is from that of `explain`: relative L2; ∞ where shapes, or what is not finite, differ.

        Raises:
            UnsupportedError: explain chooses another layer.
        """
        found = self.explained(feeds)
        self.explainer.drop_sessions()
        if len(found.image) and found.layer not in (self.layers or [self.compiled.layer]):
            raise UnsupportedError(
                f"{self.name}: at {_text(_sizes(feeds))}, `explain` chooses the layer {found.layer!r} and "
                f"`export` {self.compiled.layer!r}",
                "nothing was written; name the layer with --layer, or fix the sizes, for example " + self._example(),
            )
        expected = np.zeros(heat.shape[:1] + found.heatmap.shape[1:], found.heatmap.dtype)
        expected[found.image] = found.heatmap  # no row where there is nothing to explain
        if expected.shape != heat.shape or not np.array_equal(np.isfinite(expected), np.isfinite(heat)):
            return np.inf
        a, b = (m[np.isfinite(expected)].astype(np.float64) for m in (expected, heat))
        return float(np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0))

    def _example(self) -> str:
        """The flags that fix the sizes of the inputs."""
        shapes = {i.name: i.shape or () for i in self.explainer.plain.inputs} | self._tried_sizes()[0]
        return _flags(shapes)


@dataclass(frozen=True)
class _Measured:
    """What one random input showed: the sizes, the outputs' difference and the heatmap's distance."""

    sizes: dict[str, list[int]]
    difference: float
    distance: float

    @property
    def good(self) -> bool:
        return self.difference <= LARGEST_DIFFERENCE and self.distance <= LARGEST_DISTANCE


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """max |a − b| / max |a| of floating-point outputs, max |a| at least _SMALL; the share that differs of others."""
    if expected.shape != found.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return float(np.mean(expected != found)) if expected.size else 0.0
    largest = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0))
    return relative(expected, found) * min(1.0, largest / _SMALL) if largest else relative(expected, found)


def _sizes(feeds: _Arrays) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in feeds.items()}


def _flags(shapes: Mapping[str, Sequence[Any]]) -> str:
    """The flags that fix the sizes of inputs."""
    return " ".join(f"--shape {name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _text(sizes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} of {'×'.join(map(str, shape)) or 'one value'}" for name, shape in sizes.items())


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : |Load model from \S* failed: ?", "", text)[:300]


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `export` stored in its file: target, layer, differences and the sizes at which it was run."""
    written = onnx.load(path, load_external_data=False)
    found: dict[str, Any] = json.loads(next(p.value for p in written.metadata_props if p.key == "onnx-analyzer"))
    return found
