"""How the projects that write a format prepare pictures, where nothing else says it."""

from __future__ import annotations

from typing import Any

SIZE = (640, 640)  # of inputs that leave their height and width open, unless a format has another

_YOLO = {"preset": "0-1", "resize": "letterbox", "pad-value": 114.0}

# Keys of a model's card, by the family of its decoder.
USUAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("YOLOv3", "YOLOv4", "YOLOv5", "YOLOv7", "YOLOv8"), _YOLO),
    "YOLOX": {"preset": "raw", "channels": "BGR", "resize": "letterbox", "pad-value": 114.0},
    "PicoDet": {"preset": "imagenet", "size": (416, 416)},
    "NanoDet": {
        "mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395), "scale": 1.0, "channels": "BGR",
        "size": (416, 416),
    },
    "FastestDet": {"preset": "0-1", "channels": "BGR", "size": (352, 352)},
    "DETR": {"preset": "imagenet", "size": (800, 800)},
    "RT-DETR": {"preset": "0-1"},
    "EfficientDet": {"preset": "imagenet", "resize": "letterbox", "size": (512, 512)},
    "YuNet": {"preset": "raw", "channels": "BGR"},
    "UltraFace": {"mean": 127.0, "std": 128.0, "scale": 1.0},
    "RetinaFace": {"mean": (104.0, 117.0, 123.0), "std": 1.0, "scale": 1.0, "channels": "BGR"},
    "SCRFD": {"mean": 127.5, "std": 128.0, "scale": 1.0, "resize": "letterbox", "pad-value": 0.0},
    "PP-OCR": {"preset": "imagenet", "channels": "BGR", "resize": "letterbox", "size": (960, 960)},
    "BlazeFace": {"preset": "-1-1", "resize": "letterbox"},
}  # fmt: skip


def usual_of(family: str) -> tuple[str, dict[str, Any]]:
    """(whose keys they are, the keys) of a family, or of what it is a variant of ("YOLOv8-seg"); where they are not
    known, only a size, which is usual for detectors."""
    found = USUAL.get(family) or USUAL.get(family.partition("-")[0])
    return ("detectors", {"size": SIZE}) if found is None else (family, {"size": SIZE} | found)
