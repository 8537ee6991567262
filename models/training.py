"""Trains the networks on composed pictures and measures them on held-out ones."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pictures
import sklearn.metrics
import torch
from networks import CNN, LINE, SIDE, Detector, Keypoints, Reader, Segmenter, ViT, places
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, ctc_loss

# y = (x − mean) / std per channel of pixels in [0, 255], by the name of the normalisation preset.
PRESETS = {
    "imagenet": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
    "-1-1": (np.full(3, 127.5), np.full(3, 127.5)),
    "0-1": (np.zeros(3), np.full(3, 255.0)),
}


def preprocess(pixels: np.ndarray, preset: str) -> Tensor:
    """(N, H, W, C) uint8, RGB or grey, to the network's (N, C, H, W) float32."""
    mean, std = (torch.tensor(values[: pixels.shape[-1]], dtype=torch.float32) for values in PRESETS[preset])
    return ((torch.from_numpy(pixels).float() - mean) / std).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Pool:
    """Composed pictures as arrays: `pixels` (N, 96, 96, 3), `targets` (N, 10), and up to D `labels` and `boxes`.

    `labels` (N, D) holds −1 where a picture has fewer digits; `boxes` (N, D, 4).
    """

    pixels: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def pool(split: str, seed: int, count: int, processes: int = 2) -> Pool:
    """`count` pictures of a split, the same ones for the same seed and count."""
    return Pool(*_composed(_compose, split, seed, count, processes))


def mask_pool(split: str, seed: int, count: int, processes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 96, 96, 3) and their masks (N, 96, 96) of classes, background 0.

    Training pictures have more digits, three to five, so that each step sees more of them.
    """
    pixels, masks = _composed(_compose_masks, split, seed, count, processes)
    return pixels, masks


def line_pool(split: str, seed: int, count: int, processes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Grey lines (N, 32, 128, 1) and their texts (N, 6): 1 + the digit, 0 after the last."""
    pixels, texts = _composed(_compose_lines, split, seed, count, processes)
    return pixels, texts


def _composed(
    compose: Callable[[str, int, int], tuple[np.ndarray, ...]], split: str, seed: int, count: int, processes: int
) -> tuple[np.ndarray, ...]:
    part = 1000
    jobs = [(split, seed * 100_000 + k, min(part, count - k * part)) for k in range(math.ceil(count / part))]
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as workers:
        parts = workers.starmap(compose, jobs)
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _compose_masks(split: str, seed: int, count: int) -> tuple[np.ndarray, ...]:
    cv2.setNumThreads(1)
    counts = (3, 4, 5) if split == "train" else (1, 2, 3)
    made = pictures.Composer(split, seed, counts).batch(count, SIDE, SIDE)
    return np.stack([p.pixels for p in made]), np.stack([p.mask for p in made])


def box_pool(split: str, seed: int, count: int, processes: int = 2) -> Pool:
    """As `pool`; training pictures have three to five digits."""
    return Pool(*_composed(_compose_boxes, split, seed, count, processes))


def _compose_lines(split: str, seed: int, count: int) -> tuple[np.ndarray, ...]:
    cv2.setNumThreads(1)
    composer = pictures.line_composer(split, seed)
    made = [composer.line(*LINE) for _ in range(count)]
    texts = np.zeros((count, max(composer.counts)), np.int64)
    for row, picture in zip(texts, made, strict=True):
        row[: len(picture.labels)] = 1 + np.array(picture.labels)
    return np.stack([cv2.cvtColor(p.pixels, cv2.COLOR_RGB2GRAY)[..., None] for p in made]), texts


def _compose(split: str, seed: int, count: int) -> tuple[np.ndarray, ...]:
    return _with_boxes(split, seed, count, (1, 2, 3))


def _compose_boxes(split: str, seed: int, count: int) -> tuple[np.ndarray, ...]:
    return _with_boxes(split, seed, count, (3, 4, 5) if split == "train" else (1, 2, 3))


def _with_boxes(split: str, seed: int, count: int, counts: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    cv2.setNumThreads(1)
    made = pictures.Composer(split, seed, counts).batch(count, SIDE, SIDE)
    labels, boxes = np.full((count, max(counts)), -1), np.zeros((count, max(counts), 4), np.float32)
    for k, picture in enumerate(made):
        labels[k, : len(picture.labels)] = picture.labels
        boxes[k, : len(picture.labels)] = picture.boxes
    return np.stack([p.pixels for p in made]), pictures.targets(made), labels, boxes


@dataclass(frozen=True)
class Batch:
    """`images` (N, 3, H, W) preprocessed, `targets` (N, 10) in {0, 1}, `cells` (N, rows, columns, 10) in [0, 1].

    t_nk = 1 where picture n contains digit k; t_nijk = the share of cell (i, j) that boxes of digit k cover.
    """

    images: Tensor
    targets: Tensor
    cells: Tensor


class Batches:
    """Endless shuffled batches of a pool, each shifted by up to 6 pixels and recoloured at random.

    Recolouring swaps the channels, then scales contrast and brightness.
    With `window` cells, a batch is a random square window of the pictures' grid of `patch`-pixel cells, and its
    targets are the digits that lie in it with at least four fifths of their box.
    """

    def __init__(self, source: Pool, preset: str, size: int, seed: int, patch: int = 8) -> None:
        self.source, self.preset, self.patch = source, preset, patch
        self.rng = np.random.default_rng(seed)
        self.rows = shuffled(self.rng, len(source), size)

    def draw(self, window: int | None = None) -> tuple[Batch, int, int]:
        """A batch, and the row and column of its window."""
        rows = next(self.rows)
        cells = SIDE // self.patch
        span = window or cells
        row, column = (int(self.rng.integers(cells - span + 1)) for _ in range(2))
        shift = self.rng.integers(-6, 7, 2)
        ys = np.clip(np.arange(span * self.patch) + row * self.patch - shift[1], 0, SIDE - 1)
        xs = np.clip(np.arange(span * self.patch) + column * self.patch - shift[0], 0, SIDE - 1)
        pixels = recolour(self.rng, self.source.pixels[rows[:, None, None], ys[:, None], xs])
        boxes = self.source.boxes[rows] + np.tile(shift - self.patch * np.array([column, row]), 2)
        overlap, inside = self.overlaps(boxes / self.patch, span)
        labels = self.source.labels[rows]
        one_hot = (labels[:, :, None] == np.arange(pictures.CLASSES)).astype(np.float32)
        targets = (one_hot * (inside >= 0.8)[:, :, None]).sum(1)
        by_cell = np.einsum("ndij,ndk->nijk", overlap, one_hot)
        made = Batch(preprocess(pixels, self.preset), torch.from_numpy(targets), torch.from_numpy(by_cell))
        return made, row, column

    def overlaps(self, boxes: np.ndarray, span: int) -> tuple[np.ndarray, np.ndarray]:
        """The covered share of each cell by each box (N, 3, span, span), and of each box by the window (N, 3)."""
        edge = np.arange(span)
        across = np.clip(np.minimum(edge + 1, boxes[..., 2:3]) - np.maximum(edge, boxes[..., 0:1]), 0, 1)
        down = np.clip(np.minimum(edge + 1, boxes[..., 3:4]) - np.maximum(edge, boxes[..., 1:2]), 0, 1)
        overlap = down[..., :, None] * across[..., None, :]
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        return overlap.astype(np.float32), overlap.sum((2, 3)) / np.maximum(area, 1e-6)


def recolour(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Swaps the channels, then scales contrast and brightness."""
    out = np.take(pixels, rng.permutation(pixels.shape[-1]), axis=-1).astype(np.float32)
    gain, offset = rng.uniform(0.7, 1.2), rng.uniform(-25, 25)
    return np.clip((out - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)


def shuffled(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Endless batches of `size` of `count` rows, each row once before any comes again."""
    order = np.empty(0, np.int64)
    while True:
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        rows, order = order[:size], order[size:]
        yield rows


def fit(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    peak: float,
    decay: float,
    report: Callable[[int, float], None],
) -> None:
    """AdamW over `steps` losses; the rate rises for a twentieth of them, then falls to zero along a half cosine."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0}])
    warm = max(1, steps // 20)
    running = 0.0
    network.train()
    for step in range(steps):
        rate = peak * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        running += value.item()
        if (step + 1) % 50 == 0:
            report(step + 1, running / 50)
            running = 0.0
    network.eval()


def train_cnn(source: Pool, steps: int, seed: int, preset: str = "imagenet", size: int = 64) -> CNN:
    """The CNN: loss = BCE(logits, digits in the picture); boxes only say which digits lie in a window.

    The first two thirds of the steps see windows of a quarter of the picture, which cost a quarter of the time.
    """
    torch.manual_seed(seed)
    network = CNN().to(memory_format=torch.channels_last)
    batches = Batches(source, preset, size, seed)
    switch = steps * 2 // 3

    def loss(step: int) -> Tensor:
        batch, _, _ = batches.draw(6 if step < switch else None)
        return binary_cross_entropy_with_logits(network(batch.images), batch.targets)

    fit(network, loss, steps, peak=4e-3, decay=0.02, report=printer("cnn", steps))
    return network.to(memory_format=torch.contiguous_format)


def train_vit(source: Pool, steps: int, seed: int, preset: str = "-1-1", size: int = 64) -> ViT:
    """The ViT: loss = BCE(logits, digits) + 4 BCE(cell logits, digits that cover the cell).

    A transformer this small does not learn to look from so few pictures by their labels alone. So while it trains, a
    linear layer, not exported, also says for every patch what digit covers it (Jiang et al. 2021, All Tokens Matter);
    and the first two thirds of the steps see windows of a quarter of the picture, which cost a fifth of the time.
    """
    torch.manual_seed(seed)
    network = ViT()
    by_cell = nn.Linear(network.head.in_features, pictures.CLASSES)
    both = nn.ModuleList([network, by_cell])
    batches = Batches(source, preset, size, seed, network.patch)
    switch = steps * 2 // 3

    def loss(step: int) -> Tensor:
        window = network.cells // 2 if step < switch else network.cells
        batch, row, column = batches.draw(window)
        tokens = network.tokens(batch.images, network.window_position(row, column, window))
        cells = binary_cross_entropy_with_logits(by_cell(tokens[:, 1:]), batch.cells.flatten(1, 2))
        return binary_cross_entropy_with_logits(network.head(tokens[:, 0]), batch.targets) + 4 * cells

    fit(both, loss, steps, peak=2e-3, decay=0.05, report=printer("vit", steps))
    return network


def train_segmenter(
    pixels: np.ndarray, masks: np.ndarray, steps: int, seed: int, preset: str, size: int = 64
) -> Segmenter:
    """The segmenter: loss = cross-entropy of every pixel, the background's at half weight.

    The first five sixths of the steps see windows of a quarter of the picture, which cost a quarter of the time.
    """
    torch.manual_seed(seed)
    network = Segmenter().to(memory_format=torch.channels_last)
    weight = torch.tensor([0.5] + [1.0] * pictures.CLASSES)
    rng = np.random.default_rng(seed)
    rows = shuffled(rng, len(pixels), size)

    def loss(step: int) -> Tensor:
        span = SIDE // 2 if step < steps * 5 // 6 else SIDE
        y, x = rng.integers(SIDE - span + 1, size=2)
        chosen, part = next(rows), (slice(y, y + span), slice(x, x + span))
        images = preprocess(recolour(rng, pixels[chosen][:, *part]), preset)
        return cross_entropy(network(images), torch.from_numpy(masks[chosen][:, *part]).long(), weight)

    fit(network, loss, steps, peak=6e-3, decay=0.02, report=printer("segmenter", steps))
    return network.to(memory_format=torch.contiguous_format)


def train_reader(lines: np.ndarray, texts: np.ndarray, steps: int, seed: int, preset: str, size: int = 64) -> Reader:
    """The reader: loss = CTC (Graves et al. 2006) of lines that are shifted by up to 2 rows and 6 columns."""
    torch.manual_seed(seed)
    network = Reader().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    rows = shuffled(rng, len(lines), size)
    lengths = torch.from_numpy((texts > 0).sum(1))

    def loss(step: int) -> Tensor:
        chosen = next(rows)
        shift = rng.integers((-2, -6), (3, 7))
        ys, xs = (np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(LINE, shift, strict=True))
        images = preprocess(recolour(rng, lines[chosen[:, None, None], ys[:, None], xs]), preset)
        scores = network(images).log_softmax(2).transpose(0, 1)
        steps_of = torch.full((size,), len(scores))
        return ctc_loss(scores, torch.from_numpy(texts[chosen]), steps_of, lengths[chosen], blank=0)

    fit(network, loss, steps, peak=6e-3, decay=0.02, report=printer("reader", steps))
    return network.to(memory_format=torch.contiguous_format)


def train_detector(source: Pool, steps: int, seed: int, preset: str, size: int = 64) -> Detector:
    """The detector: loss = focal loss of every score + 2 (1 − GIoU) of the boxes of places inside a digit's middle.

    A place is of a digit whose box's middle half holds it, at stride 8 where the box's longer side has up to 34 pixels
    and at 16 above (Tian et al. 2019, FCOS); of two, of the smaller one. Pictures are shifted by up to 6 pixels.
    """
    torch.manual_seed(seed)
    network = Detector().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    rows = shuffled(rng, len(source), size)
    middle = places(network.strides)[0].T
    coarse = torch.cat([torch.full(((SIDE // s) ** 2,), float(s > 8)) for s in network.strides])

    def loss(_: int) -> Tensor:
        images, boxes, labels = shifted(rng, source, next(rows), preset)
        logits, sides = network.heads(images)
        mine = assigned(boxes, labels, middle, coarse)
        wanted = torch.zeros_like(logits)
        image, place = torch.nonzero(mine >= 0, as_tuple=True)
        digit = mine[image, place]
        wanted[image, labels[image, digit], place] = 1
        found = torch.cat([middle.T - sides[:, :2], middle.T + sides[:, 2:]], 1)[image, :, place]
        overlap = generalized_box_iou_loss(found, boxes[image, digit])
        return (focal(logits, wanted) + 2 * overlap.sum()) / max(1, len(image))

    fit(network, loss, steps, peak=4e-3, decay=0.02, report=printer("detector", steps))
    return network.to(memory_format=torch.contiguous_format)


def train_keypoints(source: Pool, steps: int, seed: int, preset: str, size: int = 64) -> Keypoints:
    """The network of keypoints: loss = focal loss of every place, 1 at the middle of a digit's box and less around it
    (Zhou et al. 2019, Objects as Points). Pictures are shifted by up to 6 pixels.
    """
    torch.manual_seed(seed)
    network = Keypoints().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    rows = shuffled(rng, len(source), size)
    grid = (torch.arange(SIDE // network.stride) + 0.5) * network.stride

    def loss(_: int) -> Tensor:
        images, boxes, labels = shifted(rng, source, next(rows), preset)
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        near = [torch.exp(-(((grid - middle[..., axis, None]) / (1.25 * network.stride)) ** 2) / 2) for axis in (0, 1)]
        spots = near[1][..., :, None] * near[0][..., None, :]
        one_hot = (labels[..., None] == torch.arange(pictures.CLASSES)).float()
        wanted = (spots[:, :, None] * one_hot[..., None, None]).amax(1)
        logits = network(images)
        score = logits.sigmoid()
        peak = wanted > 0.9
        right = (1 - score).square() * -nn.functional.logsigmoid(logits)
        wrong = (1 - wanted) ** 4 * score.square() * -nn.functional.logsigmoid(-logits)
        return torch.where(peak, right, wrong).sum() / peak.sum().clamp(min=1)

    fit(network, loss, steps, peak=4e-3, decay=0.02, report=printer("keypoints", steps))
    return network.to(memory_format=torch.contiguous_format)


def shifted(rng: np.random.Generator, source: Pool, rows: np.ndarray, preset: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of a pool, shifted by up to 6 pixels and recoloured, with the boxes and labels of their digits."""
    shift = rng.integers(-6, 7, 2)
    ys, xs = (np.clip(np.arange(SIDE) - d, 0, SIDE - 1) for d in shift[::-1])
    images = preprocess(recolour(rng, source.pixels[rows[:, None, None], ys[:, None], xs]), preset)
    boxes = torch.from_numpy(source.boxes[rows] + np.tile(shift, 2).astype(np.float32))
    return images, boxes, torch.from_numpy(source.labels[rows])


def assigned(boxes: Tensor, labels: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """(N, P) the digit that a place is of, −1 for none."""
    low, high = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    inside = (2 * (middle - (low + high) / 2).abs() <= (high - low) / 2).all(-1)
    large = ((high - low).amax(-1) > 34) == (coarse > 0)
    area = (high - low).prod(-1)
    area = torch.where(inside & large & (labels[:, :, None] >= 0), area, torch.inf)
    least, digit = area.min(1)
    return torch.where(least < torch.inf, digit, -1)


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Σ −α (1 − p)² log p of what is wanted, (1 − α) of what is not, α = ¼ (Lin et al. 2017, RetinaNet)."""
    plain = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = torch.where(wanted > 0, 1 - logits.sigmoid(), logits.sigmoid())
    return (torch.where(wanted > 0, 0.25, 0.75) * wrong.square() * plain).sum()


def generalized_box_iou_loss(a: Tensor, b: Tensor) -> Tensor:
    """(n,) 1 − GIoU of boxes (n, 4) (Rezatofighi et al. 2019)."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return 1 - shared / union + (around - union) / around


def printer(name: str, steps: int) -> Callable[[int, float], None]:
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        print(f"{name}: step {step} of {steps}, loss {loss:.4f}, {time.monotonic() - start:.0f} s", flush=True)

    return report


def predict(network: nn.Module, pixels: np.ndarray, preset: str) -> np.ndarray:
    """Probabilities (N, 10) of uint8 pictures (N, 96, 96, 3)."""
    with torch.no_grad():
        parts = [torch.sigmoid(network(preprocess(part, preset))) for part in np.array_split(pixels, len(pixels) // 50)]
    return torch.cat(parts).numpy()


def measure(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float | int]:
    """Mean average precision over the classes, the share of pictures whose set {k: p_k > ½} is right, their number."""
    precision = [sklearn.metrics.average_precision_score(t, p) for t, p in zip(targets.T, probabilities.T, strict=True)]
    exact = np.mean(np.all((probabilities > 0.5) == (targets > 0.5), axis=1))
    return {"mean-ap": round(float(np.mean(precision)), 4), "exact": round(float(exact), 4), "pictures": len(targets)}


def measure_masks(found: np.ndarray, masks: np.ndarray) -> dict[str, float | int]:
    """The mean over the digits of intersection over union, both over all pictures; the share of pixels that are right.

    Args:
        found: (N, H, W) the class of every pixel, as `masks`.
    """
    classes = range(1, 1 + pictures.CLASSES)
    ious = [np.sum((found == k) & (masks == k)) / np.sum((found == k) | (masks == k)) for k in classes]
    share = np.mean(found == masks)
    return {"mean-iou": round(float(np.mean(ious)), 4), "pixels": round(float(share), 4), "pictures": len(masks)}


def measure_lines(probabilities: np.ndarray, texts: np.ndarray) -> dict[str, float | int]:
    """The share of lines that are read without a mistake.

    Args:
        probabilities: (N, T, 11), the blank first; repetitions and blanks are dropped.
        texts: (N, 6), 0 after the last digit.
    """
    best = probabilities.argmax(2)
    kept = (best > 0) & (np.diff(best, axis=1, prepend=0) != 0)
    right = [np.array_equal(row[keep], text[text > 0]) for row, keep, text in zip(best, kept, texts, strict=True)]
    return {"lines": round(float(np.mean(right)), 4), "pictures": len(texts)}


def measure_boxes(found: np.ndarray, truth: Pool, overlap: float = 0.5) -> dict[str, float | int]:
    """Mean over the digits of average precision: detections in the order of their scores, each right if it has an IoU
    of at least `overlap` with a digit of its class that none before it has.

    Args:
        found: (N, 14, P) as the detector gives them; no detection overlaps a surer one of its class by more than 0.5.
    """
    precision = []
    for label in range(pictures.CLASSES):
        rows: list[tuple[float, bool]] = []
        for scores, known in zip(found, zip(truth.labels, truth.boxes, strict=True), strict=True):
            boxes = known[1][known[0] == label]
            taken: list[np.ndarray] = []
            for place in np.argsort(-scores[4 + label]):
                if scores[4 + label, place] < 0.02:
                    break
                x, y, w, h = scores[:4, place]
                box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                if any(box_iou(box, other) > 0.5 for other in taken):
                    continue
                taken.append(box)
                hit = [k for k, other in enumerate(boxes) if box_iou(box, other) >= overlap]
                rows.append((float(scores[4 + label, place]), bool(hit)))
                boxes = np.delete(boxes, hit[:1], axis=0)
        right = np.array([good for _, good in sorted(rows, key=lambda row: -row[0])])
        recall = np.cumsum(right) / max(1, (truth.labels == label).sum())
        exact = np.maximum.accumulate((np.cumsum(right) / np.arange(1, 1 + len(right)))[::-1])[::-1]
        precision.append(float(np.sum(np.diff(recall, prepend=0) * exact)))
    return {"map50": round(float(np.mean(precision)), 4), "pictures": len(truth)}


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def measure_keypoints(found: np.ndarray, truth: Pool, sure: float = 0.3) -> dict[str, float | int]:
    """The share of digits whose heat map is highest within a tenth of the picture of the box's middle, and of maps of
    digits that are not there which stay below `sure`.

    Args:
        found: (N, 10, h, w) heat maps.
    """
    right, absent = [], []
    cell = SIDE / found.shape[-1]
    for maps, labels, boxes in zip(found, truth.labels, truth.boxes, strict=True):
        for label, heat in enumerate(maps):
            if label not in labels:
                absent.append(heat.max() < sure)
                continue
            box = boxes[labels.tolist().index(label)]
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            away = np.hypot((column + 0.5) * cell - (box[0] + box[2]) / 2, (row + 0.5) * cell - (box[1] + box[3]) / 2)
            right.append(away <= 0.1 * SIDE)
    return {
        "pck10": round(float(np.mean(right)), 4),
        "absent": round(float(np.mean(absent)), 4),
        "pictures": len(truth),
    }
