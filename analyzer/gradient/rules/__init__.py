"""The rules, by family. Each module registers its rules when it is imported."""

from analyzer.gradient.rules import (
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    nothing,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    sampling,
    shaping,
    spectral,
)

FAMILIES = (
    control,
    elementwise,
    reduction,
    normalization,
    quantization,
    linear,
    convolution,
    pooling,
    resampling,
    sampling,
    spectral,
    shaping,
    recurrent,
    indexing,
    nothing,
)
