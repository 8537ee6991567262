"""Weights of a few bits, packed by onnxruntime's weight-only quantisers.

What the runtime computes in float32 gets the weights that it computes with, dequantised. What it computes in eight
bits (accuracy level 4) gets a DequantizeLinear per block, which the runtime fuses to the same kernel again.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from analyzer.graph.passes.unfuse.table import Emit, Fused, unfuse

IN_EIGHT_BITS = 4  # MatMulNBits.accuracy_level


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """(…, bytes) as (…, bytes · 8 / bits) numbers, the lowest bits of a byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*data.shape[:-1], -1)


@unfuse("MatMulNBits")
def matmul_nbits(e: Emit, f: Fused) -> str:
    """Y = A ((Q − z) s)ᵀ + bias, Q (N, K) of `bits` bits, z and s one per block of `block_size` along K."""
    bits, block, rows, columns = (f.attr(n, 4) for n in ("bits", "block_size", "K", "N"))
    if f[4]:
        raise f.refuse("its columns are permuted (g_idx)", "quantize it again without act_order")
    if f.attr("weight_prepacked", 0):
        raise f.refuse("its weights are packed for one kind of GPU (weight_prepacked)")
    if bits not in (2, 4, 8):
        raise f.refuse(f"it has {bits}-bit weights", "quantize it to 2, 4 or 8 bits")
    blocks = -(-rows // block)
    q = unpacked(f.array(1).reshape(columns, -1), bits)[:, :rows]
    scales = f.array(2).reshape(columns, blocks)
    zeros = np.full((columns, blocks), 1 << (bits - 1), np.uint8)
    if f[3]:
        zeros = f.array(3).reshape(columns, -1)
        zeros = unpacked(zeros, bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros
    weight: Any
    if f.attr("accuracy_level", 0) == IN_EIGHT_BITS and zeros.dtype == np.uint8:
        weight = _blockwise(e, q.T, scales.T, zeros.T if f[3] else None, bits, block)
    else:
        weight = _dequantized(q, scales, zeros, block)
    y = e.MatMul(f[0], weight)
    return e.Add(y, f[5]) if f[5] else y


def _dequantized(q: np.ndarray, scales: np.ndarray, zeros: np.ndarray, block: int) -> np.ndarray:
    """((Q − z) s)ᵀ, a few columns at a time: large weights are there once."""
    columns, rows = q.shape
    weight = np.empty((rows, columns), scales.dtype)
    for start in range(0, columns, _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        s, z = (np.repeat(v[part].T.astype(np.float32), block, 0)[:rows] for v in (scales, zeros))
        weight[:, part] = (q[part].T - z) * s
    return weight


_AT_A_TIME = 256


def _blockwise(e: Emit, q: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int) -> str:
    """DequantizeLinear of (K, N) by blocks along K; without zero points the numbers are signed."""
    signed: Any = np.int8 if bits == 8 else ml_dtypes.int4
    unsigned: Any = np.uint8 if bits == 8 else ml_dtypes.uint4
    if zeros is None:
        whole = (q.astype(np.int16) - (1 << (bits - 1))).astype(np.int8).astype(signed)
        return e.DequantizeLinear(whole, np.ascontiguousarray(scales), axis=0, block_size=block)
    return e.DequantizeLinear(
        q.astype(unsigned), np.ascontiguousarray(scales), zeros.astype(unsigned), axis=0, block_size=block
    )


@unfuse("GatherBlockQuantized")
def gather_block_quantized(e: Emit, f: Fused) -> str:
    """Gather from (Q − z) s, by blocks along `quantize_axis`; bytes hold `bits` bits, along the last axis."""
    data, scales, bits = f.array(0), f.array(2), f.attr("bits", 4)
    axis = f.attr("quantize_axis", 1) % data.ndim
    zeros = f.array(3) if f[3] else None
    if data.dtype == np.uint8:
        data = unpacked(data, bits)
        every = np.full(scales.shape, 1 << (bits - 1), np.uint8)
        zeros = every if zeros is None else unpacked(zeros, bits)[tuple(map(slice, scales.shape))]
    block = f.attr("block_size", 128) or data.shape[axis]

    def wide(values: np.ndarray) -> np.ndarray:
        return np.take(np.repeat(values.astype(np.float32), block, axis), range(data.shape[axis]), axis)

    real = data.astype(np.float32)
    real = (real if zeros is None else real - wide(zeros)) * wide(scales)
    return e.Gather(real.astype(scales.dtype), f[1], axis=f.attr("gather_axis", 0))


_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
_FP4 = [0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]


@unfuse("MatMulBnb4")
def matmul_bnb4(e: Emit, f: Fused) -> str:
    """Y = A Wᵀ, W (N, K) from a table of sixteen numbers times the largest of its block, the higher bits first."""
    rows, columns, block = f.attr("K"), f.attr("N"), f.attr("block_size")
    table = np.asarray(_NF4 if f.attr("quant_type") else [*_FP4, *(-v for v in _FP4)], np.float32)
    packed, largest = f.array(1).reshape(-1), f.array(2).reshape(-1)
    values = table[np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: rows * columns]]
    values *= np.repeat(largest.astype(np.float32), block)[: rows * columns]
    weight = values.reshape(columns, rows).astype(largest.dtype)
    return e.MatMul(f[0], np.ascontiguousarray(weight.T) if f.attr("transB", 1) else weight)
