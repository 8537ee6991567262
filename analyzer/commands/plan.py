"""`plan`: what a method would differentiate, without running anything."""

from __future__ import annotations

import click

from analyzer.commands.common import (
    format_option,
    layer_option,
    model_argument,
    parse_options,
    parse_shapes,
    print_json,
    shape_option,
    table,
)


@click.command(name="plan")
@model_argument
@click.option("-m", "--method", default="grad-cam", show_default=True, help="See `methods`.")
@click.option("-O", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the method.")
@click.option("-t", "--target", default="top1", show_default=True, help="Class, label or expression.")
@layer_option
@shape_option
@click.option("--output", help="Which output holds the scores.")
@click.option("-p", "--provider", help="Also tell what would not run there (cuda, tensorrt), without a GPU.")
@format_option
def command(
    model: str,
    method: str,
    options: tuple[str, ...],
    target: str,
    layer: str | None,
    shapes: tuple[str, ...],
    output: str | None,
    provider: str | None,
    form: str,
) -> None:
    """Show which nodes a method would differentiate, by which rules, and which have none. Runs nothing."""
    from analyzer.attribution import Job, Model, Question
    from analyzer.attribution.planning import make_plan, predict_fallbacks
    from analyzer.errors import UnsupportedError

    loaded = Model(model)
    sizes = parse_shapes(shapes, loaded.plain.inputs)
    question = Question((Job(method, layer or "auto", parse_options(options)),), target, output)
    plan = make_plan(loaded, question, sizes)
    fallbacks = None
    if provider and not plan.missing:
        fallbacks = predict_fallbacks(loaded, question, provider, sizes)
    if form == "json":
        print_json("plan", plan.to_dict() | ({"fallbacks": vars(fallbacks)} if fallbacks else {}))
    else:
        click.echo(f"{plan.method} of {plan.target!r} with respect to {', '.join(map(repr, plan.wrt))}")
        if plan.layer:
            click.echo(f"layer: {plan.layer} ({plan.layout})")
        if plan.stripped:
            click.echo(f"left out in front of the target: {', '.join(plan.stripped)}")
        if plan.overridden:
            click.echo(f"nodes with a rule of the method's own: {len(plan.overridden)}")
        click.echo()
        click.echo(table(plan.rows(), ("operator", "nodes", "how", "")))
        if fallbacks:
            click.echo(f"\nin floating point, on {provider}, by {fallbacks.runtime}:")
            for what, found in (
                (f"fall to {fallbacks.fall}", fallbacks.refused),
                (f"may fall to {fallbacks.fall}, by their attributes", fallbacks.depends),
                ("not in the table", fallbacks.unknown),
            ):
                told = ", ".join(f"{op} ({len(names)}×)" for op, names in found.items())
                click.echo(f"  {what}: {told or 'none'}")
    if plan.missing:
        raise UnsupportedError(
            f"{len(plan.missing)} nodes have no rule: " + ", ".join(plan.missing[:10]),
            "choose a layer behind them with --layer, or a target in front of them with --target",
        )
