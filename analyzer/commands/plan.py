"""`plan`: what a method would differentiate, without running anything."""

from __future__ import annotations

import click

from analyzer.commands.common import (
    parse_options,
    parse_shapes,
    print_json,
    table,
)
from analyzer.commands.options import (
    Given,
    format_option,
    layer_option,
    method_option,
    model_argument,
    option,
    options_option,
    shape_option,
)


class Plan(Given):
    model: str = model_argument
    method: str = method_option
    options: tuple[str, ...] = options_option
    target: str = option("-t --target", "Class, label or expression.", default="top1")
    layer: str | None = layer_option
    shapes: tuple[str, ...] = shape_option
    output: str | None = option("--output", "Which output holds the scores.")
    provider: str | None = option(
        "-p --provider", "Also tell what would not run there (cuda, tensorrt), without a GPU."
    )
    form: str = format_option


@Plan.command("plan")
def command(given: Plan) -> None:
    """Show which nodes a method would differentiate, by which rules, and which have none. Runs nothing."""
    from analyzer.attribution import Job, Model, Question
    from analyzer.attribution.planning import make_plan, predict_fallbacks
    from analyzer.errors import UnsupportedError

    loaded = Model(given.model)
    sizes = parse_shapes(given.shapes, loaded.plain.inputs)
    question = Question(
        (Job(given.method, given.layer or "auto", parse_options(given.options)),), given.target, given.output
    )
    plan = make_plan(loaded, question, sizes)
    fallbacks = None
    if given.provider and not plan.missing:
        fallbacks = predict_fallbacks(loaded, question, given.provider, sizes)
    if given.form == "json":
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
            click.echo(f"\nin floating point, on {given.provider}, by {fallbacks.runtime}:")
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
