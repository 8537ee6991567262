"""Options: a command's are the fields of one class, typed, each written once."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click import Choice, FloatRange, IntRange

from analyzer.docstrings import docstring
from analyzer.files import claim, protect

if TYPE_CHECKING:
    from analyzer.attribution import Explainer
    from analyzer.commands.common import Progress
    from analyzer.images import ModelCard


class InputPath(click.Path):
    """A file or folder that the command reads: none of its outputs may replace it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        protect(value)
        return super().convert(value, param, ctx)


class OutputPath(click.Path):
    """A file that the command writes, or a folder for such files: `file_okay`, `dir_okay`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("the name is empty", param, ctx)
        if self.dir_okay and self.file_okay:
            return value  # which of the two shows later: `destinations` claims the files
        path = super().convert(value, param, ctx)
        if self.file_okay:
            claim(os.fsdecode(path))
        return path


READ, READ_FILE = InputPath(), InputPath(dir_okay=False)
WRITE, WRITE_FILE, WRITE_FOLDER = OutputPath(), OutputPath(dir_okay=False), OutputPath(file_okay=False)


class Option(click.Option):
    """A number has to be finite: no range of click's refuses NaN."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        given = super().type_cast_value(ctx, value)
        for number in given if isinstance(given, tuple) else (given,):
            if isinstance(number, float) and not math.isfinite(number):
                raise click.BadParameter(f"{number} is not a finite number", ctx, self)
        return given


@dataclass(frozen=True)
class Field:
    """An argument or option of a `Given`, as click makes it."""

    kind: type[click.Parameter]
    flags: tuple[str, ...]
    how: Mapping[str, Any]


def option(flags: str, about: str = "", **how: Any) -> Any:
    """An option; a default is shown unless `show_default` says otherwise."""
    how = {"show_default": "default" in how, "help": about or None} | how
    return Field(Option, tuple(flags.split()), how)


def several(flags: str, about: str = "", **how: Any) -> Any:
    """An option that may be repeated."""
    return option(flags, about, multiple=True, **how)


def argument(**how: Any) -> Any:
    """A positional argument."""
    return Field(click.Argument, (), how)


class Given:
    """What a command is given: a field per argument and option, in the order of `--help`.

    A field may be another such class: a group of options, and what is done with them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, field in vars(type(self)).items():
            if isinstance(field, type):
                setattr(self, name, field(values))
            elif isinstance(field, Field):
                setattr(self, name, values[name])

    @classmethod
    def parameters(cls) -> list[click.Parameter]:
        """Those of all fields, a group's in its place."""
        found: list[click.Parameter] = []
        for name, field in vars(cls).items():
            if isinstance(field, type) and issubclass(field, Given):
                found += field.parameters()
            elif isinstance(field, Field):
                found.append(field.kind([name, *field.flags], **field.how))
        return found

    @classmethod
    def command(cls, name: str) -> Callable[[Callable[[Self], int | None]], click.Command]:
        """Makes a command of a function that takes one of these."""

        def decorate(function: Callable[[Self], int | None]) -> click.Command:
            @functools.wraps(function)
            def called(**values: Any) -> int | None:
                return function(cls(values))

            return click.command(name, params=cls.parameters(), help=docstring(function))(called)

        return decorate


def group(kind: type[Given]) -> Any:
    """The options of another class, in this place."""
    return kind


# ---- Fields of several commands ----

POLICIES = ("deconvnet", "guided", "gradient")

model_argument = argument(type=READ_FILE)
pictures_argument = argument(nargs=-1, required=True, type=READ)
format_option = option(
    "--format", "Form of what is printed.", type=Choice(["text", "json"]), default="text", show_default=False
)
layer_option = option("-l --layer", "Tensor or node of the file, or a glob; found by itself when left out.")
layers_option = several("-l --layer", "Tensor, node or glob; may be repeated.  [auto]")
options_option = several("-O --option", "Option of the method.", metavar="NAME=VALUE")
method_option = option("-m --method", "See `methods`.", default="grad-cam")
pictures_out_option = option("-o --out", "PNG to write; a folder where there are several pictures.", type=WRITE)
output_option = option("--output", "Which output of the model holds the scores.")
labels_option = option("--labels", "Class names: one per line, or JSON.", type=READ)
data_option = several("-d --data", "Pictures, or folders.", required=True, type=READ)
limit_option = option("--limit", "Use only so many pictures, evenly spread.", type=IntRange(1))
seed_option = option("--seed", type=int, default=0)
provider_option = option("-p --provider", "cpu, cuda, cuda:1 or auto.", default="cpu")
workers_option = option("--workers", "Pictures that are at work at the same time.  [one per CPU]", type=IntRange(1))
shard_option = option("--shard", "Only the I-th of N parts of the pictures.", default="1/1", metavar="I/N")
store_option = option("--store", "Folder that keeps results: a run that was cut off goes on.", type=WRITE_FOLDER)
shape_option = several("--shape", "Fixes the symbolic sizes of an input.", metavar="[NAME:]1x3x224x224")


class Formatted(Given):
    """Nothing but the form of what is printed."""

    form: str = format_option


class Preprocessing(Given):
    """How pictures become inputs, where flags say so."""

    preset: str | None = option("--preset", "Pixel normalisation: imagenet, 0-1, -1-1, caffe, raw or clip.")
    mean: str | None = option("--mean", "Means per channel, comma-separated, after scaling.")
    std: str | None = option("--std", "Standard deviations per channel, comma-separated.")
    scale: float | None = option("--scale", "What pixels (0–255) are multiplied by first.", type=float)
    layout: str | None = option("--layout", "Order of the input's axes.", type=Choice(["NCHW", "NHWC"]))
    channels: str | None = option("--channels", "Order of the input's channels.", type=Choice(["RGB", "BGR", "GRAY"]))
    size: str | None = option("--size", "Height and width, as 224x224, where the file leaves them open.")
    resize: str | None = option("--resize", "How pictures are fitted.", type=Choice(["resize", "crop", "letterbox"]))


THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def _bound_threads(context: click.Context, parameter: click.Parameter, threads: int | None) -> int | None:
    """Bounds those of NumPy and OpenCV as well, which read these when they are imported: by then it has to be known.

    More threads than CPUs gain nothing, and each takes memory: there are no more than those.
    """
    if threads is not None:
        threads = min(threads, os.cpu_count() or 1)
        os.environ |= dict.fromkeys(THREADS, str(threads))
    return threads


class SessionOptions(Given):
    """How sessions run, and the user's cache of rewritten graphs."""

    allow_fallback: bool = option("--allow-fallback", "Let nodes without a GPU kernel run on the CPU.", is_flag=True)
    threads: int | None = option(
        "--threads", "Threads of the CPU provider.", type=IntRange(1), callback=_bound_threads, is_eager=True
    )
    memory_limit: float | None = option(
        "--memory-limit", "GiB of GPU memory for a session (CUDA).", type=FloatRange(0, min_open=True)
    )
    session_memory: float | None = option(
        "--session-memory",
        "GiB for models and sessions that are kept.  [half of what is free]",
        type=FloatRange(0, min_open=True),
    )

    def keywords(self, many: bool = False) -> dict[str, Any]:
        """Of an Explainer; the budget of kept sessions, which is the process's, is set.

        Args:
            many: it works through many pictures, several of them at once: each session has one thread unless
                --threads says otherwise.
        """
        from analyzer.runtime.pool import limit_memory
        from analyzer.store import user_cache

        if self.session_memory is not None:
            limit_memory(int(self.session_memory * 2**30))
        threads = self.threads or (1 if many else None)
        limit = None if self.memory_limit is None else int(self.memory_limit * 2**30)
        given = {"allow_fallback": self.allow_fallback, "threads": threads}
        return given | {"memory_limit": limit, "cache": user_cache()}


class Setup(Given):
    """How a model is given pictures, where it runs and how."""

    preprocess: Preprocessing = group(Preprocessing)
    provider: str = provider_option
    session: SessionOptions = group(SessionOptions)

    def load(
        self, model: str, labels: str | None = None, many: bool = False, **session: Any
    ) -> tuple[Explainer, ModelCard]:
        """The model, and how its pictures are prepared; `many` as for `SessionOptions.keywords`."""
        from analyzer.attribution import Explainer
        from analyzer.commands.pictures import read_card

        explainer = Explainer(model, self.provider, **self.session.keywords(many), **session)
        return explainer, read_card(explainer, labels, vars(self.preprocess))


class OverPictures(Given):
    """How a command goes through many pictures, and where it keeps what it has done."""

    workers: int | None = workers_option
    store: str | None = store_option

    def keywords(self, out: str | None, progress: Progress) -> dict[str, Any]:
        """Of `passes.run`: without a store, what is done is kept in the folder of the results until all is done."""
        kept = self.store or (out if out and Path(out).is_dir() else None)
        return {
            "folder": kept,
            "workers": self.workers,
            "progress": progress.step,
            "forget": self.store is None,
        }
