"""The example pictures: three digits on each held-out photograph, with their labels and boxes; and a line of digits."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from cards import LABELS
from pictures import PHOTOS, Composer, Picture, line_composer

SIDE = 384  # pixels
SEEDS = {"chelsea": 48, "coffee": 15, "rocket": 57, "camera": 39}
LINE, LINE_SEED, LINE_PHOTO = (96, 384), 2, "coffee"  # height and width in pixels


def compose(photo: str, seed: int) -> Picture:
    """A picture of three digits of different classes on nearly the whole of a held-out photograph."""
    composer = Composer("held-out", seed, counts=(3,), digit_size=(0.3, 0.42), crop=(0.85, 1.0))
    return composer.picture(SIDE, SIDE, PHOTOS["held-out"].index(photo))


def compose_line(seed: int) -> Picture:
    """A line of digits on part of a held-out photograph."""
    return line_composer("held-out", seed).line(*LINE, PHOTOS["held-out"].index(LINE_PHOTO))


def save(file: Path, picture: Picture) -> None:
    cv2.imwrite(str(file), picture.pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def write(folder: Path) -> None:
    """Writes line.png, digits_<photograph>.png, and of these boxes.json: {file: {label: [x0, y0, x1, y1]}}.

    A box spans whole pixels: x0 and y0 are its first column and row, x1 and y1 one past its last.
    """
    folder.mkdir(exist_ok=True)
    boxes = {}
    save(folder / "line.png", compose_line(LINE_SEED))
    for photo, seed in SEEDS.items():
        picture = compose(photo, seed)
        name = f"digits_{photo}.png"
        save(folder / name, picture)
        boxes[name] = {LABELS[k]: [int(v) for v in box] for k, box in zip(picture.labels, picture.boxes, strict=True)}
    lines = [f"  {json.dumps(name)}: {json.dumps(table)}" for name, table in boxes.items()]
    (folder / "boxes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def labels(picture: Path) -> list[int]:
    """The class indices of an example picture, from the boxes.json beside it."""
    boxes = json.loads((picture.parent / "boxes.json").read_text(encoding="utf-8"))
    return [LABELS.index(label) for label in boxes[picture.name]]
