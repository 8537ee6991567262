"""The part of onnx-graphsurgeon that `analyzer.graph` uses, typed: the package has no types of its own."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx

Shape = Sequence[int | str | None]

class Tensor:
    name: str
    dtype: Any  # np.dtype; an int of TensorProto.DataType where NumPy has no such type; None where unknown
    inputs: list[Node]
    outputs: list[Node]
    @property
    def shape(self) -> Shape | None: ...
    @shape.setter
    def shape(self, shape: Shape | None) -> None: ...
    def is_empty(self) -> bool: ...

class Variable(Tensor):
    def __init__(self, name: str, dtype: Any = None, shape: Shape | None = None, type: str = ...) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    values: np.ndarray
    def __init__(self, name: str, values: np.ndarray) -> None: ...

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        domain: str | None = None,
    ) -> None: ...
    def subgraphs(self, recursive: bool = False) -> Iterator[Graph]: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    name: str
    opset: int
    def __init__(
        self,
        nodes: Sequence[Node] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        name: str | None = None,
        doc_string: str | None = None,
        opset: int | None = None,
    ) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
