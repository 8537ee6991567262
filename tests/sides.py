"""Sides of boxes as targets: the expression of a side follows the side that is decoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from analyzer.errors import InputError
from analyzer.graph import Builder, Graph
from analyzer.runtime import Session
from analyzer.tasks.detection import Detection
from analyzer.tasks.targets import expression


def follow(net: onnx.ModelProto, task: Detection, feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether sides can be explained. Where they can, a middle candidate's side, of random pictures, is its expression
    times a positive number plus a constant."""
    graph = Graph.read(net)
    place = sum(level.count for level in task.decoder.levels) // 2
    try:
        texts = [task.decoder.side(place, side) for side in range(4)]
    except InputError as error:
        assert "explain" in str(error)
        return False
    sides = [graph.add_output(expression(Builder(graph, f"side{at}"), text), f"side{at}").name
             for at, text in enumerate(texts)]  # fmt: skip
    session, rng = Session(graph, outputs=[*sides, *task.decoder.outputs]), np.random.default_rng(3)
    expected, found = [], []
    for _ in range(5):
        said = session.run({name: rng.uniform(0, 1, a.shape).astype(a.dtype) for name, a in feeds.items()})
        expected.append(task.decoder.candidates(task.answer(said)).boxes[place])
        found.append([said[name][0] for name in sides])
    for side, expressed in zip(np.array(expected).T, np.array(found, np.float64).T, strict=True):
        if not np.ptp(expressed):
            assert not np.ptp(side)
            continue
        slope, offset = np.polyfit(expressed, side, 1)
        assert slope > 0 and np.allclose(slope * expressed + offset, side, atol=1e-3 * np.ptp(side)), texts
    return True
