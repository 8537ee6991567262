"""Cases by number: the same number of the same seed is always the same case."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tests.fuzz.harness import Case
from tests.fuzz.mutate import bytes_of, mutated, text_of
from tests.fuzz.seeds import CARD, PLAIN, models, pictures

M, P = "m.onnx", "p"  # the picture's name gets its format
WHAT_READS_MODELS = (
    ("inspect", M), ("inspect", M, "--all"), ("inspect", M, "--format", "json"),
    ("plan", M), ("plan", M, "-m", "gradient", "--format", "json"), ("plan", M, "-p", "cuda"),
    ("receptive-field", M), ("receptive-field", M, "--all", "--format", "json"), ("filters", M, "-o", "out.png"),
    ("export", M, "-o", "out.onnx"), ("export", M, "-o", "out.onnx", "-m", "gradient", "--shape", "1x3x12x12"),
    ("export", M, "-o", "out.onnx", "--runtime", "openvino"),
    *(("explain", M, P, "-o", "out.png", "-m", method) for method in
      ("grad-cam", "gradient", "guided-backprop", "layer-cam", "integrated-gradients", "score-cam", "full-grad")),
    ("explain", M, P, "--format", "json"), ("explain", M, P, "-t", "positive"), ("explain", M, P, "--raw", "out.npy"),
    ("features", M, P, "-l", "r*", "-o", "out"), ("project", M, P, "-l", "r*", "-o", "out.png"),
    ("invariance", M, P, "--transform", "scaling", "-o", "out.png"), ("localize", M, P, "-o", "out.png"),
    ("compare", M, "seed.onnx", "-d", P, "--report", "out.html"),
    ("compare", "seed.onnx", M, "-d", P, "--format", "json"),
    ("audit", M, "-d", P, "--probes", "1", "--report", "out.md"), ("audit", M, "-d", P, "--format", "json"),
    ("mine", M, P, "-l", "r*", "-o", "out"), ("record", M, "-d", P, "--store", "out"),
    ("dream", M, "-t", "1", "--steps", "2", "-o", "out.png"),
    ("evolution", M, "seed.onnx", "-d", P, "-l", "r*", "-o", "out.png"),
)  # fmt: skip
WHAT_READS_PICTURES = (
    ("explain", M, P, "-o", "out.png"), ("explain", M, P, "--format", "json"),
    ("features", M, P, "-l", "r1", "-o", "out"),
    ("mine", M, P, "-l", "r1", "-o", "out"), ("audit", M, "-d", P, "--probes", "1"), ("compare", M, M, "-d", P),
)  # fmt: skip


def made(seed: int, number: int) -> Case:
    """The case of that number."""
    rng = random.Random(f"{seed}:{number}")
    suffix, picture = rng.choice(sorted(pictures().items()))
    kind = rng.random()
    if kind < 0.8:
        model = rng.choice(models())
        return case(rng.choice(WHAT_READS_MODELS), mutated(model, models(), rng), model, suffix, picture)
    model, command = models()[rng.randrange(3)], rng.choice(WHAT_READS_PICTURES)
    if kind < 0.92:
        return case(command, model, model, suffix, bytes_of(picture, rng, rng.choice((1, 2, 8))))
    return case(command, model, model, suffix, picture, text_of(CARD, rng))


def every(model: bytes) -> Iterator[Case]:
    """Every command on a model, with a picture that is sound."""
    for command in WHAT_READS_MODELS:
        yield case(command, model, model, ".png", pictures()[".png"])


def case(
    command: Sequence[str], model: bytes, other: bytes, suffix: str, picture: bytes, card: bytes = PLAIN.encode()
) -> Case:
    """The command on these files, of which it gets those that it reads."""
    files = {M: model, "seed.onnx": other, f"{P}{suffix}": picture, "m.toml": card}
    words = [f"{P}{suffix}" if word == P else word for word in command]
    return Case({name: data for name, data in files.items() if name in (*words, "m.toml")}, words)
