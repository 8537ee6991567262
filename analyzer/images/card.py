"""The card of a model file: preprocessing, labels, default layer and task.

Taken from explicit flags, else from `<model>.toml` beside the model, else from the model's table in `models.toml` in
its folder, else guessed from the input's shape and type. Flags replace single keys of a file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError, suggest
from analyzer.images.feeding import Feeding
from analyzer.images.guess import InputGuess, customary_preset
from analyzer.images.labels import MAX_LABELS, load_labels, read_text
from analyzer.images.preprocess import (
    CHANNELS,
    DTYPES,
    INTERPOLATIONS,
    LAYOUTS,
    LEVELS,
    PRESETS,
    RESIZES,
    Preprocess,
    few_levels,
    is_bands,
)


@dataclass(frozen=True)
class ModelCard:
    """How to feed a model and name its classes.

    Attributes:
        preprocess: picture to tensor.
        labels: class names by index, None if not given.
        default_layer: tensor or node to explain by, unless another one is chosen.
        task: classification, segmentation, …, as written in the file.
        source: where the preprocessing comes from, guesses and all.
        outputs: {output: role}; the role "main" names the output that is explained.
        decode: how text is decoded, or the format of a detector, as written in the file.
        score_threshold: score from which a candidate of a detector counts; None for the format's.
        iou_threshold: overlap above which the lower-scoring of two detections of a class is dropped; None for the
            format's.
        anchors: ((width, height) in pixels of each anchor of a place) of each level of a detector, the finest first; ()
            for those of the format.
        strides: pixels between places, of each level; () for those of the format.
        variances: what centers and logarithms of sizes are multiplied by; None for those of the format.
        remark: what an input of whole numbers is given in place of the normalisation of its float model, as a
            sentence; "" for others.
        feeding: how all inputs of the model are fed, where that is known.
        is_guessed: whether neither flags nor a file give the normalisation.
    """

    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    default_layer: str | None = None
    task: str | None = None
    source: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    decode: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides: tuple[int, ...] = ()
    variances: tuple[float, float] | None = None
    remark: str = ""
    feeding: Feeding | None = None
    is_guessed: bool = False

    @property
    def feeds(self) -> Feeding:
        """`feeding`, for commands that load a model with its inputs."""
        assert self.feeding is not None, "a card that is read without a model's inputs"
        return self.feeding

    @property
    def description(self) -> str:
        """The preprocessing and where it comes from, as a sentence."""
        return f"{self.preprocess.describe()}; {self.source}"

    def label(self, index: int) -> str:
        """The name of class `index`, or the index itself if it has no name."""
        named = self.labels is not None and 0 <= index < len(self.labels) and self.labels[index]
        return str(named or index)


def model_card(
    model_path: str | os.PathLike[str] | None,
    flags: Mapping[str, Any] | None = None,
    input_shape: Sequence[int | str | None] | None = None,
    input_dtype: Any = None,
    input_quantisation: tuple[float, float] = (0.0, 1.0),
    usual: tuple[str, Mapping[str, Any]] = ("", {}),
) -> ModelCard:
    """The card of a model: flags override its TOML file, which overrides a guess from its input.

    Args:
        model_path: the ONNX file; TOML files are searched in its folder. None for a model without a file.
        flags: keys of `PREPROCESS_KEYS` and `MODEL_KEYS`, as values or as the strings of a command line
            ("0.5,0.5,0.5", "1/255", "224x224"); `_` is accepted for `-`; None means not given.
        input_shape: shape of the model's picture input, rank 4 or 3 (no batch); dynamic sizes are None, a name or −1.
            Read from the file if it is None.
        input_dtype: its element type, as NumPy accepts it.
        input_quantisation: zero point and scale of what it holds.
        usual: whose preprocessing is customary for what the model is recognized as, and its keys: a better guess.

    Raises:
        InputError: an unknown key, an invalid value, or a contradiction with the input; the message names file and key.
    """
    file, table = _table_of(Path(model_path)) if model_path is not None else (None, {})
    in_file = _file_keys(table, str(file))
    asked = _flag_keys(flags or {})
    if input_shape is None and model_path is not None and Path(model_path).is_file():
        input_shape, input_dtype = _picture_input(Path(model_path))
    guess = InputGuess(input_shape, input_dtype)
    customs = _checked(dict(usual[1]), PREPROCESS_KEYS, PREPROCESS_KEYS, usual[0])
    said = in_file | asked
    merged = _over(customs, _merged(in_file, asked))
    if "size" in customs and merged["size"] == customs["size"]:
        merged["size"] = guess.opened(merged.get("layout", guess.layout), customs["size"])
    try:
        fields, remark = _of_integers(_fields(guess, merged), merged, *input_quantisation)
        preprocess = Preprocess(**fields)
    except InputError as error:
        places = [
            name for name, keys in ((str(file), in_file), ("flags", asked)) if keys.keys() & PREPROCESS_KEYS.keys()
        ]
        raise InputError(f"{' with '.join(places) or 'preprocessing'}: {error.message}", error.hint) from error
    guess.check(preprocess)
    return ModelCard(
        preprocess,
        _labels(asked, None) or _labels(in_file, file),
        said.get("default-layer"),
        said.get("task"),
        _source(guess, in_file, asked, file, usual[0], customs),
        said.get("outputs", {}),
        said.get("decode"),
        said.get("score-threshold"),
        said.get("iou-threshold"),
        said.get("anchors", ()),
        said.get("strides", ()),
        said.get("variances"),
        remark,
        is_guessed=not any(key in said for key in _NORMALISATION),
    )


def _picture_input(path: Path) -> tuple[list[int | str | None] | None, Any]:
    """(shape, element type) of the input that holds the picture: the first with four axes, else of the highest rank."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX model ({error})") from error
    weights = {tensor.name for tensor in graph.initializer}
    tensors = [i.type.tensor_type for i in graph.input if i.name not in weights and i.type.HasField("tensor_type")]
    if not tensors:
        return None, None
    picture = next((t for t in tensors if len(t.shape.dim) == 4), max(tensors, key=lambda t: len(t.shape.dim)))
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in picture.shape.dim]
    return shape, onnx.helper.tensor_dtype_to_np_dtype(picture.elem_type)


# ---- the files -----------------------------------------------------------------------------------------------


def _table_of(model: Path) -> tuple[Path | None, dict[str, Any]]:
    """The TOML file that speaks of `model`, and the table in it that does."""
    own, shared = model.with_suffix(".toml"), model.parent / "models.toml"
    if own.is_file() and own != shared:
        return own, _parse(own)
    if not shared.is_file():
        return None, {}
    tables = _parse(shared)
    table = tables.get(model.name)
    if table is None and _dotted(tables, model.name):
        raise InputError(f"{shared}: the table of {model.name} needs quotes", f'write ["{model.name}".preprocess]')
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{shared}: {model.name!r} is not a table")
    return (None, {}) if table is None else (shared, table)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error
    except RecursionError as error:
        raise InputError(f"{path}: TOML nested too deeply") from error


def _dotted(tables: Any, name: str) -> bool:
    for part in name.split("."):
        tables = tables.get(part) if isinstance(tables, dict) else None
    return tables is not None


def _file_keys(table: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The checked keys of a model's table and of its table `preprocess`, in one: they do not collide."""
    nested = table.get("preprocess", {})
    if not isinstance(nested, dict):
        raise InputError(f"{file}: 'preprocess' must be a table")
    rest = {key: value for key, value in table.items() if key != "preprocess" and key not in NOTE_KEYS}
    stray = [key for key in rest if key in PREPROCESS_KEYS]
    if stray:
        raise InputError(f"{file}: {', '.join(map(repr, stray))} must be in the table 'preprocess'")
    known = (*MODEL_KEYS, "preprocess", *NOTE_KEYS)
    return _checked(nested, PREPROCESS_KEYS, PREPROCESS_KEYS, file) | _checked(rest, MODEL_KEYS, known, file)


def _flag_keys(flags: Mapping[str, Any]) -> dict[str, Any]:
    given = {key.replace("_", "-"): value for key, value in flags.items() if value is not None}
    values = {key: _read_flag(key, value) if isinstance(value, str) else value for key, value in given.items()}
    parsers = PREPROCESS_KEYS | MODEL_KEYS
    return _checked(values, parsers, parsers, "flags")


def _checked(
    table: Mapping[str, Any], parsers: Mapping[str, Callable[[Any], Any]], known: Iterable[str], file: str
) -> dict[str, Any]:
    unknown = [key for key in table if key not in parsers]
    if unknown:
        near = "; ".join(filter(None, (suggest(key, known) for key in unknown)))
        names = ", ".join(map(repr, unknown))
        raise InputError(f"{file}: unknown key {names}", near or f"known keys are {', '.join(known)}")
    values = {}
    for key, value in table.items():
        try:
            values[key] = parsers[key](value)
        except ValueError as error:
            raise InputError(f"{file}: {key} is {str(value)[:60]!r}, must be {error}") from error
    return values


# ---- keys and their values: each parser returns the value, or raises ValueError("what it must be") -----------------


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return float(value)


def _share(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1")
    return number


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("a number, or a list of one per channel")
    return tuple(_number(each) for each in values)


def _size(value: Any) -> tuple[int, int] | None:
    if value == "native":
        return None
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        raise ValueError('[height, width] in pixels, or "native" for each picture\'s own')
    return sides[0], sides[1]


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a string")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("a list of strings")
    if not 0 < len(value) <= MAX_LABELS:
        raise ValueError("a list of at least one string")
    return tuple(value)


def _roles(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(role, str) and role for role in value.values()):
        raise ValueError('a table of roles by output, such as { scores = "main", boxes = "boxes" }')
    return dict(value)


def _anchors(value: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
    levels = value if isinstance(value, list | tuple) else []
    if not levels or not all(isinstance(level, list | tuple) and level for level in levels):
        raise ValueError("a list of anchors, [width, height] in pixels, for each level, such as [[[16, 16], [32, 32]]]")
    return tuple(tuple(_pair(anchor) for anchor in level) for level in levels)


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("pairs of positive numbers")
    first, second = map(_number, value)
    if min(first, second) <= 0:
        raise ValueError("pairs of positive numbers")
    return first, second


def _steps(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list | tuple) and all(isinstance(s, int) and not isinstance(s, bool) for s in value)
    if not whole or not value or min(value) <= 0:
        raise ValueError("a list of pixels between places, one for each level, such as [8, 16, 32]")
    return tuple(value)


def _one_of(known: Iterable[str]) -> Callable[[Any], str]:
    names = tuple(known)

    def choice(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            near = suggest(value, names) if isinstance(value, str) else ""
            raise ValueError(f"one of {', '.join(names)}" + (f" ({near})" if near else ""))
        return value

    return choice


def _channels(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if is_bands(value) else _one_of(CHANNELS)(value)


PREPROCESS_KEYS: dict[str, Callable[[Any], Any]] = {
    "preset": _one_of(PRESETS),
    "mean": _numbers,
    "std": _numbers,
    "scale": _number,
    "layout": _one_of(LAYOUTS),
    "channels": _channels,
    "white": _number,
    "size": _size,
    "resize": _one_of(RESIZES),
    "crop-fraction": _number,
    "interpolation": _one_of(INTERPOLATIONS),
    "antialias": _truth,
    "pad-value": _number,
    "dtype": _one_of(DTYPES),
}

MODEL_KEYS: dict[str, Callable[[Any], Any]] = {
    "labels": _names,
    "labels-file": _text,
    "default-layer": _text,
    "task": _text,
    "outputs": _roles,
    "decode": _text,
    "score-threshold": _share,
    "iou-threshold": _share,
    "anchors": _anchors,
    "strides": _steps,
    "variances": _pair,
}

# For people and other programs; `about` may be a table of anything.
NOTE_KEYS = ("about", "description", "licence", "license", "made", "notes", "sha256", "source", "title", "url")


def _read_flag(key: str, text: str) -> Any:
    """The value that TOML would have: "0.5,0.5,0.5" is a list, "224x192" a size, "true" a truth value."""
    parser = PREPROCESS_KEYS.get(key)
    try:
        if parser is _truth:
            return {"true": True, "false": False}.get(text.lower(), text)
        if parser is _size and text != "native":
            sides = [int(part) for part in re.split("[x×,]", text)]
            return sides if len(sides) > 1 else sides[0]
        if parser in (_numbers, _number, _share):
            numbers = [_quotient(part) for part in text.split(",")]
            return numbers if len(numbers) > 1 else numbers[0]
    except (ValueError, ZeroDivisionError):
        pass
    return text


def _quotient(text: str) -> float:
    """A number, or a fraction such as 1/255."""
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


# ---- from keys to the card ------------------------------------------------------------------------------------

_NORMALISATION = ("preset", "mean", "std", "scale")
_FIELDS = {"crop-fraction": "crop_fraction", "pad-value": "pad_value"}


def _merged(in_file: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing keys of file and flags; a preset among the flags voids the file's whole normalisation."""
    void = _NORMALISATION if "preset" in asked else ()
    merged = {key: value for key, value in in_file.items() if key not in void} | dict(asked)
    return {key: value for key, value in merged.items() if key in PREPROCESS_KEYS}


def _over(usual: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The usual keys, replaced by `keys` where both have one; a normalisation in `keys` voids the whole usual one."""
    void = _NORMALISATION if any(key in keys for key in _NORMALISATION) else ()
    return {key: value for key, value in usual.items() if key not in void} | dict(keys)


def _fields(guess: InputGuess, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Preprocess`: the geometry of the input, then one preset, then single keys."""
    fields = guess.geometry(keys.get("layout", guess.layout))
    if not any(key in keys for key in _NORMALISATION):
        channels, dtype = (keys.get(key, fields[key]) for key in ("channels", "dtype"))
        fields |= PRESETS[customary_preset(fields["layout"], channels, dtype)]
    else:
        fields |= PRESETS[keys["preset"]] if "preset" in keys else {"scale": _implied_scale(keys)}
    fields |= {_FIELDS.get(key, key): value for key, value in keys.items() if key != "preset"}
    if fields["dtype"] == "int8" and fields["scale"] == 1 and "mean" not in keys:
        fields["mean"] = (128.0,)
    return fields


def _of_integers(
    fields: dict[str, Any], keys: Mapping[str, Any], zero: float, scale: float
) -> tuple[dict[str, Any], str]:
    """(`fields`, a remark): for an input of integers, what its float model's normalisation means.

    A preset, and numbers that would leave few levels, are the float model's. An input that is dequantised to what that
    takes is given it quantised; any other, raw pixels: then the model normalises.
    """
    dtype = fields["dtype"]
    mean, std = (np.array(fields.get(key, default)) for key, default in (("mean", [0.0]), ("std", [1.0])))
    if "int" not in dtype or 0 in std:
        return fields, ""
    if keys.get("preset", "raw") == "raw" and not few_levels(dtype, fields["scale"], std.tolist()):
        return fields, ""
    limits = np.iinfo(dtype)
    raw = PRESETS["raw"] | {"mean": (128.0,) if dtype == "int8" else (0.0,)}
    steps = ((np.array([[0], [255]]) * fields["scale"] - mean) / std / scale + zero).T  # of black and white
    slack = (limits.max - limits.min) / 8
    is_raw = np.abs(steps - (np.array([0, 255]) - raw["mean"][0])).max() <= 2
    is_inside = limits.min - slack <= steps.min() and steps.max() <= limits.max + slack
    whose = f"the normalization {keys['preset']}" if "preset" in keys else "the given normalization"
    whose += f" is the float model's, this input is {dtype}: "
    if is_raw or not is_inside or np.abs(steps[:, 1] - steps[:, 0]).min() < LEVELS:
        given = "pixels − 128" if dtype == "int8" else "raw pixels"
        return fields | raw, f"{whose}it gets {given}"
    numbers = {"mean": tuple((mean - zero * scale * std).tolist()), "std": tuple((std * scale).tolist())}
    return fields | numbers, f"{whose}it gets that, quantized with scale {scale:.4g} and zero point {zero:g}"


def _implied_scale(keys: Mapping[str, Any]) -> float:
    """mean or std without a scale: above 1 they speak of pixels 0 … 255, else of pixels 0 … 1."""
    return 1.0 if max(map(abs, (*keys.get("mean", (0.0,)), *keys.get("std", (0.0,))))) > 1 else 1 / 255


def _labels(keys: Mapping[str, Any], file: Path | None) -> tuple[str, ...] | None:
    """Labels in place or from a file: one that a TOML file names lies in that file's folder or below."""
    if "labels-file" not in keys:
        return keys.get("labels")
    if "labels" in keys:
        raise InputError(f"{file or 'flags'}: labels and labels-file are both set; use only one")
    if file is None:
        return load_labels(keys["labels-file"])
    path = (file.parent / keys["labels-file"]).resolve()
    if not path.is_relative_to(file.parent.resolve()):
        raise InputError(
            f"{file}: labels-file {keys['labels-file']!r} is outside the model's folder",
            "copy the file there, or pass it as a flag",
        )
    return load_labels(path)


def _source(
    guess: InputGuess,
    in_file: Mapping[str, Any],
    asked: Mapping[str, Any],
    file: Path | None,
    usual: str,
    customs: Mapping[str, Any],
) -> str:
    """«from resnet.toml with the flag size, the rest from the input float32[1, 3, 224, 224]»

    Args:
        usual, customs: whose preprocessing fills in what neither says, and its keys; "" for nobody's.
    """
    keys = _merged(in_file, asked)
    flags = [key for key in asked if key in PREPROCESS_KEYS]
    parts = [f"from {file.name}"] if file and in_file.keys() & PREPROCESS_KEYS.keys() else []
    if flags:
        parts.append(f"{'with' if parts else 'from'} the flag{'s' * (len(flags) > 1)} {', '.join(flags)}")
    known = any(key in keys for key in _NORMALISATION)
    open_size = "size" not in keys and None in guess.sides(keys.get("layout", guess.layout))
    normal = not known and any(key in customs for key in _NORMALISATION)
    usually = ["normalization"] if normal else []
    if open_size and "size" in customs:
        height, width = guess.opened(keys.get("layout", guess.layout), customs["size"])
        usually.append(f"the size {height}×{width}")
    if usually:
        parts.append(f"{'and ' if parts else ''}{' and '.join(usually)} as is usual for {usual}")
    guessed = [] if known or normal else ["normalization"]
    if "layout" not in keys and not guess.known_layout:
        guessed.append("layout")
    if open_size and "size" not in customs:
        guessed.append("size")
    rest = f"{' and '.join(guessed)} guessed" if guessed else "the rest" if parts else "all"
    return ", ".join(filter(None, (" ".join(parts), f"{rest} from the input {guess.text}")))
