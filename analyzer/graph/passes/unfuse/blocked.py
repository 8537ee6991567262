"""Files that onnxruntime saved at its highest level, channels in blocks (com.microsoft.nchwc), put back to NCHW.

There, channels are filled up with zeros to whole blocks of 8 or 16, whichever the machine's kernels take, and weights
are stored block by block. To the graph a blocked tensor is (N, C filled up, H, W): only weights have to be put in
order, and channels that only fill up are left out again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from analyzer.errors import UnsupportedError
from analyzer.graph.passes.shapes import inferred_shapes
from analyzer.graph.passes.unfuse.layers import activation
from analyzer.graph.passes.unfuse.table import Emit, Fused, add_constants, replace_outputs
from analyzer.graph.protos import replace_all
from analyzer.graph.source import Source

NCHWC = "com.microsoft.nchwc"
BLOCKS = (8, 16)
_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Upsample")
OPERATORS = ("Conv", "ReorderInput", "ReorderOutput", *_POOLS)
_ELEMENTWISE = (
    "Add", "Mul", "Sub", "Sum", "Max", "Min", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid",
    "HardSwish", "Elu", "Gelu", "QuickGelu", "Identity",
)  # fmt: skip


def unblock(source: Source) -> None:
    """Replaces the operators of com.microsoft.nchwc, and the weights they read.

    Raises:
        UnsupportedError: the weights cannot be put back in order with certainty.
    """
    graph = source.proto.graph
    if not any(n.domain == NCHWC for n in graph.node):
        return
    blocked = _Blocked(source)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        emit = Emit(f"{node.output[0]}/{node.op_type}")
        result = blocked.plain(emit, Fused(node, source))
        if not result:
            nodes.append(node)
            continue
        replace_outputs(emit, result, node)
        nodes.extend(emit.nodes)
        add_constants(source, emit)
    replace_all(graph.node, nodes)
    found = inferred_shapes(source.proto)
    for node in graph.node:
        own = blocked.cut.get(node.output[0]) if node.output else None
        if own is not None and (found.get(node.input[0]) or [0, None])[1] == own:
            node.op_type = "Identity"
            del node.input[1:]


def block_of_this_machine() -> int:
    """The block of onnxruntime's kernels: 16 channels with AVX-512 and on Arm, else 8."""
    from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]

    return 16 if features.get("AVX512F") or features.get("ASIMD") else 8


class _Blocked:
    """The blocked tensors of a graph, in groups that have the same channels: what is added, what a pool gives.

    Attributes:
        block: channels per block.
        own: {group: channels of the network, without those that only fill up}.
        cut: {tensor: own channels} of what enters the blocked part.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.tensors: set[str] = set()
        self.cut: dict[str, int] = {}
        self._parents: dict[str, str] = {}
        self._convs: list[Fused] = []
        self._filled: dict[str, int] = {}
        self._stated: dict[str, int] = {}
        self._whole: set[str] = set()
        candidates = set(BLOCKS)
        for node in source.proto.graph.node:
            candidates &= self._read(Fused(node, source))
        self._filled = {self.group(t): n for t, n in self._filled.items()}
        stated = [(self.group(t), n) for t, n in self._stated.items()]
        self._stated = dict(sorted(stated, key=lambda pair: pair[1]))
        self._stated |= {g: self._filled[g] for g in map(self.group, self._whole) if g in self._filled}
        fits = [b for b in sorted(candidates) if self._fits(b)]
        if not fits:
            raise self._refuse(f"its weights are not in blocks of {' or '.join(map(str, BLOCKS))}")
        here = block_of_this_machine()
        self.block = here if here in fits else fits[0]
        self.own = self._own()

    def _refuse(self, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.name} is optimized for one machine (blocked layout, com.microsoft.nchwc), and {why}",
            "use the file before optimization, or optimize it to the level `extended` at most",
        )

    # ---- Which tensors have which channels ----

    def group(self, tensor: str) -> str:
        while tensor in self._parents:
            tensor = self._parents[tensor]
        return tensor

    def _join(self, *tensors: str) -> None:
        first, *others = {self.group(t) for t in tensors}
        self._parents.update(dict.fromkeys(others, first))

    def _read(self, f: Fused) -> set[int]:
        """Notes what a node says of its tensors; the blocks that it allows."""
        op, given = f.node.op_type, [i for i in f.node.input if i in self.tensors]
        every = set(BLOCKS)
        if f.node.domain == NCHWC:
            if op == "ReorderOutput":
                self._stated[f[0]] = max(f.attr("channels"), self._stated.get(f[0], 0))
                return every
            self.tensors.add(f.node.output[0])
            if op == "Conv":
                return self._read_conv(f)
            if op in _POOLS:
                self._join(f[0], f.node.output[0])
            elif op != "ReorderInput":
                raise self._refuse(f"{op} (node {f.node.name!r}) is not supported")
            return every
        if not given:
            return every
        self.tensors.update(f.node.output)
        if op == "Concat" and f.attr("axis") == 1 and len(given) == len(f.node.input):
            self._whole.update([*given, f.node.output[0]])
            return every
        shape = f.known(1) if op == "Reshape" else None
        if shape is not None and shape.tolist()[:4] == [0, -1, 0, 0] and len(shape) < 6:
            self._join(f[0], f.node.output[0])  # (N, C, H, W) to blocks and back, to broadcast
            return {int(shape[4])} if len(shape) == 5 else every
        scalars = [f.known(i) for i, name in enumerate(f.node.input) if name and name not in self.tensors]
        if op not in _ELEMENTWISE or any(s is None or s.size != 1 for s in scalars):
            raise self._refuse(f"{op} (node {f.node.name!r}) reads a blocked tensor")
        self._join(*given, f.node.output[0])
        return every

    def _read_conv(self, f: Fused) -> set[int]:
        self._convs.append(f)
        result, (filters, channels, *_), groups = f.node.output[0], f.array(1).shape, f.attr("group", 1)
        self._filled[result] = filters
        sizes = [filters]
        if f[3]:
            self._join(f[3], result)
        if _depthwise(f):
            self._join(f[0], result)
        elif f[0] in self.tensors:
            sizes.append(channels)
            self._filled[f[0]] = channels * groups
            if groups > 1:
                self._whole.update([f[0], result])
        else:
            return {b for b in BLOCKS if filters % b == 0 and channels < b}
        return {b for b in BLOCKS if all(n % b == 0 for n in sizes)}

    # ---- Weights ----

    def _weight(self, f: Fused, block: int) -> np.ndarray:
        """(O, I, h, w) from blocks of filters, or of filters and channels."""
        stored = f.array(1)
        o, i, h, w = stored.shape
        if f[0] in self.tensors and not _depthwise(f):
            blocks = stored.reshape(o // block, i // block, h, w, block, block)
            return blocks.transpose(0, 5, 1, 4, 2, 3).reshape(o, i, h, w)
        return stored.reshape(o // block, i, h, w, block).transpose(0, 4, 1, 2, 3).reshape(o, i, h, w)

    def _fits(self, block: int) -> bool:
        """Whether what fills up, by the number of channels that the file states, is less than a block, and zero."""
        for f in self._convs:
            group = self.group(f.node.output[0])
            stated, filled = self._stated.get(group), self._filled[group]
            if stated is None or stated == filled:
                continue
            bias = f.array(2) if f[2] else np.zeros(filled)
            if filled - stated >= block or self._weight(f, block)[stated:].any() or bias[stated:].any():
                return False
        return True

    def _own(self) -> dict[str, int]:
        """What the file states, else up to the last channel with a weight that is not zero."""
        own = {g: max(n - self.block + 1, 1) for g, n in self._filled.items()}
        for f in self._convs:
            weight, result = self._weight(f, self.block), self.group(f.node.output[0])
            bias = f.array(2) if f[2] else np.zeros(len(weight))
            own[result] = max(own[result], _last(weight.any(axis=(1, 2, 3)) | (bias != 0)))
            if f[0] in self.tensors and f.attr("group", 1) == 1:
                read = self.group(f[0])
                own[read] = max(own[read], _last(weight.any(axis=(0, 2, 3))))
        return own | self._stated

    # ---- Nodes ----

    def plain(self, e: Emit, f: Fused) -> str:
        """Appends what a node means in NCHW and returns the result; "" where it means that already."""
        if f.node.domain != NCHWC:
            return e.Identity(f[0]) if f.node.op_type == "Reshape" and f[0] in self.tensors else ""
        own = self.own.get(self.group(f.node.output[0]))
        op = f.node.op_type
        if op == "Conv":
            return self._conv(e, f)
        if op == "ReorderInput":
            x = e.Transpose(f[0], perm=[0, 3, 1, 2]) if f.attr("channels_last", 0) else f[0]
            if own is None:
                return e.Identity(x)
            self.cut[f.node.output[0]] = own
            return _first(e, x, own)
        if op == "ReorderOutput":
            wanted = f.attr("channels")
            own = self.own.get(self.group(f[0]), wanted)
            x = f[0] if own == wanted else _first(e, f[0], wanted)
            return e.Transpose(x, perm=[0, 2, 3, 1]) if f.attr("channels_last", 0) else e.Identity(x)
        if op == "Upsample":
            mode = f.attr("coordinate_transformation_mode", "asymmetric")
            scales = np.asarray(f.attr("scales"), np.float32)
            options = {"coordinate_transformation_mode": mode, "nearest_mode": "floor"}
            return e.Resize(f[0], "", scales, mode=f.attr("mode", "nearest"), **options)
        return getattr(e, op)(f[0], **f.window("ceil_mode", "count_include_pad", "storage_order"))

    def _conv(self, e: Emit, f: Fused) -> str:
        own, groups = self.own[self.group(f.node.output[0])], f.attr("group", 1)
        weight = self._weight(f, self.block)[:own]
        if _depthwise(f):
            groups = own
        elif f[0] in self.tensors and groups == 1:
            weight = weight[:, : self.own[self.group(f[0])]]
        y = e.Conv(f[0], weight, f.array(2)[:own] if f[2] else "", **f.window() | {"group": groups})
        y = e.Add(y, f[3]) if f[3] else y
        return activation(e, f, y, f.attr("activation", ""), list(f.attr("activation_params", [])))


def _depthwise(f: Fused) -> bool:
    return f.attr("group", 1) > 1 and f.array(1).shape[:2] == (f.attr("group"), 1)


def _last(used: Any) -> int:
    """The number of channels up to the last used one."""
    return int(used.nonzero()[0].max(initial=-1)) + 1


def _first(e: Emit, x: str, channels: int) -> str:
    start, end, axis = ([n] for n in (0, channels, 1))
    return e.Slice(x, start, end, axis)
