"""`status`: how far the runs of a folder are."""

from __future__ import annotations

import time
from typing import Any

from analyzer.commands.common import finish, table
from analyzer.commands.options import Given, RunPath, argument, format_option


class Status(Given):
    folder: str = argument(type=RunPath(file_okay=False, exists=True))
    form: str = format_option


@Status.command("status")
def command(given: Status) -> int:
    """Show how far the runs in FOLDER are: what --store or `mine -o` names, also at an address.

    A run that is still going is not disturbed.

    \b
    Example:
      onnx-analyzer status mined/
    """
    from analyzer.errors import InputError
    from analyzer.passes import states

    found = states(given.folder)
    if not found:
        raise InputError(f"{given.folder} has no run", "give the folder of --store, or of -o of mine")
    rows = list[dict[str, Any]]()
    for state in found:
        doing = "running" if state.running else "finished" if 0 < state.of <= state.done else "stopped"
        left = (state.of - state.done) / state.rate if state.running and state.rate else None
        rows.append(
            {
                "run": state.name,
                "shard": state.shard,
                "state": doing,
                "done": state.done,
                "of": state.of,
                "failed": state.failed,
                "pictures_per_second": None if state.rate is None else float(f"{state.rate:.3g}"),
                "seconds_left": None if left is None else round(left),
                "changed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(state.changed)),
            }
        )
    header = ("run", "shard", "state", "done", "of", "failed", "per second", "left", "changed")
    cells = [
        [*list(row.values())[:6], row["pictures_per_second"] or "", _span(row["seconds_left"]), row["changed"]]
        for row in rows
    ]
    finish(given.form, "status", {"folder": given.folder, "runs": rows}, [table(cells, header)])
    return 0


def _span(seconds: float | None) -> str:
    """Hours, minutes and seconds, such as 2:05:09."""
    if seconds is None:
        return ""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
