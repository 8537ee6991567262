"""A contact sheet: every method in every view that it has numbers for, to be looked at panel by panel.

    python -m benchmarks.contact_sheet FOLDER MODEL:PICTURE… [--quick]

Writes FOLDER/<model>-<picture>.png, a row per method: the picture, the five views, and the same map as captum's and
pytorch-grad-cam's own visualizers draw it, where they are installed (`pip install captum grad-cam matplotlib`). Without
models, those that are shipped. `--quick` leaves out the methods that run a model many times.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import analyzer
from analyzer import METHODS, AnalyzerError, Attribution
from analyzer.errors import InputError
from analyzer.images import VIEWS, Drawing, Panel, sheet, write_png
from analyzer.images.views import panel

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [
    f"models/{model}.onnx:examples/digits_{picture}.png"
    for model in ("digits_cnn", "digits_cnn_int8", "digits_vit")
    for picture in ("chelsea", "coffee", "rocket")
]
SIDE = (260, 260)
OPTIONS = {
    "rise": {"masks": 400},
    "d-rise": {"masks": 400},
    "smooth-grad": {"samples": 10},
    "var-grad": {"samples": 10},
}


def peers(found: Attribution, image: np.ndarray) -> Iterator[Panel]:
    """The same map by the visualizers of captum (its default for attributions) and pytorch-grad-cam."""
    assert found.view is not None
    drawn = found.view.map(found, 0)
    try:
        from captum.attr import visualization  # type: ignore[import-not-found]
        from pytorch_grad_cam.utils.image import show_cam_on_image  # type: ignore[import-not-found]
    except ImportError:
        return
    import matplotlib

    matplotlib.use("Agg")
    size = drawn.values.shape[:2]
    shown = np.asarray(_resized(image, size), np.float32) / 255
    numbers = drawn.channels if drawn.channels is not None else drawn.values[..., None]
    sign = "all" if drawn.channels is not None or drawn.values.min() < 0 else "positive"
    if np.isfinite(numbers).all() and np.abs(numbers).max() > 0:
        figure, _ = visualization.visualize_image_attr(
            numbers, shown, "heat_map", sign, show_colorbar=True, use_pyplot=False
        )
        figure.set_size_inches(3, 2.6)
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        yield Panel(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]), "captum")
    heat = np.nan_to_num(drawn.values)
    unit = (heat - heat.min()) / (float(np.ptp(heat)) or 1)
    yield Panel(show_cam_on_image(shown, unit.astype(np.float32), use_rgb=True), "pytorch-grad-cam")


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    import cv2

    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def contact_sheet(model: Path, picture: Path, quick: bool) -> np.ndarray:
    """The sheet of one model and picture: (H, W, 3) uint8 RGB."""
    rows = list[Panel | None]()
    columns = 1 + len(VIEWS) + 2
    for name, method in METHODS.items():
        if method.runs and quick:
            continue
        try:
            found = analyzer.explain(model, picture, method=name, **OPTIONS.get(name, {}))
        except AnalyzerError as error:
            print(f"{model.name}, {name}: {error.message}", file=sys.stderr)
            continue
        assert found.view is not None
        given = found.view.map(found, 0)
        row = [Panel(given.image, f"{name}; drawn as {', '.join(method.views)}")]
        for view in VIEWS:
            try:
                one = panel(given, Drawing(view), SIDE)
            except InputError:
                row.append(Panel(np.full_like(given.image, 245), "no channels"))
                continue
            row.append(Panel(one.picture, view, one.bar))
        row += peers(found, given.image)
        rows += [Panel(_fitted(each.picture), each.title, each.bar) for each in row]
        rows += [None] * (columns - len(row))
    return sheet(rows, columns, f"{model.name}: {picture.name}")


def _fitted(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = SIDE[0] / max(height, width)
    return _resized(picture, (max(1, round(height * factor)), max(1, round(width * factor))))


def main() -> None:
    """Writes the sheets."""
    quick = "--quick" in sys.argv
    folder, *pairs = [each for each in sys.argv[1:] if not each.startswith("--")]
    for pair in pairs or [":".join(str(ROOT / part) for part in each.split(":")) for each in SHIPPED]:
        model, picture = map(Path, pair.split(":"))
        out = Path(folder) / f"{model.stem}-{picture.stem}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_png(out, contact_sheet(model, picture, quick))
        print(out)


if __name__ == "__main__":
    main()
