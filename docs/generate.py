"""Write the generated documentation: operators, methods, commands.

    python docs/generate.py [--check]

Whole pages are written to docs/; in README.md the lines between `<!-- generated: NAME -->` and `<!-- end -->` are
replaced. `--check` changes nothing and exits with 1 if a file is out of date (a test runs it).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analyzer.attribution.methods import METHODS  # noqa: E402
from analyzer.commands import COMMANDS, cli  # noqa: E402
from analyzer.gradient.catalog import catalog  # noqa: E402
from analyzer.gradient.idioms import IDIOMS  # noqa: E402
from analyzer.gradient.policies import POLICIES  # noqa: E402


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


PAGES = {"operators.md": operators, "methods.md": methods, "commands.md": commands, "json.md": documents}
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
