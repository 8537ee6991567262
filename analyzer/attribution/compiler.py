"""A model and a question made one graph: the forward pass with the methods appended, for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analyzer.analysis.feature_maps import FeatureMap, map_of_open_sizes
from analyzer.attribution.asked import task_of
from analyzer.attribution.centers import located
from analyzer.attribution.layers import float_image, pick_layer
from analyzer.attribution.lines import Centers, Located
from analyzer.attribution.methods import find_method
from analyzer.attribution.model import Model
from analyzer.attribution.postprocess import FLOAT32, heatmap, unfolded
from analyzer.attribution.question import Job, Question, Slot
from analyzer.attribution.registry import Context, Method
from analyzer.attribution.seeds import PREFIX, arrays_of, seeded
from analyzer.errors import AnalyzerError, UnsupportedError, refusing
from analyzer.gradient.idioms import idioms_for
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.query import fillings, image_input
from analyzer.runtime import Session
from analyzer.tasks import Task, task_from
from analyzer.tasks.targets import Arrays, expression

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Compiled:
    """A graph with a method appended: the names of its outputs per target slot, and the session once it runs.

    `graph` is None where it came from the cache.
    """

    graph: Graph | None
    method: Method
    layer: str
    slots: list[tuple[str, str, str, str]]
    scores: Task
    outputs: list[str]
    target_inputs: list[str]
    details: list[dict[str, str]] = field(default_factory=list)
    session: Session | None = None
    located: Located = field(default_factory=Located)

    def described(self) -> dict[str, Any]:
        """What `GraphCache` keeps of it, as plain data."""
        found = self.located.centers
        centers = None if found is None else [list(found.first), list(found.step)]
        about = {"method": self.method.name, "layer": self.layer, "slots": self.slots, "details": self.details}
        return about | {"centers": centers}

    @property
    def names(self) -> list[str]:
        """Every output that is read."""
        slots = [*self.slots, *(d.values() for d in self.details)]
        said = [*self.scores.reading, *(role.output for role in self.scores.others if role.task is not None)]
        return list(dict.fromkeys([*said, *(n for slot in slots for n in slot if n)]))


def compile_question(
    model: Model, question: Question, slots: Sequence[Slot] = (None,), shapes: Shapes | None = None
) -> list[Compiled]:
    """The model with all methods of the question appended to one graph, what they share once.

    Args:
        slots: for each target None for a class given at run time (input `xai/target…`, (N,) int64, −1 for top-1), an
            int for a class fixed in the graph (−1 for top-1), or an expression.
        shapes: sizes of the inputs that the file leaves open.

    Raises:
        UnsupportedError: a rule is missing, the target does not depend on the layer, or a method is not defined for
            this model or is no single graph.
    """
    model = model.about(question.explain_input)
    methods = [_single_graph(job) for job in question.jobs]
    graph, arrays = model.graph(shapes), arrays_of(model, question)
    op = Builder(graph, PREFIX)
    scores = task_of(model, question, graph)
    image, axes = float_image(graph)
    outputs, target_inputs = [v.name for v in graph.outputs], list[str]()
    batch = next(iter(image_input(graph).shape or ()), None)
    idioms = idioms_for(question.runtime)
    targets = [
        seeded(op, target_inputs, slot, scores, f"_{at}" if len(slots) > 1 else "", batch, arrays)
        for at, slot in enumerate(slots)
    ]
    found, layers = [], dict[tuple[str, str], FeatureMap]()
    for number, (job, method) in enumerate(zip(question.jobs, methods, strict=True)):
        compiled = Compiled(graph, method, "", [], scores, outputs, target_inputs)
        for at, (slot, target) in enumerate(zip(slots, targets, strict=True)):
            suffix = f"_{at}" if len(slots) > 1 else ""
            suffix += f"_{number}" if len(question.jobs) > 1 else ""
            feature = None
            if method.needs_layer:
                key = (job.layer, target.about.name)
                if key not in layers:
                    layers[key] = choose_layer(model, question, job.layer, graph, target.about, slot, shapes, arrays)
                feature = layers[key]
            policy = method.policy_for(job.options)
            ctx = Context(op, target.seeds, target.about, image, axes, feature, policy=policy, idioms=idioms)
            if feature is not None:
                compiled.located = located(model, feature, question.placement)
                ctx.centers = compiled.located.centers
            at_layer = f" at the layer {feature.name!r}" if feature else ""
            with refusing(f"{graph.name}: {method.name} does not fit this model{at_layer}"):
                raw = unfolded(ctx, op.cast(method.recipe(ctx, **job.options), FLOAT32), method.kind)
                heat = heatmap(ctx, raw, method.kind)
            names = {"raw": raw, "heatmap": heat, "class": target.classes}
            if isinstance(slot, str):
                names["value"] = op.cast(target.about, FLOAT32)
            given = [graph.add_output(value, f"{PREFIX}/{name}{suffix}").name for name, value in names.items()]
            compiled.slots.append((given[0], given[1], given[2], given[3] if len(given) > 3 else ""))
            compiled.details.append(
                {name: graph.add_output(v, f"{PREFIX}/{name}{suffix}").name for name, v in ctx.details.items()}
            )
            compiled.layer = feature.name if feature else ""
        found.append(compiled)
    return found


def _single_graph(job: Job) -> Method:
    method = find_method(job.method, job.options)
    if method.runs:
        raise UnsupportedError(
            f"{method.name} runs the model many times, so it cannot be a single graph",
            "use a single-run method, such as grad-cam",
        )
    return method


def choose_layer(
    model: Model,
    question: Question,
    layer: str,
    graph: Graph,
    about: Value,
    slot: Slot = None,
    shapes: Shapes | None = None,
    arrays: Arrays | None = None,
) -> FeatureMap:
    """The feature map called `layer`; for "auto" and open sizes, the one that is found where all sizes are known.

    Which map is the coarsest, and what its axes are, shows in sizes: so a file with open ones has the layer that it
    has for a picture.

    Args:
        about: the tensor of `graph` that is explained, made from `slot`.

    Raises:
        NotFoundError, UnsupportedError: as `pick_layer`.
    """
    for sizes in fillings(graph) if layer == "auto" else ():
        try:
            known = model.graph(dict(shapes or {}) | sizes)
            if isinstance(slot, str):
                score = expression(Builder(known, PREFIX), slot, arrays)
            else:
                score = task_of(model, question, known).logits
            return map_of_open_sizes(graph, pick_layer(known, "auto", score))
        except AnalyzerError:
            continue
    return pick_layer(graph, layer, about)


# ---- With a session ----


def ready(model: Model, question: Question, slots: Sequence[Slot], shapes: Shapes) -> list[Compiled]:
    """The question compiled, and a session over all of it; kept, and looked up in the model's cache."""
    key = (question.compiled_key(slots), model.chosen, tuple(sorted(shapes.items())))

    def made() -> list[Compiled]:
        found = model.cache.compiled(key) if model.cache else None
        if found is None:
            done = compile_question(model, question, slots, shapes)
            assert done[0].graph is not None
            stub = done[0].graph.stub(list(dict.fromkeys(n for one in done for n in one.names)))
            if model.cache and not any(one.located.doubt for one in done):  # it may be determined the next time
                model.cache.keep_compiled(key, _described(done), stub)
        else:
            about, stub = found
            done = _restored(about)
        session = model.session(stub)
        for one in done:
            one.session = session
        return done

    return model.kept(key, made)


def _described(done: Sequence[Compiled]) -> dict[str, Any]:
    """All that `_restored` needs, as plain data."""
    first, scores = done[0], done[0].scores
    return {
        "methods": [one.described() for one in done],
        "outputs": first.outputs,
        "target_inputs": first.target_inputs,
        "scores": scores.as_data(),
    }


def _restored(about: Mapping[str, Any]) -> list[Compiled]:
    scores = task_from(about["scores"])
    return [
        Compiled(
            None,
            find_method(one["method"], {}),
            one["layer"],
            [(a, b, c, d) for a, b, c, d in one["slots"]],
            scores,
            about["outputs"],
            about["target_inputs"],
            one["details"],
            located=Located(Centers(*map(tuple, one["centers"]))) if one.get("centers") else Located(),
        )
        for one in about["methods"]
    ]
