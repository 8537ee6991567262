"""How a model with one or several inputs is fed: from a picture, and what is given beside it, to {input: array}.

The one picture goes to the input `main`. Other inputs are given by the caller, or are sizes that follow from the
picture (`SIZES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from analyzer.errors import InputError
from analyzer.images.objects import pixels_of
from analyzer.images.placement import Placement
from analyzer.images.preprocess import Preprocess
from analyzer.images.read import Picture, as_rgb, is_array, read, read_array
from analyzer.images.resample import LARGE
from analyzer.images.sources import Frame, Row, Stored, Together, evenly
from analyzer.images.video import is_video, video

ENOUGH = 4  # times the network's input: larger pictures may be decoded at a reduced scale


@dataclass(frozen=True)
class Slot:
    """An input of the model: its name, its sizes (None or a name where open) and its type."""

    name: str
    shape: tuple[Any, ...] = ()
    dtype: str = "float32"

    @property
    def text(self) -> str:
        """«depth: float32[1, 1, 96, 96]»"""
        return f"{self.name}: {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"

    def filled(self, values: Sequence[float] | np.ndarray, what: str = "") -> np.ndarray:
        """Numbers in the input's shape and type, open axes with size 1; a single one everywhere.

        Raises:
            InputError: too few or too many, or not of the type.
        """
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in self.shape]
        array = np.asarray(values, np.float64).ravel()
        open_axes = [a for a, d in enumerate(self.shape) if not (isinstance(d, int) and d > 0)]
        if array.size > 1 and array.size != math.prod(shape) and open_axes:
            rest, axis = math.prod(shape), open_axes[-1]
            if array.size % rest == 0:
                shape[axis] = array.size // rest
        if array.size not in (1, math.prod(shape)):
            raise InputError(
                f"{what or self.name}: {array.size} numbers for the input {self.text}",
                f"give {math.prod(shape)} numbers, or one for all",
            )
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu" and (array != np.rint(array)).any():
            raise InputError(f"{what or self.name}: the input {self.text} takes whole numbers")
        if dtype.kind in "iu" and not (np.iinfo(dtype).min <= array.min() and array.max() <= np.iinfo(dtype).max):
            raise InputError(f"{what or self.name}: a number is beyond what the input {self.text} holds")
        return np.broadcast_to(array if array.size == 1 else array.reshape(shape), shape).astype(dtype)

    def fits(self, array: np.ndarray) -> bool:
        """Whether an array is such an input as it is, whatever its first size."""
        same = str(array.dtype) == self.dtype or (array.dtype.kind == "f" and np.dtype(self.dtype).kind == "f")
        sizes = zip(self.shape[1:], array.shape[1:], strict=False)
        return (
            same and array.ndim == len(self.shape) and all(not isinstance(d, int) or d < 1 or d == s for d, s in sizes)
        )


@dataclass(frozen=True)
class PictureSlot:
    """An input that takes pictures, clips or volumes, and how these become its array.

    Attributes:
        axes: "NCHW", "NHWC", "NCDHW", "NDCHW" or "NDHWC"; D are frames or slices.
    """

    slot: Slot
    preprocess: Preprocess
    axes: str = "NCHW"

    @property
    def stacked(self) -> bool:
        """Whether it takes several frames or slices."""
        return "D" in self.axes

    @property
    def frames(self) -> int | None:
        """How many it takes; None where that is open."""
        size = self.slot.shape[self.axes.index("D")] if self.stacked else 1
        return size if isinstance(size, int) and size > 0 else None

    def fed(self, source: Any, name: str = "", side: int | None = None) -> Given:
        """What is in a file, brought to this input.

        Args:
            side: the picture is needed no larger than that; see `read.read`.

        Raises:
            InputError: it cannot be read, or does not fit.
        """
        if isinstance(source, np.ndarray):
            return self._made(Picture(source[None] if source.ndim == 3 else source), name)
        if isinstance(source, Row):
            return self.as_is(read_array(source.path)[source.index : source.index + 1])
        if isinstance(source, Stored):
            source, name = source.read(), name or str(source)
        if is_array(source):
            array = read_array(source)
            if self.slot.fits(array) and len(array) == 1:
                return self.as_is(array)
        return self._made(self._read(source, side), name or ("" if isinstance(source, bytes) else str(source)))

    def _read(self, source: Any, side: int | None = None) -> Picture:
        count, white = self.preprocess.channel_count, self.preprocess.white
        if isinstance(source, Frame):
            return Picture(video(source.path).frame(source.index)[None])
        if isinstance(source, Together):
            parts = [self._read(part) for part in source.parts]
            if len({part.pixels.shape[1:] for part in parts}) > 1:
                raise InputError("the pictures of a clip have different sizes", "bring them to one size")
            remark = next((part.remark for part in parts if part.remark), "")
            return Picture(np.concatenate([part.levels for part in parts]), remark)
        if is_video(source):
            film = video(source)
            chosen = evenly(film.count(), self.frames or 16)
            return Picture(np.stack([film.frame(at) for at in chosen]))
        size = self.preprocess.size
        enough = None if side is None or size is None else max(side, ENOUGH * max(size))
        return read(source, white, count, enough)

    def as_is(self, array: np.ndarray) -> Given:
        """An array in the input's own form: drawn as what the preprocessing would have made it of."""
        array = array.astype(self.slot.dtype)
        moved = np.moveaxis(array, self.axes.index("D"), 1) if self.stacked else array
        frames = moved[0] if self.stacked else moved
        pixels = [self._seen(frame) for frame in frames]
        height, width = pixels[0].shape[:2]
        placement = Placement((height, width), (height, width), (1.0, 1.0), (0.0, 0.0))
        return Given(array, np.stack(pixels), placement, self.stacked)

    def _seen(self, frame: np.ndarray) -> np.ndarray:
        channel = self.axes.replace("D", "").index("C") - 1
        values = np.moveaxis(frame.astype(np.float32), channel, 2)
        how = self.preprocess
        undone = (values * np.asarray(how.std, np.float32) + np.asarray(how.mean, np.float32)) / np.float32(how.scale)
        if how.channels == "BGR":
            undone = undone[..., ::-1]
        if undone.min() < -1 or undone.max() > 256:
            undone = (values - values.min()) * (255 / ((values.max() - values.min()) or 1))
        return as_rgb(np.clip(undone[..., : 3 if undone.shape[2] > 2 else 1], 0, 255).astype(np.float32))

    def _made(self, picture: Picture, name: str) -> Given:
        pixels, remark = picture.pixels, picture.remark
        wanted, count = self.frames, len(pixels)
        bands = self.preprocess.channel_count
        if not self.stacked and count > 1:
            if pixels.shape[3] == 1 and count == bands > 1:  # a page for each band
                pixels = pixels[..., 0].transpose(1, 2, 0)[None]
            else:
                remark = remark or f"{count} pages or frames, of which the first is used"
                pixels = pixels[:1]
        elif self.stacked and count == 1 and bands == 1 and pixels.shape[3] > 4:  # slices last
            pixels = pixels[0].transpose(2, 0, 1)[..., None]
            count = len(pixels)
        if self.stacked and wanted and count < wanted:
            raise InputError(
                f"{name or 'the picture'}: {count} frame{'s' * (count > 1)} or slices, and the input {self.slot.text} "
                f"takes {wanted}",
                "give a folder, several pictures, a multi-page TIFF, a .npy array or a video",
            )
        if self.stacked and wanted and count > wanted:
            remark = remark or f"{count} frames or slices, of which {wanted} are used, evenly spaced"
            pixels = pixels[list(evenly(count, wanted))]
        try:
            made = [self.preprocess.apply_deep(frame, picture.white) for frame in pixels]
        except InputError as error:
            raise InputError(f"{name}: {error.message}" if name else error.message, error.hint) from error
        tensors = [tensor for tensor, _ in made]
        array = np.stack(tensors, axis=self.axes.index("D")) if self.stacked else tensors[0]
        frames = [as_rgb(frame, picture.white) for frame in pixels]
        placement = made[0][1] if picture.size is None else made[0][1].at(picture.size)
        return Given(array, frames[0][None] if len(frames) == 1 else np.stack(frames), placement, self.stacked, remark)


@dataclass(frozen=True)
class Given:
    """An input's array, (1, …), and what it was made of.

    Attributes:
        frames: (frames, H, W, 3) uint8 RGB; smaller than the picture where it was decoded at a reduced scale.
        placement: of a frame in the input, in pixels of the picture.
        stacked: whether the input takes several frames or slices.
        remark: what a person should know, "" for nothing.
    """

    array: np.ndarray
    frames: np.ndarray
    placement: Placement
    stacked: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Fed:
    """All inputs of a model for one picture.

    Attributes:
        feeds: {input: array}.
        main: what the picture became.
        drawn: the input whose map is drawn, and what it was made of; None where it holds no picture.
        remark: what a person should know, "" for nothing.
    """

    feeds: dict[str, np.ndarray]
    main: Given
    drawn: Given | None
    remark: str = ""

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB to draw on: the first frame of the input whose map is drawn."""
        return np.ascontiguousarray((self.drawn or self.main).frames[0])

    @property
    def frames(self) -> list[np.ndarray]:
        """All frames of the input whose map is drawn, (H, W, 3) uint8 RGB each."""
        return [np.ascontiguousarray(frame) for frame in (self.drawn or self.main).frames]

    @property
    def placement(self) -> Placement:
        """Where its pixels went."""
        return (self.drawn or self.main).placement

    def box(self, box: Sequence[float], scaled: str = "") -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in the model's input as one in the picture, cut at its edges.

        Args:
            scaled: the input whose numbers, width and height, the model took for those of its input.
        """
        if scaled:
            height, width = self.main.placement.input_size
            given_width, given_height = self.feeds[scaled].ravel()[:2].tolist()
            box = (np.array(box) * np.array([width, height] * 2) / np.array([given_width, given_height] * 2)).tolist()
        x0, y0, x1, y1 = self.main.placement.box_to_image((box[0], box[1], box[2], box[3]))
        height, width = self.main.placement.image_size
        return min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A point of the model's input in the picture."""
        return self.main.placement.point_to_image(x, y)

    def inside(self, mask: Inside, size: tuple[int, int]) -> np.ndarray:
        """(H, W) the pixels of the picture, at that size, that belong to a mask over the model's input."""
        placement = self.main.placement.at(size)
        found = mask(*placement.centres())
        return found if placement.whole else found & placement.covered

    def heat(self, heatmap: np.ndarray) -> np.ndarray:
        """A map over the input in the picture's pixels, (H, W) or (frames, H, W); NaN where the model saw nothing."""
        stacked = heatmap.ndim == 3
        heat = self._placed(np.moveaxis(heatmap, 0, 2) if stacked else heatmap, self.placement)
        return np.ascontiguousarray(np.moveaxis(heat, 2, 0)) if stacked else heat

    def peak(self, heatmap: np.ndarray) -> tuple[int, ...]:
        """Where a map over the input is highest in the picture: (row, column), or (frame, row, column)."""
        height, width = self.placement.image_size
        if heatmap.ndim != 2 or height * width < LARGE:
            return highest(self.heat(heatmap))
        rows, columns = (self.placement.near(axis, heatmap.shape[axis]) for axis in (0, 1))
        heat = self.placement.map_to_image(heatmap, rows, columns)
        row, column = highest(heat)
        return int(rows[row]), int(columns[column])

    def laid(self, values: np.ndarray, side: int) -> np.ndarray:
        """A map over the input, (h, w) or (h, w, C), over the picture with its long side at most `side`."""
        height, width = self.placement.image_size
        factor = min(1.0, side / max(height, width))
        size = max(1, round(height * factor)), max(1, round(width * factor))
        return self._placed(values, self.placement.at(size))

    @staticmethod
    def _placed(values: np.ndarray, placement: Placement) -> np.ndarray:
        heat = placement.map_to_image(values)
        if not placement.whole:
            heat[~placement.covered] = np.nan
        return heat


def highest(heat: np.ndarray) -> tuple[int, ...]:
    """Where a map is highest; the first of several places."""
    flat = int(heat.argmax())  # the first NaN where there is one
    if np.isnan(heat.flat[flat]):
        flat = int(np.nanargmax(heat))
    return tuple(int(at) for at in np.unravel_index(flat, heat.shape))


class Counting(Protocol):
    """A model that knows which of its inputs count images by their first axis."""

    def counts_images(self, name: str) -> bool: ...


Size = Callable[[Placement], Sequence[float]]
Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of rows and columns: which places are inside

# Inputs that are filled by themselves: by name, in the order of the projects that use them. Sizes are in pixels.
SIZES: dict[str, tuple[str, Size]] = {
    "orig_target_sizes": ("width and height of the picture", lambda p: p.image_size[::-1]),
    "target_sizes": ("height and width of the picture", lambda p: p.image_size),
    "original_sizes": ("height and width of the picture", lambda p: p.image_size),
    "orig_im_size": ("height and width of the picture", lambda p: p.image_size),
    "orig_size": ("height and width of the picture", lambda p: p.image_size),
    "image_shape": ("height and width of the picture", lambda p: p.image_size),
    "image_size": ("height and width of the picture", lambda p: p.image_size),
    "im_shape": ("height and width of the model's input", lambda p: p.input_size),
    "scale_factor": ("the model's input over the picture, height and width", lambda p: p.scale),
    "im_info": ("height and width of the model's input, and its scale", lambda p: (*p.input_size, p.scale[0])),
}


def size_of(slot: Slot) -> tuple[str, Size] | None:
    """What fills an input of that name and shape by itself; None for any other input."""
    name = slot.name.lower().rsplit("/", 1)[-1].rsplit(".", 1)[-1].split(":")[0]
    found = next((rule for known, rule in SIZES.items() if name == known or name.removesuffix("s") == known), None)
    if found is None:
        return None
    example = found[1](Placement((1, 1), (1, 1), (1.0, 1.0), (0.0, 0.0)))
    sizes = [d for d in slot.shape if isinstance(d, int) and d > 0]
    return found if len(slot.shape) in (1, 2) and math.prod(sizes) in (1, len(example)) else None


@dataclass(frozen=True)
class Feeding:
    """How a model is fed.

    Attributes:
        main: the input that the picture goes to.
        given: {input: what it is given}, the same for every picture.
        sizes: inputs that follow from the picture.
        explained: the input that is explained: `main` unless said otherwise.
    """

    main: PictureSlot
    given: Mapping[str, Given | np.ndarray] = field(default_factory=dict)
    sizes: tuple[Slot, ...] = ()
    explained: str = ""

    @classmethod
    def of(cls, how: Preprocess | Feeding, name: str) -> Feeding:
        """`how`, or that of the single input `name` with this preprocessing."""
        if isinstance(how, Feeding):
            return how
        return cls(PictureSlot(Slot(name, (None,) * 4, how.dtype), how, how.layout), explained=name)

    @property
    def preprocess(self) -> Preprocess:
        """Of the picture."""
        return self.main.preprocess

    @property
    def alone(self) -> bool:
        """Whether the picture is all that the model is given."""
        return not self.given and not self.sizes

    @property
    def identity(self) -> list[Any]:
        """All that the inputs of a picture depend on, for a hash."""
        given = {n: g.array if isinstance(g, Given) else g for n, g in self.given.items()}
        about = [self.main.slot.name, self.main.axes, self.explained, [slot.name for slot in self.sizes]]
        return (
            [repr(self.preprocess)] if self.alone and not self.main.stacked else [repr(self.preprocess), about, given]
        )

    @property
    def vectors(self) -> list[str]:
        """Inputs of floating-point numbers that were given and are no pictures."""
        return [n for n, g in self.given.items() if isinstance(g, np.ndarray) and g.dtype.kind == "f"]

    def feed(self, source: Any, side: int | None = None) -> Fed:
        """All inputs for a picture: a path, bytes, a decoded (H, W, C) array, or one of `sources`.

        Args:
            side: the picture itself is needed no larger than that, to draw on.

        Raises:
            InputError: it cannot be read, or does not fit.
        """
        made = self.main.fed(source, side=side)
        feeds = {self.main.slot.name: made.array}
        feeds |= {n: g.array if isinstance(g, Given) else g for n, g in self.given.items()}
        feeds |= {s.name: s.filled(_rule(s)(made.placement)) for s in self.sizes}
        other = self.given.get(self.explained)
        drawn = made if other is None else other if isinstance(other, Given) else None
        return Fed(feeds, made, drawn, made.remark)

    def shapes(self, batch: int, model: Counting) -> dict[str, tuple[int, ...]]:
        """{input: shape} of a batch of pictures, whose size the preprocessing fixes.

        Raises:
            InputError: it does not; or a picture's frames.
        """
        if self.main.stacked:
            raise InputError("this takes pictures, not clips or volumes", "use explain")
        known = {n: (g.array if isinstance(g, Given) else g).shape for n, g in self.given.items()}
        known |= {s.name: s.filled([1.0]).shape for s in self.sizes}
        sizes = {n: (batch, *s[1:]) if model.counts_images(n) and s[0] == 1 else s for n, s in known.items()}
        return {self.main.slot.name: self.preprocess.shape(batch)} | sizes

    def seen(self, fed: Fed) -> np.ndarray:
        """What the network sees of a picture, (h, w, 3) uint8 RGB; of a clip, its first frame as it was read."""
        array = fed.main.array
        return fed.image if self.main.stacked or array.ndim != 4 else self.preprocess.undo(array[0])

    def grey(self, like: Fed) -> dict[str, np.ndarray]:
        """The inputs for a mid-grey picture of that size, made from one as small as it becomes in the input."""
        count, placement = len(like.main.frames), like.main.placement
        sizes = zip(placement.image_size, placement.scale, strict=True)
        height, width = (max(1, min(size, round(size * scale))) for size, scale in sizes)
        how = self.preprocess
        channels = how.channel_count if how.channels not in ("RGB", "BGR", "GRAY") else 3
        grey = self.main.fed(np.full((count, height, width, channels), 128, np.uint8))
        return {**like.feeds, self.main.slot.name: grey.array}

    def describe(self) -> list[str]:
        """A line per input that is filled by itself."""
        return [f"input {s.text} is filled automatically: {size_of(s)[0]}" for s in self.sizes]  # type: ignore[index]


def _rule(slot: Slot) -> Size:
    found = size_of(slot)
    assert found is not None
    return found[1]


def read_value(text: Any, slot: Slot, picture: PictureSlot | None) -> Given | np.ndarray:
    """What `--input NAME=text` gives an input: numbers, a .npy or .npz file, or a picture, a folder of them or a video.

    Args:
        text: in Python an array or numbers as well, or anything else that `PictureSlot.fed` takes.

    Raises:
        InputError: it is neither, or does not fit.
    """
    if not isinstance(text, str):
        return _read_object(text, slot, picture)
    numbers = _numbers(text)
    if numbers is not None and not Path(text).exists():
        return slot.filled(numbers, f"--input {slot.name}={text}")
    path = Path(text)
    if is_array(text):
        array = read_array(text, slot.name)
        if (slot.fits(array) and len(array) == 1) or (slot.fits(array) and picture is None):
            return picture.as_is(array) if picture is not None else array.astype(slot.dtype)
        if picture is None:
            return slot.filled(array, f"--input {slot.name}={text}")
        if text.lower().endswith(".npz"):
            return picture._made(Picture(array), text)
    if picture is None:
        raise InputError(
            f"--input {slot.name}={text}: the input {slot.text} takes numbers",
            f"write --input {slot.name}=0,0,0 or give a .npy file",
        )
    if path.is_dir():
        raise InputError(f"--input {slot.name}={text}: is a folder", "give a picture, a video or a .npy array")
    return picture.fed(path, text)


def _read_object(given: Any, slot: Slot, picture: PictureSlot | None) -> Given | np.ndarray:
    pixels = pixels_of(given)
    array = np.asarray(given) if pixels is None and not isinstance(given, bytes) else pixels
    if array is not None and slot.fits(array):
        return picture.as_is(array) if picture is not None and len(array) == 1 else array.astype(slot.dtype)
    if picture is not None:
        return picture.fed(given if array is None else array, slot.name)
    if array is None or array.dtype.kind not in "biuf":
        raise InputError(f"input {slot.name}: the input {slot.text} takes numbers", "give numbers or an array")
    return slot.filled(array, f"input {slot.name}")


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.replace("[", "").replace("]", "").split(",")]
    except ValueError:
        return None
