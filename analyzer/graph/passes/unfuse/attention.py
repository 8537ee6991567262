"""Fused attention as products, a softmax and masks."""

from __future__ import annotations

import numpy as np
import onnx

from analyzer.graph.passes.unfuse.quantized import real_weight
from analyzer.graph.passes.unfuse.table import Emit, Fused, unfuse

LOWEST = -65504.0  # of float16: e to that is 0 in every type


@unfuse("MultiHeadAttention")
def multi_head_attention(e: Emit, f: Fused) -> list[str]:
    """y = softmax(scale · q kᵀ + attention_bias + masks) v per head.

    q is (N, S, heads · d); k and v likewise, or by head, (N, heads, T, d). Where k and v are packed they are
    (N, T, heads, 2, d), and where q is as well, (N, S, heads, 3, d).
    """
    if f[8] or f[9]:
        raise f.refuse("it writes to a cache that the caller shares")
    heads = f.attr("num_heads")
    if not f[1]:
        packed = f[0]
        if f[3]:  # (q, k, v) of all heads, one after the other
            parts = e.Reshape(f[3], [3, heads, -1])
            packed = e.Add(packed, e.Transpose(parts, perm=[1, 0, 2]))
        query, key, value = _unpacked(e, packed, 3)
    elif not f[2]:
        if f[3]:
            raise f.refuse("it adds a bias to a packed key and value")
        query = _by_head(e, f[0], heads)
        key, value = _unpacked(e, f[1], 2)
    else:
        apart = len(f.shape(1)) == 4
        added = _biases(e, f, apart)
        query, key, value = (e.Add(x, b) if b else x for x, b in zip((f[0], f[1], f[2]), added, strict=True))
        query = _by_head(e, query, heads)
        key, value = (key, value) if apart else (_by_head(e, key, heads), _by_head(e, value, heads))
    past = f[6]
    if past:
        key, value = e.Concat(past, key, axis=2), e.Concat(f[7], value, axis=2)
    y = _attend(e, f, (query, key, value), f[4], 4, past)
    return [y, *(e.Identity(x) for x in (key, value) if len(f.node.output) > 1)]


def _unpacked(e: Emit, packed: str, count: int) -> list[str]:
    """(N, T, heads, count, d) as `count` tensors (N, heads, T, d)."""
    turned = e.Transpose(packed, perm=[3, 0, 2, 1, 4])
    parts = e.node("Split", [turned], count, axis=0, num_outputs=count)
    return [e.Squeeze(part, [0]) for part in parts]


def _biases(e: Emit, f: Fused, only_query: bool) -> list[str]:
    """The parts of the bias that go to q, k and v. onnxruntime adds none to k and v that come by head."""
    if not f[3]:
        return ["", "", ""]
    if only_query:
        return [e.Slice(f[3], [0], e.Shape(f[0], start=2)), "", ""]
    sizes = e.Concat(*(e.Shape(f[i], start=2) for i in range(3)), axis=0)
    return e.node("Split", [f[3], sizes], 3, axis=0)


def _by_head(e: Emit, x: str, heads: int) -> str:
    """(N, L, heads · d) as (N, heads, L, d)."""
    return e.Transpose(e.Reshape(x, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


@unfuse("Attention")
def attention(e: Emit, f: Fused) -> list[str]:
    """q, k, v = split(x W + b), then as MultiHeadAttention."""
    if f.attr("do_rotary", 0):
        raise f.refuse("it applies rotary embeddings itself (do_rotary)")
    if f[6]:
        raise f.refuse("it writes to a cache that the caller shares")
    packed = e.MatMul(f[0], f[1])
    return _self_attention(e, f, e.Add(packed, f[2]) if f[2] else packed, 3, f[4])


@unfuse("QAttention")
def quantised_attention(e: Emit, f: Fused) -> list[str]:
    """As Attention, with x and W in eight bits."""
    if f.attr("do_rotary", 0):
        raise f.refuse("it applies rotary embeddings itself (do_rotary)")
    packed = e.MatMul(e.DequantizeLinear(f[0], f[3], f[6]), real_weight(e, f, 1, 4, 7))
    return _self_attention(e, f, e.Add(packed, f[2]) if f[2] else packed, 5, f[8])


def _self_attention(e: Emit, f: Fused, packed: str, mask: int, past: str) -> list[str]:
    sizes = f.attr("qkv_hidden_sizes")
    parts = [packed, np.asarray(sizes, np.int64)] if sizes else [packed]
    split = e.node("Split", parts, 3, axis=-1, **({} if sizes else {"num_outputs": 3}))
    query, key, value = (_by_head(e, x, f.attr("num_heads")) for x in split)
    if past:
        before = e.node("Split", [past], 2, axis=0, num_outputs=2)
        key, value = (
            e.Concat(e.Squeeze(b, [0]), x, axis=2) for b, x in zip(before, (key, value), strict=True)
        )  # fmt: skip
    y = _attend(e, f, (query, key, value), f[mask], mask, past)
    if len(f.node.output) < 2:
        return [y]
    return [y, e.Concat(e.Unsqueeze(key, [0]), e.Unsqueeze(value, [0]), axis=0)]


def _attend(e: Emit, f: Fused, parts: tuple[str, str, str], mask: str, index: int, past: str) -> str:
    """softmax(scale · q kᵀ + …) v, heads side by side again; `mask` is the input `index`."""
    query, key, value = parts
    scores = e.MatMul(query, e.Transpose(key, perm=[0, 1, 3, 2]))
    if f.attr("scale"):
        scores = e.Mul(scores, e.scalar_like(f.attr("scale"), scores))
    else:
        width = e.CastLike(e.Shape(query, start=3, end=4), scores)
        scores = e.Div(scores, e.Sqrt(width))
    if f.node.op_type != "QAttention" and f[5]:
        scores = e.Add(scores, f[5])
    if mask:
        hidden = e.scalar_like(f.attr("mask_filter_value", -10000.0), scores)
        seen = _seen(e, f, mask, index, e.Shape(key, start=2, end=3))
        scores = e.Add(scores, e.Where(seen, e.scalar_like(0.0, scores), hidden))
    if f.attr("unidirectional", 0):
        scores = e.Where(_earlier(e, query, key, past), scores, e.scalar_like(LOWEST, scores))
    y = e.Transpose(e.MatMul(e.Softmax(scores, axis=-1), value), perm=[0, 2, 1, 3])
    return e.Reshape(y, [0, 0, -1])


def _seen(e: Emit, f: Fused, mask: str, index: int, length: str) -> str:
    """Which keys a mask lets through, to be broadcast over (N, heads, S, T).

    The mask is 1 where it does, (N, T) or (N, S, T); or it holds the ends of the sequences, (N), or their ends and
    then their beginnings, (2 N).
    """
    shape = f.shape(index)
    if len(shape) in (2, 3):
        through = e.Greater(mask, e.CastLike(np.int64(0), mask))
        return e.Unsqueeze(through, [1, 2] if len(shape) == 2 else [1])
    batch = f.shape(0)[0]
    if len(shape) != 1 or shape[0] not in (batch, 2 * batch if isinstance(batch, int) else None):
        raise f.refuse(f"its mask has an unknown form, {list(shape)} for a batch of {batch}")
    mask = e.Cast(mask, to=onnx.TensorProto.INT64)
    place = e.Range(np.int64(0), e.Squeeze(length, [0]), np.int64(1))
    column = [-1, 1, 1, 1]
    if shape[0] == batch:
        return e.Less(place, e.Reshape(mask, column))
    ends, starts = e.node("Split", [mask], 2, axis=0, num_outputs=2)
    before_end = e.Less(place, e.Reshape(ends, column))
    return e.And(before_end, e.Less(e.Sub(e.Reshape(starts, column), [1]), place))


def _earlier(e: Emit, query: str, key: str, past: str) -> str:
    """(S, T): which keys come no later than the query. The first query follows the past; the last one sees all keys,
    in onnxruntime also where there are more of them."""
    rows, columns = (e.Shape(x, start=2, end=3) for x in (query, key))
    row = e.Range(np.int64(0), e.Squeeze(rows, [0]), np.int64(1))
    reach = e.Add(row, e.Shape(past, start=-2, end=-1)) if past else row
    reach = e.Where(e.Equal(row, e.Sub(rows, [1])), columns, reach)
    return e.LessOrEqual(e.Range(np.int64(0), e.Squeeze(columns, [0]), np.int64(1)), e.Unsqueeze(reach, [1]))


@unfuse("RotaryEmbedding")
def rotary_embedding(e: Emit, f: Fused) -> str:
    """(a cos − b sin, b cos + a sin) of the pairs (a, b) of each head; what lies behind the turned part stays.

    The pairs are the two halves, or neighbours where `interleaved`. Angles are by position: of its own for each token,
    or counted from one offset.
    """
    if f.attr("is_packed_batching", 0):
        raise f.refuse("its sequences are packed without padding")
    if f.attr("scale", 1.0) != 1.0:
        raise f.refuse("it has a custom scale, which the runtime ignores")
    flat, turned = len(f.shape(0)) == 3, 2 * f.array(2).shape[1]
    heads = f.attr("num_heads", 0)
    size = np.array([0, 0, heads, -1] if heads else [0, 0, -1, turned], np.int64)
    x = e.Transpose(e.Reshape(f[0], size), perm=[0, 2, 1, 3]) if flat else f[0]
    positions = f[1]
    if len(f.shape(1)) == 1:
        count = e.Squeeze(e.Shape(x, start=2, end=3), [0])
        positions = e.Unsqueeze(e.Add(e.Range(np.int64(0), count, np.int64(1)), positions), [0])
    cos, sin = (e.Unsqueeze(e.Gather(f[i], positions, axis=0), [1]) for i in (2, 3))
    end = [np.iinfo(np.int64).max]
    head, tail = e.Slice(x, [0], [turned], [-1]), e.Slice(x, [turned], end, [-1])
    if f.attr("interleaved", 0):
        a, b = (e.Slice(head, [i], end, [-1], [2]) for i in (0, 1))
    else:
        a, b = e.node("Split", [head], 2, axis=-1, num_outputs=2)
    new = [e.Sub(e.Mul(a, cos), e.Mul(b, sin)), e.Add(e.Mul(b, cos), e.Mul(a, sin))]
    if f.attr("interleaved", 0):
        pairs = e.Concat(*(e.Unsqueeze(n, [-1]) for n in new), axis=-1)
        y = e.Reshape(pairs, e.Shape(head))
    else:
        y = e.Concat(*new, axis=-1)
    y = e.Concat(y, tail, axis=-1)
    return e.Reshape(e.Transpose(y, perm=[0, 2, 1, 3]), e.Shape(f[0])) if flat else y


@unfuse("EmbedLayerNormalization")
def embed_layer_normalization(e: Emit, f: Fused) -> list[str]:
    """LayerNormalization of word + position + segment; the mask as lengths; the sum."""
    ids = f[0]
    place = f[8]
    if not place:
        count = e.Squeeze(e.Shape(ids, start=1, end=2), [0])
        place = e.Range(np.int64(0), count, np.int64(1))
    total = e.Add(e.Gather(f[2], ids, axis=0), e.Gather(f[3], place, axis=0))
    total = e.Add(total, e.Gather(f[4], f[1], axis=0)) if f[4] else total
    y = e.LayerNormalization(total, f[5], f[6], axis=-1, epsilon=f.attr("epsilon", 1e-12))
    seen = e.Cast(f[7], to=onnx.TensorProto.INT32) if f[7] else e.Expand(np.int32(0), e.Shape(ids))
    lengths = e.node("ReduceSum", [seen, [1]], keepdims=0)[0]
    return [y, lengths, total]
