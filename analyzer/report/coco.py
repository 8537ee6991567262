"""Detections in COCO's format, for its tools and for annotation programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.metrics.masks import area_of


def coco(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`images`, `categories` and `annotations` (https://cocodataset.org/#format-data), each annotation with its score.

    Boxes are x, y, width and height in pixels of the picture. Categories are the classes that are found, under their
    indices. Keypoints are x, y and 2 where the model sees them, 1 where it does not. Masks are compressed run
    lengths, and `area` is then that of the mask; a box that is not upright is a polygon.

    Args:
        results: as `explain` gives them.
    """
    images, annotations, names = list[dict[str, Any]](), list[dict[str, Any]](), dict[int, str]()
    for number, result in enumerate(results):
        width, height = result["size"] or (None, None)
        images.append({"id": number, "file_name": result["picture"], "width": width, "height": height})
        for found in result["predictions"]:
            if "box" not in found:
                continue
            x0, y0, x1, y1 = found["box"]
            names[found["class"]] = found["label"]
            annotation = {
                "id": len(annotations),
                "image_id": number,
                "category_id": found["class"],
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                "area": round((x1 - x0) * (y1 - y0), 2),
                "iscrowd": 0,
                "score": found["score"],
            }
            if "mask" in found:
                annotation["segmentation"], annotation["area"] = found["mask"], area_of(found["mask"])
            elif "corners" in found:
                annotation["segmentation"] = [[at for corner in found["corners"] for at in corner]]
            if "points" in found:
                points = [[x, y, 2 if seen > 0.5 else 1] for x, y, seen in found["points"]]
                annotation["keypoints"] = [value for point in points for value in point]
                annotation["num_keypoints"] = len(points)
            annotations.append(annotation)
    categories = [{"id": index, "name": name} for index, name in sorted(names.items())]
    return {"images": images, "categories": categories, "annotations": annotations}
