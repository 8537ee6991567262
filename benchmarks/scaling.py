"""Seconds to build the augmented graph, against the number of nodes.

python -m benchmarks.scaling [--nodes 100 1000 10000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer import append_vjp


def chain(nodes: int) -> onnx.ModelProto:
    """Conv–Relu–Add blocks, `nodes` nodes in all, on a small map."""
    rng = np.random.default_rng(0)
    made, weights, value, scale = [], [], "x", min(0.1, 1 / nodes)  # finite at any depth
    for index in range(nodes // 3):
        weights.append(
            numpy_helper.from_array(scale * rng.standard_normal((4, 4, 3, 3)).astype(np.float32), f"w{index}")
        )
        made.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        made.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        made.append(helper.make_node("Add", [f"r{index}", value], [f"a{index}"]))
        value = f"a{index}"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("x", value)]
    graph = helper.make_graph(made, "chain", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="+", type=int, default=[100, 1000, 10000])
    for count in parser.parse_args().nodes:
        model = chain(count)
        start = time.perf_counter()
        result = append_vjp(model, [model.graph.output[0].name], ["x"])
        seconds = time.perf_counter() - start
        print(f"{count} nodes: {seconds:.2f} s to append the gradient ({len(result.model.graph.node)} nodes after)")


if __name__ == "__main__":
    main()
