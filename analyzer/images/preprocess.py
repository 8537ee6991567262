"""Preprocessing: from a picture to the network's input tensor, and where each of its pixels comes from.

`x = (pixel · scale − mean) / std`, per channel, after the picture is resized to the network's size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.deprecated import renamed_attribute
from analyzer.errors import InputError, suggest
from analyzer.images._opencv import opencv
from analyzer.images.placement import Placement
from analyzer.images.resample import FILTERS, resize, strips

LAYOUTS = ("NCHW", "NHWC")
CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1, "RGBA": 4}
INTERPOLATIONS = (*FILTERS, "nearest")
RESIZES = ("resize", "crop", "letterbox", "letterbox-corner")
DTYPES = ("float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32")

# Fields of `Preprocess`; mean and std in the order of its channels.
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "0-1": {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "-1-1": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "raw": {"scale": 1.0, "mean": (0.0,), "std": (1.0,)},
    "caffe": {"channels": "BGR", "scale": 1.0, "mean": (103.939, 116.779, 123.68), "std": (1.0,)},
    "clip": {
        "scale": 1 / 255,
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "resize": "crop",
        "crop_fraction": 1.0,
        "interpolation": "bicubic",
    },
}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an input tensor.

    Attributes:
        size: (height, width) of the network's input; None keeps each picture's own.
        layout: NCHW or NHWC.
        channels: RGB, BGR, GRAY (ITU-R 601 luma, rounded as in PIL), RGBA, or a number of bands, such as "6".
        white: the pixel value of white in pictures of more than 8 bits; None for the file's own, else 65535.
        scale: multiplies the 0 … 255 pixel. Deeper pictures are brought to that range, and not rounded.
        mean, std: in units of the scaled pixel, one value or one per channel in the order of `channels`.
        resize: resize (stretch), crop (short side to size / crop_fraction, then the center, as torchvision's
            Resize and CenterCrop), letterbox (whole picture, padded on both sides) or letterbox-corner (padded at
            right and bottom).
        crop_fraction: 0.875 is 224 of 256.
        interpolation: bilinear, bicubic, area or nearest, PIL's (see `resample`).
        antialias: False for frameworks that downsample without smoothing (OpenCV, TensorFlow's default).
        pad_value: the letterbox's gray, a 0 … 255 pixel.
        dtype: of the tensor. Integers are rounded and saturated; int8 wants mean 128, pixel − 128.
    """

    size: tuple[int, int] | None = (224, 224)
    layout: str = "NCHW"
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = "resize"
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    antialias: bool = True
    pad_value: float = 114.0
    dtype: str = "float32"
    white: float | None = None

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
            value = getattr(self, field)
            if value not in known and not (field == "channels" and is_bands(value)):
                raise InputError(
                    f"{field} must be one of {', '.join(known)}, not {value!r}", suggest(str(value), known)
                )
        for field in ("mean", "std"):
            if len(getattr(self, field)) not in (1, self.channel_count):
                count, wanted = len(getattr(self, field)), self.channel_count
                raise InputError(f"{field} has {count} values; {self.colors} needs {wanted}, one per channel")
        if self.size is not None and not all(1 <= side <= 1 << 16 for side in self.size):
            raise InputError(f"size must be a height and a width in pixels, not {self.size}")
        if not np.all(np.isfinite([self.scale, self.pad_value, *self.mean, *self.std])):
            raise InputError("scale, pad_value, mean and std must be finite")
        if self.scale == 0 or 0 in self.std:
            raise InputError("scale and std must not be 0")
        if self.white is not None and not 1 <= self.white <= 2**32:
            raise InputError(f"white must be a pixel value of 1 or more, not {self.white}")
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"crop_fraction must be in (0, 1], not {self.crop_fraction}")
        if few_levels(self.dtype, self.scale, self.std):
            levels = int(abs(255 * self.scale / max(self.std))) + 1
            raise InputError(
                f"the type {self.dtype} would keep only {levels} levels of (x · {self.scale:.4g} − mean) / std",
                "use raw pixels for integer inputs: preset 'raw'",
            )

    @property
    def channel_count(self) -> int:
        """How many channels the tensor has."""
        return CHANNELS.get(self.channels) or int(self.channels)

    @property
    def colors(self) -> str:
        """The channels in words: RGB, 6 bands."""
        return self.channels if self.channels in CHANNELS else f"{self.channels} bands"

    colours = renamed_attribute("colours", "colors")

    def shape(self, batch: int) -> tuple[int, ...]:
        """(batch, …), the shape of the input tensor for a batch.

        Raises:
            InputError: the size is not fixed.
        """
        if self.size is None:
            raise InputError("the input size is not fixed", "fix it, for example with --size 224x224")
        channels = 3 if self.channels in ("RGB", "BGR", "GRAY") else self.channel_count
        return (batch, *self.apply_deep(np.zeros((8, 8, channels), np.uint8))[0].shape[1:])

    def apply(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """The input tensor of `image`, and where its pixels came from.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (1, C, h, w) or (1, h, w, C) of `dtype`, and the placement.

        Raises:
            InputError: not a picture, or the model takes other channels.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"a picture must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        return self.apply_deep(image)

    def apply_deep(self, image: np.ndarray, white: float = 255.0) -> tuple[np.ndarray, Placement]:
        """`apply` to a picture of any depth and channels, as `read` gives it: (H, W, C) uint8, uint16 or float32."""
        unit = 255 / white
        how = self if white == 255 else self.replace(pad_value=self.pad_value / unit)
        pixels, placement = _PLACE[self.resize](how, self._channels_of(image, white))
        planes = pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels
        values = planes.astype(np.float64, order="C")
        values *= unit * self.scale
        values -= self._per_channel(self.mean)
        values /= self._per_channel(self.std)
        return np.ascontiguousarray(cast(values, self.dtype)[None]), placement

    def _per_channel(self, numbers: tuple[float, ...]) -> np.ndarray | float:
        """Numbers of the channels, to be combined with a picture in the input's layout; one for all is faster."""
        if len(set(numbers)) == 1:
            return numbers[0]
        return np.array(numbers).reshape((-1, 1, 1) if self.layout == "NCHW" else -1)

    def undo(self, tensor: np.ndarray) -> np.ndarray:
        """The (h, w, 3) uint8 RGB picture that the network sees, from one input tensor of `apply`."""
        values = np.asarray(tensor, np.float64).reshape(tensor.shape[-3:])
        if self.layout == "NCHW":
            values = values.transpose(1, 2, 0)
        pixels = np.clip(np.rint((values * np.array(self.std) + np.array(self.mean)) / self.scale), 0, 255)
        picture = pixels.astype(np.uint8)[..., :: -1 if self.channels == "BGR" else 1]
        picture = picture[..., : 3 if self.channel_count > 2 else 1]
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))

    def describe(self) -> str:
        """What is done, in one line: «RGB 224×224 NCHW float32, stretched, (x/255 − mean 0.485 …) / std 0.229 …»."""
        size = "the picture's own size" if self.size is None else "{}×{}".format(*self.size)
        fit = "" if self.size is None else _FITS[self.resize].format(self) + ", "
        filtering = "" if self.size is None else f"{self.interpolation}{'' if self.antialias else ' not antialiased'}, "
        return f"{self.colors} {size} {self.layout} {self.dtype}, {fit}{filtering}{self._formula()}"

    def replace(self, **changes: Any) -> Preprocess:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def _channels_of(self, image: np.ndarray, white: float) -> np.ndarray:
        given, wanted = image.shape[2], self.channel_count
        if wanted in (1, 3) and given in (2, 4):
            image, given = over_white(image, white), given - 1
        if (given != wanted and given not in (1, 3)) or (given != wanted and wanted not in (1, 3)):
            kind = f"{given} channel{'s' * (given > 1)}"
            raise InputError(f"the model takes {wanted} channels ({self.colors}), the picture has {kind}", self._give())
        if self.channels == "GRAY":
            return image if given == 1 else _luma(image)
        if given == 1 and wanted == 3:
            return np.repeat(image, 3, axis=2)
        return image[..., ::-1] if self.channels == "BGR" else image

    def _give(self) -> str:
        """What to give where a picture has the wrong channels."""
        count = self.channel_count
        files = {4: "a PNG or TIFF with an alpha channel", 1: "a picture", 3: "a picture"}
        array = f"a .npy array (height, width, {count})"
        return f"give {files.get(count, f'a TIFF of {count} bands')}, or {array}"

    def _formula(self) -> str:
        factor = next((f"x/{n:g}" for n in (255, 127.5) if np.isclose(self.scale * n, 1)), f"x·{self.scale:g}")
        text = "x" if self.scale == 1 else factor
        if any(self.mean):
            text += f" − {_numbers(self.mean)}"
        if any(value != 1 for value in self.std):
            text = f"({text}) / {_numbers(self.std)}"
        return "raw pixels 0 … 255" if text == "x" else text


LEVELS = 64  # fewer of a pixel's 256 are a mistake


def few_levels(dtype: str, scale: float, std: Sequence[float]) -> bool:
    """Whether the integers `dtype` would keep few of the levels of a pixel."""
    return dtype in _INTEGERS and abs(255 * scale / max(std)) < LEVELS


def is_bands(channels: Any) -> bool:
    """Whether a name of channels is a number of bands."""
    return isinstance(channels, str) and channels.isdecimal() and 1 <= int(channels) <= 4096


def over_white(image: np.ndarray, white: float = 255.0) -> np.ndarray:
    """c·a + white·(1 − a), (H, W, C − 1) typed as `image`, whose last channel is white·a; integers are rounded."""
    result = np.empty((*image.shape[:2], image.shape[2] - 1), image.dtype)
    for rows in strips(image):
        colour, alpha = image[rows, :, :-1], image[rows, :, -1:]
        if alpha.min() == white == alpha.max():
            four = image.shape[2] == 4 and image.dtype in (np.uint8, np.uint16, np.float32)  # sixty times as fast
            result[rows] = opencv().cvtColor(image[rows], opencv().COLOR_BGRA2BGR) if four else colour
        elif image.dtype == np.uint8:
            alpha = alpha.astype(np.uint16)
            result[rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
        else:
            mixed = colour * (alpha / np.float32(white)) + (np.float32(white) - alpha)
            result[rows] = mixed if image.dtype.kind == "f" else np.clip(np.rint(mixed), 0, 65535)
    return result


def _luma(image: np.ndarray) -> np.ndarray:
    weights = np.array([19595, 38470, 7471], np.uint32)
    result = np.empty((*image.shape[:2], 1), image.dtype)
    for rows in strips(image):
        if image.dtype.kind == "u":
            result[rows, :, 0] = (image[rows].astype(np.uint32) @ weights + 0x8000) >> 16
        else:
            result[rows, :, 0] = image[rows] @ (weights.astype(np.float32) / 65536)
    return result


_INTEGERS = tuple(name for name in DTYPES if "int" in name)


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` in that type; integers are rounded and saturated."""
    if dtype in _INTEGERS:
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


# ---- how a picture is brought to the network's size ----------------------------------------------------------


def _stretch(how: Preprocess, image: np.ndarray) -> tuple[np.ndarray, Placement]:
    size = how.size or image.shape[:2]
    return _placed(how, image, size, (0, 0), size)


def _crop(how: Preprocess, image: np.ndarray) -> tuple[np.ndarray, Placement]:
    """The axis that is tighter goes to size / crop_fraction, rounded down; the other follows, as in torchvision."""
    size = how.size or image.shape[:2]
    wanted = [side / how.crop_fraction for side in size] if how.size else list(size)
    tight = int(wanted[1] * image.shape[0] > wanted[0] * image.shape[1])
    whole = [0, 0]
    # The nudge undoes what floating point takes: 224 / 0.875 is 256.
    whole[tight] = max(size[tight], int(wanted[tight] + 1e-6))
    whole[1 - tight] = max(size[1 - tight], whole[tight] * image.shape[1 - tight] // image.shape[tight])
    top, left = (round((whole[axis] - size[axis]) / 2) for axis in (0, 1))
    return _placed(how, image, (whole[0], whole[1]), (-top, -left), size)


def _letterbox(how: Preprocess, image: np.ndarray) -> tuple[np.ndarray, Placement]:
    size = how.size or image.shape[:2]
    whole = _inside(image.shape, size)
    return _placed(how, image, whole, ((size[0] - whole[0]) // 2, (size[1] - whole[1]) // 2), size)


def _letterbox_corner(how: Preprocess, image: np.ndarray) -> tuple[np.ndarray, Placement]:
    size = how.size or image.shape[:2]
    return _placed(how, image, _inside(image.shape, size), (0, 0), size)


def _inside(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    factor = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _placed(
    how: Preprocess, image: np.ndarray, whole: tuple[int, int], offset: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, Placement]:
    """`image` stretched to `whole` and put at `offset` in a canvas of `size`, cut or padded as that asks for."""
    top, left = (max(0, -start) for start in offset)
    height, width = (min(whole[axis] + min(offset[axis], 0), size[axis]) for axis in (0, 1))
    part = image
    if whole != image.shape[:2] or offset != (0, 0) or whole != size:
        part = resize(image, whole, how.interpolation, how.antialias, (top, left, height, width))
    canvas = part
    if (height, width) != size:
        canvas = np.full((*size, image.shape[2]), how.pad_value, np.float32)
        down, right = max(0, offset[0]), max(0, offset[1])
        canvas[down : down + height, right : right + width] = part
    scale = whole[0] / image.shape[0], whole[1] / image.shape[1]
    return canvas, Placement((image.shape[0], image.shape[1]), size, scale, (float(offset[0]), float(offset[1])))


_PLACE: dict[str, Callable[[Preprocess, np.ndarray], tuple[np.ndarray, Placement]]] = {
    "resize": _stretch,
    "crop": _crop,
    "letterbox": _letterbox,
    "letterbox-corner": _letterbox_corner,
}

_FITS = {
    "resize": "stretched",
    "crop": "short side resized, center crop {0.crop_fraction:g}",
    "letterbox": "letterboxed with {0.pad_value:g}",
    "letterbox-corner": "letterboxed at the top left with {0.pad_value:g}",
}

_CHOICES = {
    "layout": LAYOUTS,
    "channels": tuple(CHANNELS),
    "resize": RESIZES,
    "interpolation": INTERPOLATIONS,
    "dtype": DTYPES,
}
