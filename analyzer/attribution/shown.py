"""The scores that are shown: those of the file as it is deployed, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analyzer.analysis.scores import Quantisation, output_quantisers
from analyzer.attribution.model import Model, sizes_of
from analyzer.runtime import Session
from analyzer.tasks import Task


def shown_outputs(
    model: Model, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, Quantisation]
) -> dict[str, np.ndarray]:
    """What the model outputs, quantised numbers as the real ones that they stand for.

    Of a quantised file, what that gives as it is deployed, bit for bit.

    Args:
        outputs: {output: what its numbers stand for}.
    """
    names = list(outputs)
    session = model.deployed if model.quantised else None
    if session is None:
        key = ("scores", tuple(sorted(sizes_of(feeds).items())), *names)
        session = model.kept(key, lambda: model.session(model.graph_of(feeds), names))
    found = session.run(feeds, names)
    return {name: known.real(found[name]) for name, known in outputs.items()}


def tied_classes(model: Model, feeds: dict[str, np.ndarray], scores: Task, shown: np.ndarray) -> tuple[np.ndarray, str]:
    """((N,) classes that tie at the ceiling of a quantiser between the last layer and the scores, its node)"""
    none = np.zeros(len(shown), np.int64)
    if not model.quantised or scores.space:
        return none, ""
    alike = (shown == shown.max(axis=-1, keepdims=True)).sum(axis=-1)
    if not (alike > 1).any():
        return none, ""

    def compiled() -> tuple[Session | None, dict[str, str]]:
        graph = model.graph_of(feeds)
        nodes = output_quantisers(graph, [scores.output.name])
        nodes = [n for n in nodes if str(n.outputs[0].dtype) in ("int8", "uint8", "int16", "uint16")]
        named = {graph.add_output(n.outputs[0]).name: n.name or n.outputs[0].name for n in nodes}
        if not named:
            return None, named
        return model.session(graph, list(named)), named

    key = ("ceilings", tuple(sorted(sizes_of(feeds).items())), scores.output.name)
    session, named = model.kept(key, compiled)
    for name, values in (session.run(feeds) if session is not None else {}).items():
        full = (values == np.iinfo(values.dtype).max).reshape(len(shown), -1).sum(axis=-1)
        at = (alike > 1) & (full > 1)
        if at.any():
            return np.where(at, np.minimum(alike, full), none), named[name]
    return none, ""


def doubt_of(scores: Task, output: np.ndarray, count: int) -> str:
    """`Task.doubt`, and what only a run shows: rows that are not images, such as boxes after NonMaxSuppression."""
    if scores.doubt or scores.per_picture or not scores.batched or not output.ndim or len(output) == count:
        return scores.doubt
    return (
        f"{scores.output.name!r} has {len(output)} rows for {count} image{'s' * (count > 1)}, so they are not class "
        "scores; write the target as an expression of the scores before boxes are selected (docs/targets.md)"
    )


def tie_of(tied: np.ndarray, quantiser: str) -> str:
    """How many classes tie at the maximum of the output's quantiser, as a sentence; "" if none do."""
    if not quantiser:
        return ""
    where = "" if len(tied) == 1 else f" for {np.count_nonzero(tied)} of {len(tied)} images"
    return (
        f"{tied.max()} classes tie at the maximum of the output's quantizer (node {quantiser!r}){where}: its range is "
        "too narrow to separate them, and top1 is the first of them"
    )
