"""The kernels that onnxruntime runs after its optimisation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import onnx

from analyzer.errors import OutputError, UnsupportedError
from analyzer.files import temporary_folder
from analyzer.graph import Graph
from analyzer.runtime.session import Session

INTEGER = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
# Nodes that only carry a value from one kernel's form to another's, or to the reader.
COPIES = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput", "Cast", "Identity"}
)


def kernels(graph: Graph, provider: str, outputs: Sequence[str], **options: Any) -> dict[str, int]:
    """{operator: how many} of the optimised graph that gives `outputs`, by name.

    Args:
        options: as for `Session`.

    Raises:
        OutputError: there is no room in the folder for temporary files. As `Session` besides.
    """
    with temporary_folder() as folder:
        file = folder / "plan.onnx"
        with suppress(OSError, NotImplementedError):  # where there are no links, the weights are written
            file.with_name("plan.onnx.weights").symlink_to(os.devnull)
        try:
            Session(graph, provider, outputs=outputs, plan_file=file, **options)
        except UnsupportedError as error:
            if "serialization failed" in error.message:
                raise OutputError(f"{folder}: cannot be written to", "free some space there, or set TMPDIR") from None
            raise
        nodes = onnx.load(file, load_external_data=False).graph.node
        return dict(sorted(Counter(n.op_type for n in nodes).items()))


def kernel_difference(plain: Mapping[str, int], tapped: Mapping[str, int]) -> dict[str, Any]:
    """How the kernels with taps differ from those without.

    Returns:
        {"same": no kernel but copies differs, "kernels": {operator: [plain, tapped]} of all that differ,
        "integer": [plain, tapped] kernels of integer arithmetic, "words": a sentence, "" where they are the same}.
    """
    changed = {op: [plain.get(op, 0), tapped.get(op, 0)] for op in sorted({*plain, *tapped})}
    changed = {op: counts for op, counts in changed.items() if counts[0] != counts[1]}
    integer = [sum(n for op, n in plan.items() if op.startswith(INTEGER)) for plan in (plain, tapped)]
    computing = {op: counts for op, counts in changed.items() if op not in COPIES}
    words = []
    if integer[1] < integer[0]:
        words.append(f"{integer[0] - integer[1]} of {integer[0]} integer kernels run in floating point")
    if computing:
        words.append(", ".join(f"{op} {a} → {b}" for op, (a, b) in computing.items()))
    return {"same": not computing, "kernels": changed, "integer": integer, "words": "; ".join(words)}
