"""Backpropagation with another rule at the rectifiers."""

from __future__ import annotations

from collections.abc import Callable

from analyzer.attribution.methods.cam import grad_cam
from analyzer.attribution.postprocess import resize_to_image
from analyzer.attribution.registry import Context, method
from analyzer.errors import InputError
from analyzer.gradient.policies import DECONVNET, DECONVNET_ALL, GUIDED, GUIDED_ALL, Policy
from analyzer.graph import Value


def _by_activations(rectifiers: Policy, everywhere: Policy) -> Callable[[str], Policy]:
    def chosen(activations: str) -> Policy:
        if activations not in ("relu", "all"):
            raise InputError(f"no activations {activations!r}", "choose 'relu' (as in the papers) or 'all'")
        return rectifiers if activations == "relu" else everywhere

    return chosen


_guided, _deconvnet = _by_activations(GUIDED, GUIDED_ALL), _by_activations(DECONVNET, DECONVNET_ALL)


@method("guided-backprop", "gradient", "Springenberg et al. 2014, 1412.6806, section 3.4", policy=_guided)
def guided_backprop(ctx: Context, activations: str = "relu") -> Value:
    """R = ∂y/∂x with x̄ = 1[x > 0] ⊙ 1[ȳ > 0] ⊙ ȳ at every rectifier (activations="all": at SiLU, GELU… as well)"""
    return ctx.pull(ctx.image)


@method("deconvnet", "gradient", "Zeiler & Fergus 2014, 1311.2901, section 2.1", policy=_deconvnet)
def deconvnet(ctx: Context, activations: str = "relu") -> Value:
    """R = ∂y/∂x with x̄ = ReLU(ȳ) at every rectifier; max-pooling is undone by its switches"""
    return ctx.pull(ctx.image)


@method(
    "guided-grad-cam", "gradient", "Selvaraju et al. 2017, 1610.02391, section 3.2", needs_layer=True, policy=GUIDED
)
def guided_grad_cam(ctx: Context) -> Value:
    """R = guided backpropagation ⊙ U(Grad-CAM), U bilinear to the size of the image"""
    op = ctx.op
    spread = resize_to_image(ctx, grad_cam(ctx))
    wide = op.Unsqueeze(spread, [ctx.image_axes.index("C")])
    guided = ctx.pull(ctx.image)
    return op.Mul(guided, op.cast(wide, guided.dtype))
