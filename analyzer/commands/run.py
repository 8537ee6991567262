"""`run`: a command that is written in a file, to be kept with a project and repeated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from analyzer.commands.names import COMMANDS
from analyzer.commands.options import READ_FILE, Given, argument


class Run(Given):
    job: str = argument(type=READ_FILE)


@Run.command("run")
def command(given: Run) -> int:
    """Run the command that JOB, a TOML file, describes. More arguments and options may follow.

    \b
    command = "compare"
    arguments = ["fp32.onnx", "int8.onnx", "photos/"]
    [options]
    report = ["result.html", "result.json"]
    limit = 500
    strict = true

    Paths are relative to the current folder, and options are named as on the command line. An interrupted run
    resumes where its command does.

    \b
    Example:
      onnx-analyzer run job.toml --limit 50
    """
    from analyzer.commands.group import cli

    code = cli.main(args=words_of(given.job), prog_name="onnx-analyzer", standalone_mode=False)
    return code if isinstance(code, int) else 0


def words_of(path: str) -> list[str]:
    """The command line that a job's file describes.

    Raises:
        InputError: the file cannot be read, or is no job.
    """
    import tomllib

    from analyzer.errors import InputError, suggest

    try:
        job = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the job {path}: {getattr(error, 'strerror', None) or error}") from None
    name, words, options = job.get("command"), job.get("arguments", []), job.get("options", {})
    if not isinstance(name, str) or name not in COMMANDS or name == "run":
        near = suggest(str(name), COMMANDS) if name else ""
        raise InputError(f"{path}: command = {name!r} is no command", near or "see onnx-analyzer --help")
    unknown = sorted(job.keys() - {"command", "arguments", "options"})
    if unknown or not isinstance(words, list) or not isinstance(options, dict):
        what = f"unknown {', '.join(unknown)}" if unknown else "arguments is a list, and options a table"
        raise InputError(f"{path}: {what}", "a job has command, arguments and options")
    given = {"arguments": words, **options}
    odd = [key for key, value in given.items() if not all(isinstance(v, _PLAIN) for v in _values(value))]
    if odd:
        raise InputError(f"{path}: {', '.join(odd)}: not texts, numbers or true", "see onnx-analyzer run --help")
    return [name, *map(str, words), *(word for key, value in options.items() for word in _option(key, value))]


_PLAIN = (str, int, float)


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [word for one in value for word in _option(name, one)]
    flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, str(value)] if len(name) == 1 else [f"{flag}={value}"]


def expanded(words: list[str]) -> list[str]:
    """A command line with the job's in place of `run JOB`; itself where it cannot be read, which the command says."""
    from analyzer.errors import InputError

    if words[:1] != ["run"] or len(words) < 2 or words[1].startswith("-"):
        return words
    try:
        return words_of(words[1]) + words[2:]
    except InputError:
        return words


def expand() -> None:
    """Of this process, before anything reads it."""
    sys.argv[1:] = expanded(sys.argv[1:])
