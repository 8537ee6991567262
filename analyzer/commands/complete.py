"""What the shell is offered where a value is completed."""

from __future__ import annotations

from collections.abc import Iterable

import click


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from analyzer.attribution.methods import METHODS

    return _beginning(incomplete, METHODS)


def method_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of options, of the methods that were typed or of all."""
    from analyzer.attribution.methods import METHODS

    typed = ctx.params.get("methods") or ctx.params.get("method") or ()
    chosen = [typed] if isinstance(typed, str) else list(typed)
    known = [METHODS[name] for name in chosen if name in METHODS] or METHODS.values()
    return _beginning(incomplete, dict.fromkeys(f"{name}=" for method in known for name in method.options))


def providers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return _beginning(incomplete, ("cpu", "cuda", "cuda:0", "cuda:1", "tensorrt", "auto"))


def colormaps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from analyzer.images import COLORMAPS

    return _beginning(incomplete, COLORMAPS)


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from analyzer.images import PRESETS

    return _beginning(incomplete, PRESETS)


def operators(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from analyzer.gradient.catalog import catalog

    return _beginning(incomplete, dict.fromkeys(row.op for row in catalog()))


def layers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Tensors of the model that was typed; none where it cannot be read."""
    import onnx

    # After an option that still lacks its value, click leaves the arguments in `args`.
    typed = [ctx.params.get("model"), *(ctx.params.get("checkpoints") or ()), *ctx.args]
    model = next(filter(None, typed), None)
    try:
        graph = onnx.load(model, load_external_data=False).graph if model else onnx.GraphProto()
    except Exception:  # whatever the file is: a shell shows no error
        return []
    return _beginning(incomplete, (name for node in graph.node for name in node.output if name))
