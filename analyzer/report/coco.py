"""Detections and poses in COCO's format, for its tools and for annotation programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.images.skeleton import bones_of, names_of
from analyzer.metrics.masks import area_of

_SEEN = 0.5  # from which visibility a detector's keypoint counts as seen


def coco(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`images`, `categories` and `annotations` (https://cocodataset.org/#format-data), each annotation with its score,
    so that `annotations` alone is in COCO's format of results.

    Boxes are x, y, width and height in pixels of the picture. Categories are the classes that are found, under their
    indices. Annotations are counted from 1, as 0 means none to pycocotools. Keypoints are x, y and 2 where the model
    sees them, 1 where it does not. Masks are compressed run lengths, and `area` is then that of the mask; a box that
    is not upright is a polygon. A model of keypoints has one annotation for each picture: its box is around the
    keypoints that are found, 0, 0, 0 stands for each of the others, and its score is the mean of those of the
    keypoints.

    Args:
        results: as `explain` gives them.
    """
    images, annotations, categories = list[dict[str, Any]](), list[dict[str, Any]](), dict[int, dict[str, Any]]()
    for number, result in enumerate(results):
        width, height = result["size"] or (None, None)
        images.append({"id": number, "file_name": result["picture"], "width": width, "height": height})
        if "keypoints" in result:
            name = "person" if len(result["keypoints"]) == 17 else "object"
            found = [(_category(0, result["keypoints"], name), _pose(result))] if result["predictions"] else []
        else:
            found = [(_category_of(one), _detection(one)) for one in result["predictions"] if "box" in one]
        for category, annotation in found:
            categories[category["id"]] = category
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": category["id"]}
            annotations.append(place | annotation)
    return {"images": images, "categories": [categories[i] for i in sorted(categories)], "annotations": annotations}


def _detection(found: Mapping[str, Any]) -> dict[str, Any]:
    annotation = _box(*found["box"]) | {"score": found["score"]}
    if "mask" in found:
        annotation |= {"segmentation": found["mask"], "area": area_of(found["mask"])}
    elif "corners" in found:
        annotation["segmentation"] = [[at for corner in found["corners"] for at in corner]]
    if "points" in found:
        annotation |= _keypoints([(x, y, 2 if seen > _SEEN else 1) for x, y, seen in found["points"]])
    return annotation


def _pose(result: Mapping[str, Any]) -> dict[str, Any]:
    """All keypoints that are found in a picture, as one annotation."""
    found = {one["class"]: one["points"][0] for one in result["predictions"]}
    x, y, scores = zip(*found.values(), strict=True)
    points = [(*found[i][:2], 2) if i in found else (0, 0, 0) for i in range(len(result["keypoints"]))]
    return _box(min(x), min(y), max(x), max(y)) | {"score": sum(scores) / len(scores)} | _keypoints(points)


def _box(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    width, height = round(x1 - x0, 2), round(y1 - y0, 2)
    return {"bbox": [x0, y0, width, height], "area": round((x1 - x0) * (y1 - y0), 2), "iscrowd": 0}


def _keypoints(points: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    return {"keypoints": [at for point in points for at in point], "num_keypoints": sum(p[2] > 0 for p in points)}


def _category_of(found: Mapping[str, Any]) -> dict[str, Any]:
    count = len(found.get("points", ()))
    return _category(found["class"], names_of(count) or [str(i) for i in range(count)], found["label"])


def _category(index: int, names: Sequence[str], name: str) -> dict[str, Any]:
    """A category, with the names of its keypoints and the lines between them, counted from 1, if it has any."""
    category: dict[str, Any] = {"id": index, "name": name}
    if names:
        category |= {"keypoints": list(names), "skeleton": [[a + 1, b + 1] for a, b in bones_of(len(names))]}
    return category
