"""Other preprocessings that an audit tries beside the declared one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analyzer.images import PRESETS, Preprocess
from analyzer.metrics.intervals import bootstrap

FITS = {"stretched": "resize", "cropped": "crop", "letterboxed": "letterbox"}  # {name: value of --resize}
SIZES = 1 / 2, 2 / 3, 3 / 2, 2  # times the declared width and height
GRID = 32  # pixels: networks that halve their maps five times take multiples of it

Seen = tuple[float, bool | None]  # of a picture: the confidence, and whether the answer is right where that is known


class Other(NamedTuple):
    """A preprocessing, and the options of the command line that ask for it."""

    preprocess: Preprocess
    options: str


def alternatives(declared: Preprocess, any_size: bool = False) -> dict[str, Other]:
    """The declared preprocessing; then others, each of which differs in one thing.

    The order of the channels, the customary normalizations, the ways to fit a picture to the input, and its size. Of an
    input that is not RGB or BGR only the normalizations that do not distinguish channels.

    Args:
        any_size: whether the model takes inputs of other sizes.
    """
    found = {"declared": Other(declared, "")}
    if declared.channels in ("RGB", "BGR"):
        order = "BGR" if declared.channels == "RGB" else "RGB"
        found["channels swapped"] = Other(declared.replace(channels=order), f"--channels {order}")
    if declared.dtype == "float32":
        found |= _normalizations(declared)
    if declared.size is not None:
        found |= {
            name: Other(declared.replace(resize=fit), f"--resize {fit}")
            for name, fit in FITS.items()
            if fit != declared.resize
        }
    if declared.size is not None and any_size:
        found |= {f"size {_text(size)}": Other(declared.replace(size=size), f"--size {_text(size)}")
                  for size in _sizes(*declared.size)}  # fmt: skip
    return found


def contract(preprocess: Preprocess, seen: Mapping[str, Sequence[Seen]]) -> dict[str, dict[str, Any]]:
    """{preprocessing: its figures}, of what the probes gave with each.

    Confidence, and accuracy where true classes are known; the magnitude of its input values in units of the declared
    ones; the gain over the declared one with its 95 % interval, of accuracy if that is known.
    """
    known = alternatives(preprocess, any_size=True)
    return {name: _row(preprocess, known[name], values, seen["declared"]) for name, values in seen.items()}


def _row(declared: Preprocess, other: Other, values: Sequence[Seen], before: Sequence[Seen]) -> dict[str, Any]:
    right = [right for _, right in values if right is not None]
    row: dict[str, Any] = {"confidence": mean_of_finite(confidence for confidence, _ in values)}
    row |= {"accuracy": float(np.mean(right))} if right else {}
    row["size"] = _magnitude(other.preprocess) / _magnitude(declared)
    if not other.options:
        return row
    gain = bootstrap(_gains(values, before))
    row |= {"options": other.options, "gain": gain.value}
    return row | ({"gain_low": gain.low, "gain_high": gain.high} if math.isfinite(gain.low) else {})


def _gains(values: Sequence[Seen], before: Sequence[Seen]) -> list[float]:
    """Of every picture."""
    pairs = list(zip(values, before, strict=True))
    judged = [float(after[1]) - float(known[1]) for after, known in pairs if None not in (after[1], known[1])]  # type: ignore[arg-type]
    return judged or [after[0] - known[0] for after, known in pairs if None not in (after[0], known[0])]


def _normalizations(declared: Preprocess) -> dict[str, Other]:
    found = {}
    for name, values in PRESETS.items():
        if declared.channels not in ("RGB", "BGR") and ("channels" in values or len(values["mean"]) > 1):
            continue
        wanted = {key: value for key, value in values.items() if key in ("scale", "mean", "std", "channels")}
        found[name] = Other(declared.replace(**wanted), f"--preset {name}")
    return found


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes to try: multiples of `GRID`."""
    near = [(_rounded(factor * height), _rounded(factor * width)) for factor in SIZES]
    return [size for size in dict.fromkeys(near) if size != (height, width)]


def _rounded(side: float) -> int:
    return max(GRID, round(side / GRID) * GRID)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _magnitude(how: Preprocess) -> float:
    """Of its input values: the value of one pixel level."""
    return how.scale / float(np.mean(how.std))


def mean_of_finite(values: Iterable[float | None]) -> float | None:
    """Over what is finite (a store keeps all else as None); None where nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.mean(known)) if known else None
