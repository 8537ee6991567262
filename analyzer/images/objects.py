"""Pictures that other libraries hold in memory: PIL images, arrays and tensors of PyTorch.

None of these libraries is imported: what is given comes from one that already is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.images.decode import upright
from analyzer.images.read import scaled

_ORIENTATION = 0x0112  # EXIF's tag
_DEEP = ("I", "F")  # modes of PIL, or what they begin with, of more than 8 bits


def is_pil(given: Any) -> bool:
    """Whether it is an image of Pillow."""
    return _library(given) == "PIL" and hasattr(given, "convert")


def is_tensor(given: Any) -> bool:
    """Whether it is a tensor of PyTorch."""
    return (
        hasattr(given, "detach") and hasattr(given, "cpu") and any(c.__module__ == "torch" for c in type(given).__mro__)
    )


def as_array(given: Any) -> np.ndarray:
    """An array or a tensor, on whatever device, as an array.

    Raises:
        InputError: it is neither.
    """
    if is_tensor(given):
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
        return np.asarray(given.numpy())
    if not isinstance(given, np.ndarray):
        raise InputError(
            f"{type(given).__name__} is neither a picture nor an array",
            "give a path, bytes, a PIL image, (height, width, 3) uint8 pixels, or the model's input",
        )
    return given


def pixels_of(given: Any) -> np.ndarray | None:
    """(H, W, C) pixels, uint8 or float32 to 255, of a PIL image, of (H, W) or (H, W, C) uint8 values, or of those of a
    tensor, (C, H, W) or (H, W, C); values from 0 to 1 are taken for pixels too. None for anything else.
    """
    if is_pil(given):
        return _of_pil(given)
    if not is_tensor(given) and not isinstance(given, np.ndarray):
        return None
    array = as_array(given)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        if not is_tensor(given) or array.shape[0] not in (1, 3, 4):
            return None
        array = array.transpose(1, 2, 0)
    elif is_tensor(given) and array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[1] > 4:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or not array.size:
        return None
    if array.dtype != np.uint8 and not (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1):
        return None
    pixels = array if array.ndim == 3 else array[..., None]
    if pixels.dtype != np.uint8:  # what ToTensor makes of 8 bits are 8 bits again
        levels = np.rint(pixels.astype(np.float64) * 255)
        pixels = levels.astype(np.uint8) if np.abs(levels - pixels * 255.0).max() < 1e-3 else pixels
    return scaled(pixels[None], None, "the picture").levels[0]


def _of_pil(image: Any) -> np.ndarray:
    """Upright, of 8 bits or, where the image has more, in float32 to 255."""
    if image.mode.startswith(_DEEP):
        values = np.asarray(image)
        values = (
            values.astype(np.uint16)
            if values.dtype.kind in "iu" and 0 <= values.min() <= values.max() < 65536
            else values
        )
        pixels = scaled(values[None, :, :, None], None, "the picture").levels[0]
    else:
        alpha = "A" in image.mode or "a" in image.mode or "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA" if alpha else "RGB"))
    return upright(pixels, int(image.getexif().get(_ORIENTATION, 1)))


def _library(given: Any) -> str:
    return type(given).__module__.partition(".")[0]
