"""Handwritten digits pasted on photographs: pictures with their labels and boxes, composed as they are asked for.

Everything comes from two Python packages, nothing is downloaded: the 8×8 digits of scikit-learn's `load_digits`, and
photographs that scikit-image and scikit-learn carry inside their wheels. Held-out means both: digit samples and
photographs that no training picture contains.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import skimage.data
import sklearn.datasets

CLASSES = 10
FIELD, DIGIT = 64, 56  # side of a digit's stroke field, and of the digit in it

# The photographs, by split. Colour ones first; the grey ones get a random tint.
PHOTOS = {
    "train": ("astronaut", "hubble_deep_field", "immunohistochemistry", "retina", "china.jpg", "flower.jpg",
              "brick", "grass", "gravel", "coins", "moon"),
    "held-out": ("chelsea", "coffee", "rocket", "camera"),
}  # fmt: skip
# `load_digits` is not shuffled and neighbouring samples share a writer, so its tail is mostly other people's hands.
HELD_OUT_DIGITS = 360


@dataclass(frozen=True)
class Picture:
    """`pixels` (H, W, 3) uint8 RGB, `labels` of the digits in it, `boxes` (digits, 4) float32 x0, y0, x1, y1 in pixels.

    A box spans whole pixels: x0 and y0 are its first column and row, x1 and y1 one past its last.
    `mask` (H, W) uint8 is 1 + the digit where its opacity is above one half, 0 elsewhere.
    """

    pixels: np.ndarray
    labels: tuple[int, ...]
    boxes: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Material:
    """What pictures are made of: `strokes` (samples, 64, 64) uint8, their `labels` (samples,), `photos` RGB uint8.

    Each photograph is there at full, half and quarter size, so that small crops are taken quickly.
    """

    strokes: np.ndarray
    labels: np.ndarray
    photos: tuple[tuple[np.ndarray, ...], ...]


@functools.cache
def material(split: str) -> Material:
    """The digit samples and photographs of a split, "train" or "held-out"."""
    digits = sklearn.datasets.load_digits()
    part = slice(None, -HELD_OUT_DIGITS) if split == "train" else slice(-HELD_OUT_DIGITS, None)
    return Material(
        strokes=np.stack([stroke(image) for image in digits.images[part]]),
        labels=digits.target[part],
        photos=tuple(pyramid(photo(name)) for name in PHOTOS[split]),
    )


def stroke(image: np.ndarray) -> np.ndarray:
    """s = u + (u − G₁₆ u), u = the 8×8 grey values upscaled by cubic interpolation: (64, 64) uint8, a digit 56 long.

    Where s exceeds about a third is the stroke; the unsharp mask keeps small loops open.
    """
    large = cv2.resize(np.pad(image.astype(np.float32) / 16, 1), None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    u = cv2.GaussianBlur(large, (0, 0), 3)
    s = np.clip(255 * (2 * u - cv2.GaussianBlur(large, (0, 0), 16)), 0, 255).astype(np.uint8)
    x, y, w, h = cv2.boundingRect((s > 90).astype(np.uint8))
    scale = DIGIT / max(w, h)
    place = np.array([[scale, 0, FIELD / 2 - scale * (x + w / 2)], [0, scale, FIELD / 2 - scale * (y + h / 2)]])
    return cv2.warpAffine(s, place, (FIELD, FIELD), flags=cv2.INTER_LINEAR)


def photo(name: str) -> np.ndarray:
    """A photograph by its scikit-image function, or scikit-learn file name: (H, W, 3) uint8 RGB, at most 640 long."""
    pixels = sklearn.datasets.load_sample_image(name) if name.endswith(".jpg") else getattr(skimage.data, name)()
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    scale = min(1, 640 / max(pixels.shape[:2]))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def pyramid(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return pixels, half, cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


class Composer:
    """Makes pictures of one split, the same ones for the same seed.

    `counts` are the numbers of digits that a picture may have, each as likely; digits of a picture differ in class.
    `digit_size` is the range of a digit's longer side, as a share of the picture's shorter side.
    `crop` is the range of the photograph's crop, as a share of the largest crop of the picture's aspect.
    """

    def __init__(
        self,
        split: str,
        seed: int,
        counts: tuple[int, ...] = (1, 2, 3),
        digit_size: tuple[float, float] = (0.26, 0.48),
        crop: tuple[float, float] = (0.4, 1.0),
    ) -> None:
        self.material = material(split)
        self.rng = np.random.default_rng(seed)
        self.counts = counts
        self.digit_size = digit_size
        self.crop = crop

    def picture(self, height: int = 96, width: int = 96, photo: int | None = None) -> Picture:
        """One picture of the given size; `photo` chooses the photograph by its index in the split."""
        rng = self.rng
        pixels = self.background(height, width, photo)
        mask = np.zeros((height, width), np.uint8)
        labels: list[int] = []
        boxes: list[np.ndarray] = []
        for label in rng.permutation(CLASSES)[: rng.choice(self.counts)]:
            opacity = self.digit(int(label), min(height, width))
            box = self.place(opacity, height, width, boxes)
            if box is not None:
                self.paint(pixels, mask, int(label), opacity, box)
                labels.append(int(label))
                boxes.append(box)
        return Picture(pixels, tuple(labels), np.array(boxes, np.float32).reshape(-1, 4), mask)

    def line(self, height: int = 32, width: int = 128, photo: int | None = None) -> Picture:
        """One line of digits from left to right, each drawn by lot; those that there is no room for are left out.

        The digits stand one to six 128ths of the width apart, each up to a twelfth of the height above or below the
        middle.
        """
        rng = self.rng
        pixels = self.background(height, width, photo)
        mask = np.zeros((height, width), np.uint8)
        wanted = [int(label) for label in rng.integers(CLASSES, size=rng.choice(self.counts))]
        drawn = [(label, self.digit(label, height)) for label in wanted]
        drawn = [(label, opacity) for label, opacity in drawn if len(opacity) <= height - 2]
        steps = np.cumsum([o.shape[1] + rng.integers(width, 6 * width + 1) // 128 for _, o in drawn])
        room = width - 2 * (width // 64)
        count = int((steps <= room).sum())
        start = width // 64 + rng.integers(room - steps[count - 1] + 1)
        boxes = []
        for (label, opacity), end in zip(drawn[:count], start + steps, strict=False):
            h, w = opacity.shape
            top = np.clip((height - h) // 2 + rng.integers(-(height // 12), height // 12 + 1), 1, height - h - 1)
            boxes.append(np.array([end - w, top, end, top + h]))
            self.paint(pixels, mask, label, opacity, boxes[-1])
        return Picture(pixels, tuple(label for label, _ in drawn[:count]), np.array(boxes, np.float32), mask)

    def batch(self, count: int, height: int = 96, width: int = 96) -> list[Picture]:
        return [self.picture(height, width) for _ in range(count)]

    def background(self, height: int, width: int, photo: int | None) -> np.ndarray:
        """A random crop of a photograph, perhaps mirrored, its brightness, contrast and tint a little changed."""
        rng = self.rng
        levels = self.material.photos[rng.integers(len(self.material.photos)) if photo is None else photo]
        scale = min(levels[0].shape[0] / height, levels[0].shape[1] / width) * rng.uniform(*self.crop)
        level = min(len(levels) - 1, max(0, int(np.log2(scale))) if scale > 1 else 0)
        source, scale = levels[level], scale / 2**level
        h, w = source.shape[:2]
        ch, cw = min(h, max(1, int(height * scale))), min(w, max(1, int(width * scale)))
        y, x = rng.integers(h - ch + 1), rng.integers(w - cw + 1)
        part = source[y : y + ch, x : x + cw]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
        gain = rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, 3)
        return cv2.convertScaleAbs(part.astype(np.float32) * gain.astype(np.float32))

    def digit(self, label: int, side: int) -> np.ndarray:
        """The opacity of a digit inside its box, (h, w) in [0, 1]; `side` is the shorter one of the picture.

        The digit is scaled, stretched by up to a fifth, sheared, turned by up to 20°, its stroke thinner or thicker.
        """
        rng = self.rng
        field = self.material.strokes[rng.choice(np.flatnonzero(self.material.labels == label))]
        size = rng.uniform(*self.digit_size) * side
        scale = size / DIGIT
        stretch = np.exp(rng.uniform(-0.18, 0.18))
        angle, shear = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(-0.2, 0.2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = scale * turn @ np.array([[1, shear], [0, 1]]) @ np.diag([stretch, 1 / stretch])
        around = int(np.ceil(2 * size))
        offset = np.full(2, around / 2) - linear @ np.full(2, FIELD / 2)
        smooth = cv2.GaussianBlur(field, (0, 0), 0.35 / scale) if scale < 0.7 else field
        moved = cv2.warpAffine(smooth, np.column_stack([linear, offset]), (around, around), flags=cv2.INTER_LINEAR)
        t = np.clip((moved.astype(np.float32) / 255 - rng.uniform(0.3, 0.45)) / max(0.06, 0.1 / scale), -0.5, 0.5) + 0.5
        opacity = t * t * (3 - 2 * t)
        x, y, w, h = cv2.boundingRect((opacity > 0.4).astype(np.uint8))
        return opacity[y : y + h, x : x + w]

    def place(self, opacity: np.ndarray, height: int, width: int, taken: list[np.ndarray]) -> np.ndarray | None:
        """A box (x0, y0, x1, y1) for a digit, apart from the taken ones; None where none was found."""
        rng = self.rng
        h, w = opacity.shape
        margin = max(2, round(0.02 * min(height, width)))
        if w + 2 * margin >= width or h + 2 * margin >= height:
            return None
        for _ in range(30):
            x0, y0 = rng.integers(margin, width - w - margin), rng.integers(margin, height - h - margin)
            box = np.array([x0, y0, x0 + w, y0 + h])
            if all(apart(box, other, margin) for other in taken):
                return box
        return None

    def paint(self, pixels: np.ndarray, mask: np.ndarray, label: int, opacity: np.ndarray, box: np.ndarray) -> None:
        """Blends a light colour in where the digit is, over a soft dark edge that shows on light photographs."""
        rng = self.rng
        soft = max(1, round(0.02 * min(pixels.shape[:2])))
        reach = 1 + 3 * soft
        x0, y0 = np.maximum(box[:2] - reach, 0)
        x1, y1 = np.minimum(box[2:] + reach, pixels.shape[1::-1])
        under = pixels[y0:y1, x0:x1].astype(np.float32)
        full = np.zeros(under.shape[:2], np.float32)
        full[box[1] - y0 : box[3] - y0, box[0] - x0 : box[2] - x0] = opacity
        edge = cv2.GaussianBlur(cv2.dilate(full, np.ones((3, 3))), (0, 0), soft)
        under *= 1 - rng.uniform(0.5, 0.9) * edge[..., None]
        under += (rng.uniform(0.9, 1) * full)[..., None] * (self.colour() - under)
        pixels[y0:y1, x0:x1] = np.clip(under + 0.5, 0, 255)
        mask[y0:y1, x0:x1][full > 0.5] = 1 + label

    def colour(self) -> np.ndarray:
        """A random light colour: (3,) float32 RGB."""
        hsv = np.array([[[self.rng.uniform(0, 360), self.rng.uniform(0, 0.6), 1]]], np.float32)
        return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def line_composer(split: str, seed: int) -> Composer:
    """Makes lines of four to six digits."""
    return Composer(split, seed, counts=(4, 5, 6), digit_size=(0.55, 0.8), crop=(0.15, 1.0))


def apart(a: np.ndarray, b: np.ndarray, margin: int) -> bool:
    """Whether two boxes keep a margin between them."""
    return bool(a[0] >= b[2] + margin or b[0] >= a[2] + margin or a[1] >= b[3] + margin or b[1] >= a[3] + margin)


def targets(pictures: list[Picture]) -> np.ndarray:
    """t_nk = 1 where picture n contains digit k: (pictures, 10) float32."""
    table = np.zeros((len(pictures), CLASSES), np.float32)
    for row, picture in zip(table, pictures, strict=True):
        row[list(picture.labels)] = 1
    return table
