"""One form for every model: the passes, in order, each with what it needs and what holds afterwards.

The passes see a `Source`, whose large weights are stubs, so all of them are cheap for a model of any size.
Names of inputs, outputs and intermediate tensors survive; only nodes change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import onnx

from analyzer.errors import UnsupportedError, refusing
from analyzer.graph.load import load
from analyzer.graph.passes.contract import Pass, Request
from analyzer.graph.passes.control import body_constants, control_flow_pass, lift_constants_pass
from analyzer.graph.passes.forms import (
    explicit_pads_pass,
    inference_form_pass,
    pads_left,
    plain_sizes_pass,
    unique_names_pass,
)
from analyzer.graph.passes.functions import inline_functions_pass, inline_newer_pass
from analyzer.graph.passes.inputs import (
    batch_axis_pass,
    fold_initializer_inputs_pass,
    input_shapes_pass,
    open_sizes_pass,
    unnamed_sizes,
)
from analyzer.graph.passes.opset import lower_pass, opset_pass, restore_pass, set_aside_pass
from analyzer.graph.passes.shapes import shapes_pass, types_missing
from analyzer.graph.passes.unfuse import fused_left, unfuse_pass
from analyzer.graph.passes.written_out import squashing_pass
from analyzer.graph.protos import copied
from analyzer.graph.source import Source

PASSES: tuple[Pass, ...] = (
    Pass("fold initializer inputs", fold_initializer_inputs_pass),
    Pass("batch axis", batch_axis_pass),
    Pass("input shapes", input_shapes_pass),
    Pass("open sizes", open_sizes_pass, unnamed_sizes),
    Pass("inline functions", inline_functions_pass, lambda s: [f.name for f in s.proto.functions]),
    Pass("inline newer operators", inline_newer_pass),
    Pass("control flow", control_flow_pass),
    Pass("lower", lower_pass),
    Pass("set aside", set_aside_pass),
    Pass("opset", opset_pass),
    Pass("restore", restore_pass),
    Pass("un-fuse", unfuse_pass, fused_left),
    Pass("lift constants", lift_constants_pass, body_constants),
    Pass("squashing", squashing_pass),
    Pass("unique names", unique_names_pass),
    Pass("inference form", inference_form_pass),
    Pass("explicit pads", explicit_pads_pass, pads_left),
    Pass("plain sizes", plain_sizes_pass),
    Pass("shapes", shapes_pass, types_missing),
)


def normalize(
    model: Any,
    inline: Iterable[str] = (),
    input_shapes: dict[str, tuple[int, ...]] | None = None,
    types: Iterable[onnx.ValueInfoProto] = (),
    batch: bool = False,
) -> Source:
    """Rewrite `model` into the one form the rules know; outputs stay what they were.

    Args:
        model: anything `load` takes.
        inline: operators to replace by the function body of their schema.
        input_shapes: sizes to fix for inputs whose dimensions are symbolic in the file.
        types: of tensors that inference cannot know, those of custom operators.
        batch: give a picture without a batch axis such an axis.

    Raises:
        UnsupportedError: a node cannot be brought to opset 21, or a pass broke its promise.
    """
    given = load(model)
    source = replace(given, proto=copied(given.proto), detached=dict(given.detached))
    request = Request(frozenset(inline), tuple((input_shapes or {}).items()), tuple(types), batch)
    for step in PASSES:
        with refusing(f"{source.name}: the pass {step.name!r} cannot handle this model"):
            step.run(source, request)
            broken = list(step.holds(source))
        if broken:
            sizes = ", ".join(f"{name!r} of {'×'.join(map(str, shape))}" for name, shape in request.input_shapes)
            raise UnsupportedError(
                f"{source.name}: after the pass {step.name!r}: " + "; ".join(broken[:5]),
                f"read for {sizes}; if the model takes another size, set it (--size, --shape)" if sizes else "",
            )
    return source
