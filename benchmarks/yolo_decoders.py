"""Whether YOLO's outputs are decoded as Ultralytics does: networks of random weights, box by box.

    python -m benchmarks.yolo_decoders [NAME …]

Needs ultralytics, torch and onnx in an environment of its own. BatchNormalization sees a few pictures of noise, and the
last layer of the scores is drawn so that some candidates are above 0.25; both sides suppress overlaps above 0.45 of a
class. Prints a row per network: how many boxes each side has, the largest difference of a side, of a score and of a
keypoint between boxes of one class, and how many boxes of the package are not found within a pixel: where an overlap is
just 0.45, the package, which moves boxes by class, rounds otherwise. Of -obb, the corners are compared.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.tasks import Declared

NAMES = (
    "yolov3-tinyu", "yolov5nu", "yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo11n-seg",
    "yolo11n-pose", "yolo11n-obb", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb",
)  # fmt: skip
SIDE, SURE, OVERLAP = 160, 0.25, 0.45


def exported(name: str, spread: float, folder: Path) -> tuple[Path, int]:
    """The network as a file, and its number of classes."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    made = YOLO(f"{name}.yaml", verbose=False)
    noise = torch.Generator().manual_seed(1)
    for module in made.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    made.model.train()
    with torch.no_grad():
        for _ in range(3):
            made.model._predict_once(torch.rand(4, 3, SIDE, SIDE, generator=noise))
    head = made.model.eval().model[-1]
    for branches in (getattr(head, "cv3", None), getattr(head, "one2one_cv3", None)):
        for branch in branches or ():
            last = branch[-1]
            last.weight.data = spread * torch.randn(last.weight.shape, generator=noise)
            last.bias.data.fill_(-4)
    os.chdir(folder)
    return Path(made.export(format="onnx", imgsz=SIDE, opset=17, simplify=False, verbose=False)).resolve(), head.nc


def row(name: str, spread: float, folder: Path) -> str:
    from ultralytics.utils.nms import non_max_suppression

    path, classes = exported(name, spread, folder)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).numpy()
    session = onnxruntime.InferenceSession(str(path))
    said = {o.name: a for o, a in zip(session.get_outputs(), session.run(None, {"images": x}), strict=True)}
    explainer = Explainer(str(path))
    declared = Declared(score_threshold=SURE, iou_threshold=OVERLAP)
    task = task_for(explainer, Question(declared=declared), explainer.feeds({"images": x}))
    ours = task.predictions(task.answer(said))
    rotated = name.endswith("-obb")
    whole = torch.from_numpy(said["output0"].copy())
    theirs = non_max_suppression(whole, SURE, OVERLAP, nc=classes, max_det=300, rotated=rotated)[0].numpy()
    scores = np.array([[p.score, p.index] for p in ours]).reshape(len(ours), 2)
    sides = np.array([np.ravel(p.corners if rotated else p.box) for p in ours]).reshape(len(ours), 8 if rotated else 4)
    points = np.array([np.ravel(p.points or ()) for p in ours])
    known_sides = corners(theirs) if rotated else theirs[:, :4]
    largest, alone = np.zeros(3), 0  # of a side, a score and a keypoint
    for known, known_side in zip(theirs, known_sides, strict=True):
        away = np.abs(sides - known_side).max(axis=1) + 1e6 * (scores[:, 1] != known[5])
        best = int(away.argmin())
        if away[best] > 1:
            alone += 1
            continue
        point = np.abs(points[best] - known[6:]).max() if points.size else 0.0
        largest = np.maximum(largest, [away[best], abs(scores[best, 0] - known[4]), point])
    cells = [f"{one:.1e}" for one in largest[: 3 if points.size else 2]] + ["–"] * (not points.size) + [str(alone)]
    return f"| {name} | {task.decoder.family} | {len(ours)} | {len(theirs)} | {' | '.join(cells)} |"


def corners(found: np.ndarray) -> np.ndarray:
    """(n, 8) the corners of rotated boxes in the order of ours."""
    from ultralytics.utils.ops import xywhr2xyxyxyxy

    return np.asarray(xywhr2xyxyxyxy(found[:, [0, 1, 2, 3, -1]])[:, [2, 1, 0, 3]].reshape(len(found), 8))


def main() -> None:
    warnings.filterwarnings("ignore")
    print("| network | recognized as | boxes | of the package | side, pixels | score | keypoint | not found |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NAMES:
            for spread in (0.02, 0.04, 0.06, 0.08, 0.12, 0.2):  # the least that gives boxes: sure scores are equal ones
                found = row(name, spread, Path(folder))
                if int(found.split("|")[4]) >= 10:
                    break
            print(found, flush=True)


if __name__ == "__main__":
    main()
