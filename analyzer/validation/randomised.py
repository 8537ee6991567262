"""A model whose head is shuffled: a map that does not change with it does not explain the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from analyzer.attribution import Explainer
from analyzer.graph import Source
from analyzer.graph.protos import copied


def randomised_head(explainer: Explainer, seed: int) -> Source:
    """The model with the weights of its last matrix product or convolution shuffled; it shares all others.

    Source: Adebayo et al. 2018, 1810.03292, the first step of its cascading randomisation.
    """
    source = explainer.source()
    proto, detached = copied(source.proto), dict(source.detached)
    weights = {t.name: t for t in proto.graph.initializer}
    heads = [
        n.input[1]
        for n in proto.graph.node
        if n.op_type in ("Gemm", "MatMul", "Conv") and n.input[1] in weights and len(weights[n.input[1]].dims) > 1
    ]
    quantised = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    heads = heads or [
        quantised[n.input[1]]
        for n in proto.graph.node
        if n.op_type in ("Gemm", "MatMul", "Conv") and quantised.get(n.input[1]) in weights
    ]
    if heads:
        tensor = weights[heads[-1]]
        array = detached[tensor.name] if tensor.name in detached else numpy_helper.to_array(tensor)
        shuffled = np.random.default_rng(seed).permutation(array.flatten()).reshape(array.shape)
        if tensor.name in detached:
            detached[tensor.name] = np.ascontiguousarray(shuffled)
        else:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(shuffled), tensor.name))
    # No path and no hash: it is another model, whose identity is that of its weights.
    return replace(source, proto=proto, detached=detached, path=None, sha256="", inlined="")
