"""Options: a command's are the fields of one class, typed, each written once."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click import Choice

from analyzer.commands import complete
from analyzer.commands.renamed import Command, arguments_of
from analyzer.commands.stdout import through_stdout, to_stdout
from analyzer.commands.uploads import fetched, staged
from analyzer.docstrings import docstring
from analyzer.files import claim, protect

if TYPE_CHECKING:
    from analyzer.attribution import Explainer
    from analyzer.commands.common import Progress
    from analyzer.data import Sample
    from analyzer.images import Feeding, ModelCard
    from analyzer.passes import Workers


class ColorMap(click.ParamType):
    """The name of a colour map, refused before anything is computed."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from analyzer.images import colormap

        colormap(value)
        return value


class Part(click.ParamType):
    """A number of pictures, int; or with % a share of all, float from 0 to 1."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            found = float(value[:-1]) / 100 if value.endswith("%") else int(value)
        except ValueError:
            found = math.nan
        if not 0 <= found <= (1 if isinstance(found, float) else math.inf):
            self.fail(f"{value!r} is neither a number of pictures nor a share of them, such as 1%", param, ctx)
        return found


class InputPath(click.Path):
    """A file or folder that the command reads: none of its outputs may replace it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        protect(value)
        return super().convert(value, param, ctx)


class ModelPath(InputPath):
    """A model's file. What is a picture or a folder is refused with the order of the arguments."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from analyzer.errors import InputError
        from analyzer.images import is_picture

        kind = "folder" if os.path.isdir(value) else "picture" if is_picture(value) else ""
        if kind and ctx is not None:
            order = arguments_of(ctx)
            first = f"models come first: {ctx.command_path} {' '.join(order)}"
            raise InputError(f"{value} is a {kind}, not an ONNX model", first if len(order) > 1 else "")
        return super().convert(value, param, ctx)


class AnyModelPath(ModelPath):
    """A model's file, or the address of a model in another runtime."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from analyzer.runtime.runners import address_of

        return value if address_of(value) is not None else super().convert(value, param, ctx)


class RunPath(InputPath):
    """A folder that holds runs, or the address of one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(fetched(os.fspath(value)), param, ctx)


class OutputPath(click.Path):
    """A file that the command writes, or a folder for such files: `file_okay`, `dir_okay`.

    Args:
        stdout: `-` is allowed, and means stdout.
    """

    def __init__(self, stdout: bool = False, **how: Any) -> None:
        super().__init__(**how)
        self.stdout = stdout

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("the name is empty", param, ctx)
        if value == "-" and self.file_okay:
            if not self.stdout or ctx is None:
                self.fail("this result cannot go to stdout; give a file name", param, ctx)
            return to_stdout(ctx)
        value = staged(os.fspath(value), not self.file_okay)
        if self.dir_okay and self.file_okay:
            return value  # which of the two shows later: `destinations` claims the files
        path = super().convert(value, param, ctx)
        if self.file_okay:
            claim(os.fsdecode(path))
        return path


class ReportPath(OutputPath):
    """A file, or a folder whose name ends with a slash."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from analyzer.report.files import is_folder

        if value and is_folder(value):
            return staged(value)  # `atomic_file` checks each file in it
        return super().convert(value, param, ctx)


class Range(click.ParamType):
    """What is common to our ranges beside click's: bounds are named in errors only, and NaN is in no range."""

    noun: str
    min: Any
    max: Any
    min_open: bool

    def _describe_range(self) -> str:
        return ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            found = super().convert(value, param, ctx)
        except click.BadParameter:
            found = math.nan
        if math.isnan(found):
            self.fail(f"{value!r} is not {self.noun}{self._bounds()}", param, ctx)
        return found

    def _bounds(self) -> str:
        if self.min is not None and self.max is not None:
            return f" from {self.min:g} to {self.max:g}"
        if self.min is not None:
            return f" above {self.min:g}" if self.min_open else f" of at least {self.min:g}"
        return ""


class IntRange(Range, click.IntRange):
    noun = "a whole number"


class FloatRange(Range, click.FloatRange):
    noun = "a number"


class Channel(IntRange):
    """A unit that is a whole channel."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "@" in str(value):
            self.fail(
                f"{value!r} names a position; a channel is drawn where it is strongest: give its number", param, ctx
            )
        return super().convert(value, param, ctx)


READ, READ_FILE, READ_MODEL = InputPath(), InputPath(dir_okay=False), ModelPath(dir_okay=False)
READ_ANY_MODEL = AnyModelPath(dir_okay=False)
WRITE, WRITE_FILE = OutputPath(stdout=True), OutputPath(stdout=True, dir_okay=False)
WRITE_REPORT, WRITE_FOLDER = ReportPath(dir_okay=False), OutputPath(file_okay=False)


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
    old: str = ""


def option(flags: str, about: str = "", old: str = "", **how: Any) -> Any:
    """An option; a default is shown unless `show_default` says otherwise.

    Args:
        old: earlier names, which keep working with a note on stderr.
    """
    how = {"show_default": "default" in how, "help": about or None} | how
    return Field(Option, tuple(flags.split()), how, old)


def several(flags: str, about: str = "", **how: Any) -> Any:
    """An option that may be repeated."""
    return option(flags, about, multiple=True, **how)


def argument(**how: Any) -> Any:
    """A positional argument."""
    return Field(click.Argument, (), how)


class Given:
    """What a command is given: a field per argument and option, in the order of `--help`. It does not change.

    A field may be another such class: a group of options, and what is done with them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, field in vars(type(self)).items():
            if isinstance(field, type):
                vars(self)[name] = field(values)
            elif isinstance(field, Field):
                vars(self)[name] = values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    @classmethod
    def fields(cls) -> dict[str, Field]:
        """Those of all groups, a group's in its place."""
        found: dict[str, Field] = {}
        for name, field in vars(cls).items():
            if isinstance(field, type) and issubclass(field, Given):
                more = field.fields()
            else:
                more = {name: field} if isinstance(field, Field) else {}
            assert not found.keys() & more.keys(), f"{cls.__name__}: two fields of one name"
            found |= more
        return found

    @classmethod
    def command(cls, name: str) -> Callable[[Callable[[Self], int | None]], click.Command]:
        """Makes a command of a function that takes one of these."""

        def decorate(function: Callable[[Self], int | None]) -> click.Command:
            @functools.wraps(function)
            def called(**values: Any) -> int | None:
                return through_stdout(lambda: function(cls(values)), values.get("form", "text"))

            fields = cls.fields()
            parameters = [f.kind([n, *f.flags], **f.how) for n, f in fields.items()]
            parameters.append(click.Option(["-q", "--quiet"], **QUIET))
            made = click.command(name, cls=Command, params=parameters, help=docstring(function))(called)
            made.renamed = {old: f.flags[-1] for f in fields.values() for old in f.old.split()}
            return made

        return decorate


def _be_quiet(context: click.Context, parameter: click.Parameter, quiet: bool) -> None:
    context.meta["quiet"] = quiet


QUIET: dict[str, Any] = {
    "is_flag": True,
    "is_eager": True,
    "expose_value": False,
    "callback": _be_quiet,
    "help": "Print only results and errors: no warnings, notes or progress.",
}


def group(kind: type[Given]) -> Any:
    """The options of another class, in this place."""
    return kind


# ---- Fields of several commands ----

POLICIES = ("deconvnet", "guided", "gradient")

model_argument = argument(type=READ_MODEL)
format_option = option("--format", "Output format.", type=Choice(["text", "json"]), default="text")
layer_option = option(
    "-l --layer",
    "Tensor or node name, or a glob. Default: chosen automatically.",
    metavar="LAYER",
    shell_complete=complete.layers,
)
layers_option = several(
    "-l --layer",
    "Tensor or node name, or a glob. Repeatable. Default: chosen automatically.",
    metavar="LAYER",
    shell_complete=complete.layers,
)
options_option = several(
    "-O --option",
    "Option of the method, see the methods command. Repeatable.",
    metavar="NAME=VALUE",
    shell_complete=complete.method_options,
)
placement_option = option(
    "--placement",
    "How units of a layer are aligned with the picture: half-pixel (evenly spaced, as in most libraries), theoretical "
    "(centers of their receptive fields) or effective (theoretical if gradients confirm it, else half-pixel).",
    type=Choice(["effective", "half-pixel", "theoretical"]),
    default="effective",
)
METHOD: dict[str, Any] = {"metavar": "METHOD", "shell_complete": complete.methods}
method_option = option(
    "-m --method",
    "Method, see the methods command. Default: grad-cam; for text, detections and keypoints, layer-cam.",
    **METHOD,
)
pictures_out_option = option(
    "-o --out", "PNG file to write, or - for stdout. For several pictures: a folder.", type=WRITE, metavar="PATH"
)


def _no_file(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """--output names a tensor; many tools call their file so."""
    if name is not None and name.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".onnx")):
        raise click.UsageError(f"--output names a model output, not a file. Use -o {name} instead.", context)
    return name


def _number_and_seed(context: click.Context, parameter: click.Parameter, given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    number, _, seed = given.partition(":")
    if not (number.isdecimal() and int(number) and (seed or "0").isdecimal()):
        raise click.BadParameter(f"{given!r} is not N or N:SEED, for example 500 or 500:1")
    return int(number), int(seed or 0)


output_option = option(
    "--output",
    "Model output with the scores. Default: chosen automatically.",
    metavar="NAME",
    callback=_no_file,
)
labels_option = option("--labels", "Class names: a text file with one per line, or JSON.", type=READ, metavar="FILE")
seed_option = option("--seed", "Seed of the random numbers.", type=int, default=0, metavar="N")
PROVIDER: dict[str, Any] = {"metavar": "PROVIDER", "shell_complete": complete.providers}
provider_option = option(
    "-p --provider", "Execution provider: cpu, cuda, cuda:1, tensorrt or auto.", default="cpu", **PROVIDER
)
shard_option = option(
    "--shard", "Process only the I-th of N equal parts of the pictures.", default="1/1", metavar="I/N"
)
store_option = option("--store", "Cache folder; an interrupted run resumes.", type=WRITE_FOLDER, metavar="FOLDER")
shape_option = several(
    "--shape", "Sizes of an input whose sizes are symbolic. Repeatable.", metavar="[NAME:]1x3x224x224"
)
policy_option = option(
    "--policy", "How to project activations back to pixels.", type=Choice([*POLICIES, "none"]), default="deconvnet"
)
channels_option = several(
    "-u --unit",
    "Unit to draw: a channel of the layer, by number. Repeatable. Default: see --draw.",
    old="--channel",
    type=Channel(0),
    metavar="CHANNEL",
)
BOXES = (
    'True boxes, as JSON: {"cat.jpg": [[x0, y0, x1, y1], …]}, {"cat.jpg": {"cat": [x0, y0, x1, y1]}} or COCO; or '
    '"dataset".'
)
CLASSES = (
    'True classes: JSON, {"cat.jpg": 281}; CSV with the columns picture and class; "folders", if pictures are in '
    'folders named by their class; or "dataset", as archives, tables and metadata files say.'
)
sample_option = option(
    "--sample",
    "Use N of the pictures, drawn at random with SEED (default: 0).",
    metavar="N[:SEED]",
    callback=_number_and_seed,
)
where_option = option(
    "--where", "Rows of tables and metadata files to use, by a column: split=test, width>=640.", metavar="COLUMN=VALUE"
)
limit_option = option("--limit", "Use at most N of the pictures, evenly spaced.", type=IntRange(1), metavar="N")
exit_zero_option = option("--exit-zero", "Exit with 0 even if there are findings.", is_flag=True)
colormap_option = functools.partial(
    option, "--colormap", type=ColorMap(), metavar="NAME", shell_complete=complete.colormaps
)


every_option = option(
    "--every", "Use every Nth frame of a video.", type=IntRange(1), default=1, show_default=False, metavar="N"
)


memory_limit_option = option(
    "--memory-limit",
    "Maximum memory of the command, and GPU memory per session, in GiB. Default: the free memory.",
    type=FloatRange(0, min_open=True),
    metavar="GIB",
)
time_limit_option = option(
    "--time-limit",
    "Stop the command if no picture is finished for this long, in seconds. Default: no limit.",
    type=FloatRange(0, min_open=True),
    metavar="SECONDS",
)


class Resources(Given):
    """What a command may take that reads a model and has no session; the supervisor ends it where it takes more."""

    memory_limit: float | None = memory_limit_option
    time_limit: float | None = time_limit_option


class Formatted(Given):
    """Nothing but the output format."""

    form: str = format_option


class Pictures(Given):
    """Pictures of a command about pictures."""

    pictures: tuple[str, ...] = argument(nargs=-1, required=True, type=READ)
    limit: int | None = limit_option
    sample: tuple[int, int] | None = sample_option
    where: str | None = where_option
    every: int = every_option

    def opened(self, samples: Sequence[Sample], feeding: Feeding) -> tuple[list[Sample], list[str]]:
        """Frames of videos, clips of several pictures; see `pictures.opened`."""
        from analyzer.attribution.cards import opened

        return opened(samples, self.pictures, feeding, self.every)

    def samples(self, annotations: Mapping[str, Mapping[str, Any]] | None = None) -> list[Sample]:
        """The pictures in the files, folders, patterns and lists; `-` is the one on stdin."""
        from analyzer.data import find_pictures

        return find_pictures(self.pictures, self.limit, annotations, self.sample, self.where)


class DataSet(Given):
    """Pictures of a command about data sets."""

    pictures: tuple[str, ...] = argument(nargs=-1, type=READ)
    data: tuple[str, ...] = several(
        "-d --data",
        "Pictures: a file, folder, glob pattern, tar archive, Parquet file, address, or text file with one path per "
        "line. Repeatable; the same as PICTURES.",
        type=READ,
        metavar="PATH",
    )
    limit: int | None = limit_option
    sample: tuple[int, int] | None = sample_option
    where: str | None = where_option
    every: int = every_option

    def opened(self, samples: Sequence[Sample], feeding: Feeding) -> list[Sample]:
        """As for `Pictures`."""
        from analyzer.attribution.cards import opened

        return opened(samples, self.sources, feeding, self.every)[0]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.pictures + self.data

    def samples(self, annotations: Mapping[str, Mapping[str, Any]] | None = None) -> list[Sample]:
        """As for `Pictures`."""
        from analyzer.data import find_pictures
        from analyzer.errors import InputError

        if not self.sources:
            raise InputError("no pictures given", "add a folder of pictures with --data FOLDER")
        return find_pictures(self.sources, self.limit, annotations, self.sample, self.where)


class Limits(Given):
    """Thresholds of a command that has findings."""

    thresholds: str | None = option(
        "--thresholds",
        "TOML file with thresholds; see docs/ci.md. Default: those in pyproject.toml, if any.",
        type=READ_FILE,
        metavar="FILE",
    )
    limits: tuple[str, ...] = several(
        "--threshold", "Set a single threshold. Repeatable.", old="--limit-of", metavar="NAME=VALUE"
    )

    def file(self, command: str) -> Path | None:
        """The file of thresholds: that which is named, else the project's."""
        from analyzer.commands.common import note
        from analyzer.validation.thresholds import of_project

        if self.thresholds is not None:
            return Path(self.thresholds)
        found = of_project(command)
        if found is not None:
            note(f"thresholds: {found}")
        return found

    @property
    def single(self) -> dict[str, float]:
        """{name: value} of those set by themselves."""
        from analyzer.errors import InputError

        found = {}
        for text in self.limits:
            name, _, value = text.partition("=")
            try:
                found[name.strip()] = float(value)
            except ValueError:
                message = f"--threshold {text!r} is not NAME=VALUE"
                raise InputError(message, "for example: --threshold score_drift=0.1") from None
        return found


class Preprocessing(Given):
    """How pictures become inputs, where flags say so."""

    preset: str | None = option(
        "--preset",
        "Pixel normalization of the float model: imagenet, 0-1, -1-1, caffe, raw or clip. "
        "Default: from the model's TOML file, or guessed.",
        metavar="NAME",
        shell_complete=complete.presets,
    )
    mean: str | None = option(
        "--mean", "Mean to subtract, after --scale: one number, or one per channel (R,G,B).", metavar="X[,X,X]"
    )
    std: str | None = option(
        "--std", "Standard deviation to divide by: one number, or one per channel (R,G,B).", metavar="X[,X,X]"
    )
    scale: str | None = option("--scale", "Factor for pixel values (0 to 255), such as 1/255.", metavar="X")
    layout: str | None = option("--layout", "Axis order of the model's input.", type=Choice(["NCHW", "NHWC"]))
    channels: str | None = option(
        "--channels", "Channel order of the model's input.", type=Choice(["RGB", "BGR", "GRAY", "RGBA"])
    )
    white: float | None = option(
        "--white",
        "Pixel value of white in pictures of more than 8 bits, such as 4095. Default: from the file, or 65535.",
        type=FloatRange(1),
        metavar="VALUE",
    )
    max_megapixels: float = option(
        "--max-megapixels",
        "Refuse pictures larger than this, in megapixels.",
        type=FloatRange(0, min_open=True),
        default=100,
        metavar="N",
    )
    size: str | None = option("--size", "Input size, if the model does not fix it.", metavar="HEIGHTxWIDTH")
    resize: str | None = option(
        "--resize", "How to fit pictures to the input size.", type=Choice(["resize", "crop", "letterbox"])
    )

    def flags(self) -> dict[str, Any]:
        """Keys of a model's card; pictures as large as was asked for are read from now on."""
        from analyzer.images import allow_pixels

        keys = dict(vars(self))
        allow_pixels(round(1e6 * keys.pop("max_megapixels")))
        return keys


class Thresholds(Given):
    """Which candidates of a detector count."""

    score_threshold: float | None = option(
        "--score-threshold",
        "Minimum score of a detection. Default: from the model's TOML file, or that of its format.",
        type=FloatRange(0, 1),
        metavar="SCORE",
    )
    iou_threshold: float | None = option(
        "--iou-threshold",
        "Non-maximum suppression, if the model does not do it itself: of two detections of a class that overlap more, "
        "the lower-scoring one is dropped. Default: from the model's TOML file, or that of its format.",
        type=FloatRange(0, 1),
        metavar="IOU",
    )


class OtherInputs(Given):
    """What a model takes beside the picture, and which of its inputs is explained."""

    given: tuple[str, ...] = several(
        "--input",
        "Value of another input of the model: a picture, .npy, .npz or video file, or numbers, such as meta=0,0,0; one "
        "number fills the input. Repeatable. The picture goes to the picture input that is not named.",
        metavar="NAME=FILE|VALUE",
    )
    explain_input: str | None = option(
        "--explain-input", "Input whose heatmap is computed. Default: the picture's.", metavar="NAME"
    )


LINEAR_ALGEBRA = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
THREADS = (*LINEAR_ALGEBRA, "OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def _bound_threads(context: click.Context, parameter: click.Parameter, threads: int | None) -> int | None:
    """Bounds those of NumPy and OpenCV as well, which read these when they are imported: by then it has to be known.

    More threads than CPUs gain nothing, and each takes memory: there are no more than those. NumPy's products of
    matrices are small here; by default one thread computes them, because several would mostly wait for each other.
    """
    if threads is None:
        for name in LINEAR_ALGEBRA:
            os.environ.setdefault(name, "1")
    else:
        threads = min(threads, os.cpu_count() or 1)
        os.environ |= dict.fromkeys(THREADS, str(threads))
    return threads


class SessionOptions(Given):
    """How sessions run, and the user's cache of rewritten graphs."""

    allow_fallback: bool = option("--allow-fallback", "Run nodes without a GPU kernel on the CPU.", is_flag=True)
    threads: int | None = option(
        "--threads",
        "Number of CPU threads per session, at most the number of CPUs.",
        type=IntRange(1),
        callback=_bound_threads,
        is_eager=True,
        metavar="N",
    )
    memory_limit: float | None = memory_limit_option
    time_limit: float | None = time_limit_option
    session_memory: float | None = option(
        "--session-memory",
        "Memory for cached models and sessions, in GiB. Default: half of the free memory.",
        type=FloatRange(0, min_open=True),
        metavar="GIB",
    )
    custom_ops: tuple[str, ...] = several(
        "--custom-ops",
        "Library with custom operators of the model: a .so, .dylib or .dll file, or onnxruntime-extensions. "
        "Repeatable.",
        metavar="LIBRARY",
    )

    def keywords(self, provider: str, many: bool = False) -> dict[str, Any]:
        """Of an Explainer; the budget of kept sessions, which is the process's, is set.

        Args:
            provider: the one that runs it; on the CPU the supervisor bounds the memory, not the session.
            many: it works through many pictures, several of them at once: each session has one thread unless
                --threads says otherwise.
        """
        from analyzer.commands.boundary import is_own_process
        from analyzer.runtime import share_threads
        from analyzer.runtime.pool import limit_memory
        from analyzer.store import user_cache

        if self.session_memory is not None:
            limit_memory(int(self.session_memory * 2**30))
        threads = self.threads or (1 if many else None)
        if is_own_process():
            share_threads(threads)
        limit = None if self.memory_limit is None else int(self.memory_limit * 2**30)
        given: dict[str, Any] = {"allow_fallback": self.allow_fallback, "threads": threads}
        if self.custom_ops:
            given["custom_ops"] = self.custom_ops
        return given | {"memory_limit": None if provider == "cpu" else limit, "cache": user_cache()}


class Setup(Given):
    """How a model is given pictures, where it runs and how."""

    preprocess: Preprocessing = group(Preprocessing)
    others: OtherInputs = group(OtherInputs)
    thresholds: Thresholds = group(Thresholds)
    provider: str = provider_option
    session: SessionOptions = group(SessionOptions)

    def load(
        self, model: str, labels: str | None = None, many: bool = False, **session: Any
    ) -> tuple[Explainer, ModelCard]:
        """The model, and how its pictures are prepared; `many` as for `SessionOptions.keywords`."""
        from analyzer.attribution.cards import read_card
        from analyzer.attribution.deployed import open_model
        from analyzer.commands.common import tell_card

        explainer = open_model(model, self.provider, **self.session.keywords(self.provider, many), **session)
        flags = self.preprocess.flags() | vars(self.thresholds)
        card = read_card(explainer, labels, flags, self.others.given, self.others.explain_input)
        tell_card(explainer, card)
        return explainer.about(card.feeds.explained), card


class Engine(Given):
    """Who goes through many pictures."""

    count: int | None = option(
        "--workers",
        "Number of pictures processed in parallel. Default: one per CPU.",
        type=IntRange(1),
        metavar="N",
    )
    engine: str = option(
        "--engine",
        "Who processes pictures: threads, or where there are several GPUs or many CPUs processes (local); processes; "
        "or a Ray cluster.",
        type=Choice(["local", "processes", "ray"]),
        default="local",
    )
    address: str | None = option(
        "--address",
        "Ray cluster: auto or ray://HOST:PORT. Default: a private one on this machine.",
        metavar="ADDRESS",
    )

    allow_failed: int | float = option(
        "--allow-failed",
        "Pictures that may fail before the exit code is 5: a number, or a share such as 1%.",
        type=Part(),
        default="0",
        metavar="N|N%",
    )

    def code(self, failed: int, total: int) -> int:
        """The exit code of a command for which so many of its pictures failed: 5 where those are more than may."""
        part = self.allow_failed
        allowed = part * total if isinstance(part, float) else part
        return 5 if failed > allowed or 0 < total <= failed else 0

    @property
    def workers(self) -> Workers:
        """Of `passes.run`.

        Raises:
            InputError: an address without a cluster.
        """
        from analyzer.errors import InputError
        from analyzer.passes import Processes, Ray

        if self.engine == "ray":
            return Ray(None if self.address == "local" else self.address, self.count)
        if self.address is not None:
            raise InputError("--address names a Ray cluster", "add --engine ray")
        return Processes(self.count) if self.engine == "processes" else self.count


class OverPictures(Given):
    """How a command goes through many pictures, and where it keeps what it has done."""

    engine: Engine = group(Engine)
    store: str | None = store_option

    @property
    def is_given(self) -> bool:
        """Whether any of these options was."""
        chosen = self.engine.count, self.engine.address, self.store
        return self.engine.engine != "local" or any(option is not None for option in chosen)

    def keywords(self, out: str | None, progress: Progress) -> dict[str, Any]:
        """Of `passes.run`: without a store, what is done is kept in the folder of the results until all is done."""
        kept = self.store or (out if out and Path(out).is_dir() else None)
        return {
            "folder": kept,
            "workers": self.engine.workers,
            "progress": progress.step,
            "forget": self.store is None,
        }
