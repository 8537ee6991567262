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
    PROVIDER,
    Given,
    Resources,
    format_option,
    group,
    layer_option,
    method_option,
    model_argument,
    option,
    options_option,
    output_option,
    shape_option,
)


class Plan(Given):
    model: str = model_argument
    method: str | None = method_option
    options: tuple[str, ...] = options_option
    target: str = option(
        "-t --target", "top1, a class index or label, or an expression.", default="top1", metavar="TARGET"
    )
    layer: str | None = layer_option
    shapes: tuple[str, ...] = shape_option
    output: str | None = output_option
    provider: str | None = option(
        "-p --provider",
        "Also list the nodes that this execution provider (cuda or tensorrt) would not run. No GPU needed.",
        **PROVIDER,
    )
    resources: Resources = group(Resources)
    form: str = format_option


@Plan.command("plan")
def command(given: Plan) -> None:
    """Show which nodes a method would differentiate, and by which rules, without running the model."""
    from analyzer.attribution import Job, Model, Question
    from analyzer.attribution.cards import default_method, read_task
    from analyzer.attribution.planning import make_plan, predict_fallbacks
    from analyzer.errors import UnsupportedError

    loaded = Model(given.model)
    sizes = parse_shapes(given.shapes, loaded.plain.inputs)
    labels = read_task(loaded, None)
    method = given.method or default_method(loaded, given.output)
    job = Job(method, given.layer or "auto", parse_options(given.options))
    question = Question((job,), given.target, given.output, labels, declared=loaded.declared)
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
            click.echo(f"operators skipped after the target: {', '.join(plan.stripped)}")
        if plan.overridden:
            click.echo(f"nodes differentiated by the method's own rule: {len(plan.overridden)}")
        click.echo()
        click.echo(table(plan.rows(), ("operator", "nodes", "how", "")))
        if fallbacks:
            click.echo(f"\nin floating point, on {given.provider}, by {fallbacks.runtime}:")
            for what, found in (
                (f"fall to {fallbacks.fall}", fallbacks.refused),
                (f"may fall to {fallbacks.fall}, depending on their attributes", fallbacks.depends),
                ("not in the table", fallbacks.unknown),
            ):
                listed = ", ".join(f"{op} ({len(names)}×)" for op, names in found.items())
                click.echo(f"  {what}: {listed or 'none'}")
    if plan.missing:
        raise UnsupportedError(
            f"{len(plan.missing)} nodes have no rule: " + ", ".join(plan.missing[:10]),
            "choose a layer after them with --layer, or a target before them with --target",
        )
