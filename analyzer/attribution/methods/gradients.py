"""Gradients with respect to the image."""

from __future__ import annotations

from analyzer.attribution.registry import Context, method
from analyzer.graph import Value


@method("gradient", "gradient", "Simonyan et al. 2013, 1312.6034, section 3", views=("map", "rgb"))
def gradient(ctx: Context) -> Value:
    """R = ∂y/∂x"""
    return ctx.gradient(ctx.image)


@method("input-x-gradient", "gradient", "Shrikumar et al. 2016, 1605.01713", views=("signed",))
def input_x_gradient(ctx: Context) -> Value:
    """R = x ⊙ ∂y/∂x, x the preprocessed image"""
    gradient = ctx.gradient(ctx.image)
    return ctx.op.Mul(ctx.op.cast(ctx.image, gradient.dtype), gradient)
