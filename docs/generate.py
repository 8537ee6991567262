"""Write the generated documentation: operators, methods, commands, Python API.

    python docs/generate.py [--check]

Whole pages are written to docs/; in README.md the lines between `<!-- generated: NAME -->` and `<!-- end -->` are
replaced. `--check` changes nothing and exits with 1 if a file is out of date (a test runs it).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import analyzer  # noqa: E402
from analyzer import metrics  # noqa: E402
from analyzer.attribution.methods import METHODS  # noqa: E402
from analyzer.commands import COMMANDS, cli  # noqa: E402
from analyzer.gradient.catalog import catalog  # noqa: E402
from analyzer.gradient.idioms import IDIOMS  # noqa: E402
from analyzer.gradient.policies import POLICIES  # noqa: E402
from analyzer.validation.checks import CHECKS, SCORES, Check, why_not  # noqa: E402


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows])


def operators() -> str:
    """The operator table, a page of its own."""
    rows = catalog()
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    summary = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    body = [[f"{r.domain}::{r.op}" if r.domain else r.op, r.status, r.detail] for r in rows]
    return (
        "# Operators\n\n"
        "How each operator is differentiated after the model is converted to opset 21. `docs/generate.py` writes this "
        "page from the rules; `onnx-analyzer ops` prints the table.\n\n"
        "- **rule**: a gradient rule; x is the input, y the output, and a bar marks cotangents.\n"
        "- **function body**: replaced by the body of its ONNX schema (or converted), then differentiated.\n"
        "- **un-fused**: decomposed into standard operators, then differentiated.\n"
        "- **followed**: sequences and optionals are replaced by their tensors where these are known before the model "
        "runs; otherwise an error names the node.\n"
        "- **nothing flows**: no derivative, or a derivative of zero.\n"
        "- **no rule**: not differentiable here; an error names the node if a gradient has to pass it.\n\n"
        f"{summary}.\n\n" + table(["operator", "how", "equation or reason"], body) + "\n\n## Idioms\n\n"
        "Equivalent forms of an equation that a runtime computes faster, or that it supports when it does not support "
        "the plain one. They are tried before the equation, in this order; the description says when one applies. "
        "See [Add a gradient rule](add-a-rule.md).\n\n" + idiom_table() + "\n"
    )


def idiom_table() -> str:
    chosen = sorted(IDIOMS, key=lambda i: i.of.ops)
    return table(
        ["operator", "idiom", "runtime", "what it does"],
        [[", ".join(i.of.ops), f"`{i.name}`", ", ".join(i.runtimes), i.about] for i in chosen],
    )


def method_table() -> str:
    rows = [[f"`{m.name}`", m.formula, ", ".join(m.views), m.paper] for m in METHODS.values()]
    return table(["method", "formula", "drawn as", "paper"], rows)


def methods() -> str:
    """The method table, a page of its own."""
    policies = table(["policy", "what it is"], [[f"`{n}`", p.about] for n, p in POLICIES.items()])
    options = [
        [f"`{m.name}`", ", ".join(f"`{k}={v}`" for k, v in m.options.items()) or "none"] for m in METHODS.values()
    ]
    return (
        "# Methods\n\n`docs/generate.py` writes this page from the recipes. A is the feature map, g = ∂y/∂A the "
        "gradient of the target score y (the logit: a final Softmax or Sigmoid is removed), k a channel and (i, j) a "
        "position.\n\n"
        + method_table()
        + "\n\n*Drawn as* (`explain --view`): *overlay*, heat over the picture; *signed*, blue against and red for; "
        "*rgb*, the channels of every pixel as colors on gray; *map*, the largest magnitude of the channels. Where "
        "there are two, both stand beside the picture, and the first is drawn in grids. Any of them can be drawn as "
        "*contour*: lines at a quarter, a half and three quarters of the highest value.\n"
        "\n## Options\n\n"
        + table(["method", "options"], options)
        + "\n\n## Policies of `append_vjp`\n\n"
        + policies
        + "\n"
    )


def command_table() -> str:
    with click.Context(cli) as ctx:
        return table(
            ["command", "what it does"],
            [[f"`{n}`", cli.get_command(ctx, n).help.split("\n")[0].rstrip(".")] for n in COMMANDS],
        )


def commands() -> str:
    """The help of every command, a page of its own."""
    parts = ["# Commands\n\n`docs/generate.py` writes this page from the help of the commands.\n"]
    with click.Context(cli, info_name="onnx-analyzer") as parent:
        for name in COMMANDS:
            command = cli.get_command(parent, name)
            with click.Context(
                command, info_name=name, parent=parent, max_content_width=100, terminal_width=100
            ) as ctx:
                parts.append(f"## {name}\n\n```\n{command.get_help(ctx)}\n```\n")
    return "\n".join(parts)


def documents() -> str:
    """The keys of all JSON documents, a page of its own."""
    schema = json.loads((ROOT / "analyzer" / "schema.json").read_text(encoding="utf-8"))
    parts = [
        "# JSON output\n\n"
        "With `--format json` a command prints one document on stdout; progress, notes and errors go to stderr. The "
        "JSON Schema of all documents is part of the package: "
        '`importlib.resources.files("analyzer").joinpath("schema.json")`. `docs/generate.py` writes this page from '
        "it, and tests validate the output of every command.\n\n"
        "`explain --format jsonl` prints such a document for every picture as soon as it is done, each on a line of "
        "its own, with one entry in `results` or in `failed`.\n\n"
        "A command that fails prints a document of kind `error` on stdout, and the same sentence on stderr. Numbers "
        "that are NaN or infinite are null. In the tables, `[]` is a list, `{}` a map with names as keys, and `?` a "
        "value that can be null.\n\n"
        "## Compatibility\n\n"
        "Keys, codes of findings, option names and public Python names are stable. New keys may be added at any time. "
        "What is renamed keeps its old name, with a deprecation note, for two minor versions. `schema_version` grows "
        "when a key is removed or changes its meaning.\n\n"
        "## Every document\n\n" + key_table(schema)
    ]
    for kind, entry in schema["$defs"].items():
        parts.append(f"## {kind}\n\n{entry['description']}\n\n{key_table(entry)}")
    return "\n\n".join(parts) + "\n"


def key_table(entry: dict) -> str:
    return table(["key", "type", "meaning"], [[f"`{path}`", of, about] for path, of, about in keys_of(entry)])


def keys_of(entry: dict, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, type, meaning) of every key below an object."""
    for name, value in entry["properties"].items():
        path, inner = prefix + name, value
        while inner.get("items") and not inner.get("description"):
            path, inner = f"{path}[]", inner["items"]
        if inner.get("properties"):
            yield from keys_of(inner, f"{path}.")
        else:
            optional = "" if name in entry.get("required", ()) else ", if there is one"
            yield path, type_of(inner) + optional, inner["description"]


def type_of(value: dict) -> str:
    if "const" in value or "enum" in value:
        return "number" if "const" in value else "string"
    names = value.get("type", "any")
    names = [names] if isinstance(names, str) else names
    null = "?" if "null" in names else ""
    if "array" in names:
        return type_of(value.get("items", {})) + "[]" + null
    if isinstance(value.get("additionalProperties"), dict):
        return type_of(value["additionalProperties"]) + "{}" + null
    return names[0] + null


GROUPS = {
    "Explain": ("explain", "Attribution", "Explainer", "METHODS", "class_maps"),
    "Compare and audit": ("compare", "Comparison", "audit", "Audit"),
    "Localize": ("localize", "Localization"),
    "Look inside": (
        "features",
        "FeatureMaps",
        "receptive_field",
        "ReceptiveFields",
        "ReceptiveField",
        "effective_field",
        "EffectiveFields",
        "EffectiveField",
        "filter_bank",
        "mine",
        "MiningResult",
        "evolution",
        "project",
        "Projector",
        "Switches",
        "read_switches",
        "occlusion",
        "Occlusion",
        "invariance",
        "correspondence",
        "dream",
        "Dreams",
        "DreamOptions",
        "Dreamer",
    ),
    "Explore": ("explore", "Exploration"),
    "Graphs": ("export", "append_vjp", "Vjp"),
    "Pictures and runs": ("Preprocess", "find_pictures", "Sample", "Pass", "Processes", "Ray", "limit_memory"),
    "Errors": ("AnalyzerError", "InputError", "NotFoundError", "UnsupportedError", "ProviderError"),
}


RESULTS = {  # and another whose attributes say all that a signature would
    "DreamOptions",
    "Attribution",
    "Audit",
    "Comparison",
    "Dreams",
    "EffectiveField",
    "EffectiveFields",
    "Exploration",
    "Curve",
    "FeatureMaps",
    "Interval",
    "Localization",
    "MiningResult",
    "ReceptiveField",
    "ReceptiveFields",
}


def api() -> str:
    """The public Python names, a page of its own."""
    listed = [name for names in GROUPS.values() for name in names]
    missing = {*analyzer.__all__} - {*listed, "__version__"}
    assert not missing, f"in no group of docs/generate.py: {sorted(missing)}"
    parts = [
        "# Python API\n\n"
        "`docs/generate.py` writes this page from the docstrings. All names are those of the package: "
        "`import analyzer`, then `analyzer.explain(…)`. Importing the package is cheap; each name loads what it "
        "needs on first use. A function that is called as one of the [commands](commands.md) has its options, with `_` "
        "for `-`. A runnable tour is "
        "[examples/notebook.ipynb](../examples/notebook.ipynb).\n\n"
        "Results show themselves in a notebook. `.as_data()` is what the command prints with `--format json`."
    ]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        parts += [entry(name, getattr(analyzer, name)) for name in names]
    return "\n\n".join(parts) + "\n"


MEASURES = {
    "Where the heat is": ("pointing_game", "energy_inside", "hit_rate", "heat_iou"),
    "Faithfulness": ("deletion", "insertion", "Curve", "random_cells", "average_drop", "increase", "kept"),
    "Robustness and sanity": ("max_sensitivity", "shift_consistency", "flip_consistency", "mprt"),
    "Similarity of two texts": ("edit_distance", "text_similarity"),
    "Similarity of two maps": ("spearman", "cosine_of", "top_iou", "maximum_shift"),
    "Detections against true boxes": ("average_precision", "matched_to_truth", "Matched"),
    "Intervals over pictures": (
        "wilson",
        "bootstrap",
        "resampled",
        "paired_difference",
        "pictures_needed",
        "mcnemar",
        "Interval",
    ),
}


def checks() -> str:
    """The checks of an audit, a page of their own."""
    rows = [
        [
            f"`{c.name}`",
            f"`{c.code}`" if c.code else "–",
            limit_of(c),
            c.definition.format(score="the score"),
            c.advice.replace("{try}", "the named one"),
        ]
        for c in CHECKS
    ]
    return (
        "# Checks of an audit\n\n"
        "`docs/generate.py` writes this page from the table in `analyzer/validation/checks.py`. The name of a check is "
        "that of its threshold ([In a pipeline](ci.md)); checks without a finding are shown and not judged.\n\n"
        + table(["check", "finding", "threshold", "what is measured", "what to do"], rows)
        + "\n\n## Which apply\n\n"
        f"Models are audited by the kind of their answers: {', '.join(SCORES)}, where *values* are numbers of another "
        "meaning (keypoints, depth, regression). “✓” is a check that applies; a report says why another does not.\n\n"
        + table(
            ["check", *SCORES], [[f"`{c.name}`", *("–" if why_not(c.name, k) else "✓" for k in SCORES)] for c in CHECKS]
        )
        + "\n\n## The score\n\nDeletion, insertion, average drop and the answer kept are measured by a score in [0, 1]:"
        "\n\n" + "\n".join(f"- {kind}: {words}" for kind, words in SCORES.items() if words) + "\n"
    )


def limit_of(check: Check) -> str:
    return "–" if check.limit is None else f"at {'most' if check.worse == 'above' else 'least'} {check.limit:g}"


def measures() -> str:
    """The measures of maps, a page of their own."""
    listed = {name for names in MEASURES.values() for name in names}
    assert listed == {*metrics.__all__}, f"in no group of docs/generate.py: {listed ^ {*metrics.__all__}}"
    parts = [
        "# Metrics\n\n"
        "`docs/generate.py` writes this page from the docstrings. `from analyzer import metrics`, then "
        "`metrics.energy_inside(…)`: functions of NumPy arrays, whatever made the maps. `audit`, `compare` and "
        "`localize` use them.\n\n"
        "A measure that runs the model takes a function of one input array: its score, or its map. With an `Explainer` "
        "of a classifier that ends with a Softmax:\n\n"
        "```python\n"
        'found = explainer.explain(array, "grad-cam")\n'
        "top = int(found.target[0])\n"
        "curve = metrics.deletion(\n"
        '    lambda x: float(explainer.explain(x, "grad-cam", top).scores[0, top]), array, found.heatmap[0], '
        "array.mean()\n"
        ")\n"
        "print(curve.area)\n"
        "```\n\n"
        "Each measure is of one picture. `wilson` (for rates) and `bootstrap` (for means and medians) give the "
        "interval over pictures."
    ]
    for group, names in MEASURES.items():
        parts.append(f"## {group}")
        parts += [entry(name, getattr(metrics, name)) for name in names]
    return "\n\n".join([*parts, oracles()]) + "\n"


def oracles() -> str:
    """The measures beside what others compute, as `benchmarks/metric_oracles.py` stored it."""
    stored = json.loads((ROOT / "benchmarks" / "metric_oracles.json").read_text())
    rows = [
        [
            f"`{row['measure']}`",
            f"{row['oracle']} ({row['package']})" if row["package"] else row["oracle"],
            str(row["numbers"]),
            f"{row['ours']:.6g}",
            f"{row['theirs']:.6g}",
            f"{row['difference']:.1g}",
        ]
        for row in stored
    ]
    return (
        "## Against oracles\n\n"
        "`python -m benchmarks.metric_oracles` computes each measure on drawn arrays beside an implementation that "
        "this project did not write, a published number, or an identity. Shown are the means of both, and the "
        "largest difference of all. Libraries that compute in float32 differ by 1e-8; published tables have four "
        "digits, and Agresti's interval is the unadjusted one.\n\n"
        + table(["measure", "oracle", "numbers", "onnx-analyzer", "oracle's", "largest difference"], rows).rstrip()
    )


def entry(name: str, thing: object) -> str:
    """A public name: its signature, its docstring, and for a class what it offers."""
    if not callable(thing):
        return f"### {name}\n\nThe methods by name; see [Methods](methods.md)."
    parts = [f"### {name}"]
    if name not in RESULTS and not (isinstance(thing, type) and issubclass(thing, Exception)):
        parts.append(f"```python\n{signature(name, thing)}\n```")
    parts.append(prose(inspect.getdoc(thing) or ""))
    members = [] if not isinstance(thing, type) or issubclass(thing, Exception) else members_of(thing)
    return "\n\n".join([*parts, *(["\n".join(members)] if members else [])])


def signature(name: str, thing: object) -> str:
    """The call, a parameter a line where one line is too long."""
    given, star = list[str](), False
    for one in inspect.signature(thing).parameters.values():
        if one.name.startswith("_"):
            continue
        if one.kind is one.KEYWORD_ONLY and not star:
            given.append("*")
        star |= one.kind is one.KEYWORD_ONLY
        kind = "" if one.annotation is one.empty else f": {of_type(one.annotation)}"
        default = "" if one.default is one.empty else f" = {_default(one.default)}" if kind else f"={one.default!r}"
        given.append({one.VAR_KEYWORD: "**", one.VAR_POSITIONAL: "*"}.get(one.kind, "") + one.name + kind + default)
    call = f"{name}({', '.join(given)})"
    return call if len(call) <= 100 else f"{name}(\n" + "".join(f"    {each},\n" for each in given) + ")"


def of_type(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: object) -> str:
    return "..." if "<" in repr(value) else repr(value)


def members_of(kind: type) -> list[str]:
    """A line per public method and property: its name and the first sentence about it."""
    fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    found = []
    for name, member in inspect.getmembers(kind):
        about = inspect.getdoc(member)
        if name.startswith("_") or name in fields or name not in vars(kind):
            continue
        if not about or about == inspect.getdoc(type(member)):  # a plain value has its type's
            continue
        call = "()" if callable(member) else ""
        found.append(f"- `.{name}{call}`: {' '.join(about.split(chr(10) * 2)[0].split())}")
    return found


SECTION = re.compile(r"^(Args|Returns|Raises|Attributes):$", re.MULTILINE)


def prose(text: str) -> str:
    """A docstring as Markdown: its sections in bold, what they list as lists."""
    head, *sections = SECTION.split(text)
    parts = [head.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        inner, _, rest = textwrap.dedent(body.lstrip("\n")).partition("\n\n")
        items = re.split(r"\n(?=\S)", inner.strip("\n"))
        lines = [" ".join(item.split()) for item in items]
        if title in ("Args", "Attributes"):
            lines = [re.sub(r"^([\w, ]+):", lambda m: f"- `{m[1].replace(', ', '`, `')}`:", line) for line in lines]
            parts.append(f"**{title}**\n\n" + "\n".join(lines))
        else:
            parts.append(f"**{title}** " + " ".join(lines))
        parts += [rest.strip()] if rest.strip() else []
    return "\n\n".join(parts)


PAGES = {
    "operators.md": operators,
    "methods.md": methods,
    "checks.md": checks,
    "metrics.md": measures,
    "commands.md": commands,
    "json.md": documents,
    "api.md": api,
}
SECTIONS = {"methods": method_table, "commands": command_table}


def readme() -> str:
    """README.md with its generated sections replaced."""
    text = (ROOT / "README.md").read_text()
    for name, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda m, make=make: m[1] + make() + "\n" + m[2], text)
    return text


def main() -> int:
    wanted = {ROOT / "docs" / name: make() for name, make in PAGES.items()} | {ROOT / "README.md": readme()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"out of date: {path.relative_to(ROOT)}; run `python docs/generate.py`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
        print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
