"""Which layers to keep in float: `compare --sensitivity` as text, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.report.formats import code

SHOWN = 20  # layers of the table


def lines(found: Mapping[str, Any]) -> list[str]:
    """For a terminal: what to keep in float, and what is left of the drift after each step."""
    said = [f"sensitivity: relative squared drift {found['drift']:.3g} over {found['pictures']} pictures"]
    rows = found["exclude"]
    if not rows:
        return [*said, "        keeping single layers in float removes none of it: the drift has no single cause"]
    said.append("        drift left with these layers in float, one after the other:")
    said += [f"        {row['left']:7.1%}  {', '.join(row['layers'])}" for row in rows]
    said += [f"nodes_to_exclude: {names(found)}"]
    return said + note(found)


def markdown(found: Mapping[str, Any]) -> list[str]:
    """Lines for a pull request's comment."""
    head = ["", "## Layers to keep in float", "", f"Relative squared drift: {found['drift']:.3g}", ""]
    rows = [f"| {code(', '.join(r['layers']))} | {r['estimated']:.1%} | {r['left']:.1%} |" for r in found["exclude"]]
    end = (
        ["", f"`nodes_to_exclude`: {code(names(found))}"]
        if rows
        else ["Keeping single layers in float removes none of it."]
    )
    header = ["| layers | estimated share of the drift | drift left |", "|---|---|---|"] if rows else []
    return [*head, *header, *rows, *end, *note(found)]


def section(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of it."""
    return {
        "drift": found["drift"],
        "pictures": found["pictures"],
        "steps": [(", ".join(r["layers"]), f"{r['estimated']:.1%}", f"{r['left']:.1%}") for r in found["exclude"]],
        "names": names(found),
        "notes": [line.strip() for line in note(found)],
        "layers": [(r["layer"], r["operator"], _with_error(r)) for r in found["layers"][:SHOWN]],
    }


def _with_error(row: Mapping[str, Any]) -> str:
    """12.3% ± 0.4%: a share and its standard error over pictures, if there are several."""
    error = row["error"]
    return f"{row['share']:.1%}" + (f" ± {error:.1%}" if error is not None else "")


def names(found: Mapping[str, Any]) -> str:
    """The layers as a list of Python, as onnxruntime's quantizer takes it."""
    given: Sequence[str] = found["nodes_to_exclude"]
    return "[" + ", ".join(repr(name) for name in given) + "]"


def note(found: Mapping[str, Any]) -> list[str]:
    count = found["unnamed"]
    if not count:
        return []
    return [f"{count} layers have no name in the reference: quantizers cannot exclude them; name their nodes first"]
