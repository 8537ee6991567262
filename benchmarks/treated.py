"""Is a treated file explained as its mathematics says? Small networks × what production does to files.

    python -m benchmarks.treated [--networks vit,swin] [--treatments "qdq*,opset 2*"] [--folder FOLDER] [--again]

A treatment that keeps the mathematics is compared with torch's autograd of the float32 file in float64; one that rounds
to float16 with the same, within what float16 itself costs; one that rounds to whole numbers with an interpreter in
torch that reads the treated file (tests/straight_through.py). Compared are the input gradient, guided backpropagation
and Grad-CAM at the default layer, the layer, the scores and the top class (against a bare session of the treated file),
and the exported Grad-CAM in a bare session.

Prints the section "Converted files" of docs/benchmarks.md. Every case runs in a child process; results are kept in a
journal, and a run that was cut off goes on. Exit code 1: a difference that EXPLAINED does not explain, or an
explanation of something that does not differ.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import json
import multiprocessing
import os
import re
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small_networks
from benchmarks.small_networks import NETWORKS
from benchmarks.treatments import TREATMENTS

FOLDER = Path(__file__).parent / "cache" / "treated"
METHODS = ("gradient", "guided-backprop", "grad-cam")
PICTURES = 3
PATIENCE = 180  # seconds for one case
# Least distance allowed (relative, L2), and multiple of the reference's own noise.
ALLOWED = {"same": (1e-4, 10.0), "half": (2e-3, 3.0), "quantised": (1e-3, 3.0)}
SCORES = {"same": 2e-5, "half": 5e-3, "quantised": 2e-5}  # the same bits where the file rounds to whole numbers
EXPORTED = {"same": 1e-3, "half": 2e-2, "quantised": 5e-2}
ALIKE = 0.95  # cosine of the activations of a layer and of its float twin
# Where the zero point of what an operator quantises is among its inputs; the scale comes before it.
ZEROS = {"QuantizeLinear": 2, "QGemm": 8, "QLinearConcat": 1, "QLinearWhere": 8}
ZEROS |= dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), 7)
ZEROS |= dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean"), 4)
ZEROS |= dict.fromkeys(("QLinearGlobalAveragePool", "QLinearAveragePool"), 4)
JITTER = 1e-4  # steps: what float32 moves before a rounding to whole numbers

# (network, treatment), as patterns → why it differs. An entry that matches no difference is an error.
_TIES = (
    "means over 2 × 2 integers are ties in rounding, and a network with random weights depends on them. From the first "
    "AveragePool on, onnxruntime's optimization levels give different numbers for the file itself (12,248 of 126,440 "
    "for qdq u8u8, 14,373 of 195,152 for qdq s8s8 symmetric); the exported map and that of a graph with the gradient "
    "can have either"
)
EXPLAINED: dict[tuple[str, str], str] = {
    ("densenet", "qdq u8u8"): _TIES,
    ("densenet", "*qdq s8s8 symmetric"): _TIES,
}


# ---- References ----


@dataclass
class Reference:
    """What the gradient, the guided gradient and Grad-CAM of one picture and class should be."""

    maps: dict[str, np.ndarray]
    activations: np.ndarray  # (K, h, w) of the layer of Grad-CAM
    rough: Iterable[dict[str, Any]]  # how the same is interpreted with the noise of its precision
    interpret: Callable[..., tuple[dict[str, np.ndarray], np.ndarray]]

    @functools.cached_property
    def noise(self) -> dict[str, float]:
        """How far the noise of the precision alone moves each map; guided gradients at least as much as plain ones."""
        runs = [self.interpret(**options)[0] for options in self.rough]
        found = {m: max(distance(run[m], self.maps[m]) for run in runs) for m in METHODS}
        return found | {"guided-backprop": max(found["gradient"], found["guided-backprop"])}


class Network:
    """A float file, its pictures, and its references."""

    def __init__(self, name: str, folder: Path) -> None:
        import onnx

        from analyzer.attribution import Explainer

        self.name, self.about = name, NETWORKS[name]
        path = small_networks.file(name, folder)
        assert path is not None
        self.path = path
        self.model = onnx.load(path)
        self.image = self.model.graph.input[0].name
        self.explainer = Explainer(self.path)
        candidates = self.about.pictures(1, 4 * PICTURES)
        found = [self.explainer.explain(p[None], "grad-cam", self.about.target) for p in candidates]
        self.layer, self.map_size = found[0].layer, found[0].raw.shape[1:]
        alive = sorted(range(len(found)), key=lambda i: not found[i].raw.any())
        self.pictures = candidates[sorted(alive[:PICTURES])]  # an empty map would show nothing
        self.kept: dict[Any, Reference] = {}

    def reference(self, picture: int, target: int, kind: str) -> Reference:
        """Of the float file; `kind` says whose noise."""
        import torch

        key = (picture, target, kind == "half")
        if key not in self.kept:
            rounded = torch.float16 if kind == "half" else torch.float32
            self.kept[key] = self._reference(self.model, self.layer, picture, target, [{"rounded": rounded}])
        return self.kept[key]

    def reference_of(self, model: Any, layer: str, picture: int, target: int) -> Reference:
        """Of a quantised file."""
        return self._reference(model, layer, picture, target, [{"jitter": JITTER, "seed": s} for s in (1, 2)])

    def _reference(self, model: Any, layer: str, picture: int, target: int, rough: list[dict[str, Any]]) -> Reference:
        interpret = functools.partial(self._maps, model, layer, picture, target)
        return Reference(*interpret(), rough, interpret)

    def _maps(
        self, model: Any, layer: str, picture: int, target: int, methods: Sequence[str] = METHODS, **options: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(the maps, the activations of the layer)"""
        import torch

        from tests.straight_through import Interpreter, target_of

        outputs = [o.name for o in model.graph.output]
        strip = self.about.score is None
        targets = [target_of(model, o, strip) for o in (outputs[:1] if strip else outputs)]
        passing = frozenset().union(*(t.passing for t in targets))
        maps: dict[str, np.ndarray] = {}
        for method in methods:
            if method == "grad-cam":
                continue
            values = Interpreter(model, passing=passing, guided=method != "gradient", **options).run(
                {self.image: self.pictures[picture : picture + 1]}
            )
            score = self.about.score(values) if self.about.score else self._class(values, targets[0], target)
            if method == "gradient":
                inner, factor, shift = self._tensor(model, values, layer)
                found, slope = torch.autograd.grad(score, [values[self.image], inner])
                activations = channels_first(inner.detach().numpy() * factor + shift, self.map_size)
                weights = channels_first(slope.numpy() / factor, self.map_size).mean((1, 2), keepdims=True)
                maps["grad-cam"] = np.maximum((weights * activations).sum(0), 0)[None]
            else:
                (found,) = torch.autograd.grad(score, [values[self.image]])
            maps[method] = found.numpy()
        return maps, activations

    @staticmethod
    def _tensor(model: Any, values: dict[str, Any], layer: str) -> tuple[Any, float, float]:
        """(t, a, b): the layer is a t + b, t a tensor of the file: what quantised numbers stand for is one map,
        however many operators dequantise it for themselves.
        """
        made = {o: n for n in model.graph.node for o in n.output}
        node = made.get(layer)
        q = layer.removesuffix("_DequantizeLinear_Output") if node is None else ""
        if node is not None and node.op_type == "DequantizeLinear":
            q = node.input[0]
        if not q:
            return values[layer], 1.0, 0.0
        node = made[q]
        while node.op_type not in ZEROS:
            node = made[node.input[0]]
        scale, zero = (float(values[node.input[ZEROS[node.op_type] + i]]) for i in (-1, 0))
        return values[q], scale, -zero * scale

    def _class(self, values: dict[str, Any], at: Any, target: int) -> Any:
        logits = values[at.name] * values[at.scale].reshape(()) if at.scale else values[at.name]
        if self.name == "unet":
            return logits.mean((2, 3))[0, target]
        return logits.reshape(-1)[target]


def channels_first(tensor: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A feature map of one picture as (K, h, w); class tokens come first and are left out."""
    tensor, (high, wide) = tensor[0], size
    if tensor.ndim == 3:
        return tensor if tensor.shape[1:] == (high, wide) else np.moveaxis(tensor, -1, 0)
    return tensor[len(tensor) - high * wide :].T.reshape(-1, high, wide)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance; 0 for two maps of zeros."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    length = float(np.linalg.norm(expected))
    off = float(np.linalg.norm(found - expected))
    return off / length if length else (0.0 if off == 0 else float("inf"))


# ---- Judging one file ----


class VerdictError(Exception):
    """What ends a case: its status and why."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def bare_session(path: Path, pad_fusion: bool = False) -> Any:
    """A session of stock onnxruntime at its default level; None where it does not take the file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    off = [] if pad_fusion else ["Pad_Fusion"]
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=off)


def judge(network: Network, path: Path, kind: str) -> dict[str, Any]:
    """{status, reason, figures}: agree, refused, differs or broken (the treatment made another function)."""
    import onnx

    from analyzer.attribution import Explainer
    from analyzer.attribution.question import Job
    from analyzer.errors import AnalyzerError

    figures: dict[str, Any] = {}
    differences: list[str] = []
    try:
        bare, failure = bare_session(path), ""
    except Exception as error:
        bare, failure = None, short(error)
    given = network.pictures
    if bare is not None:
        half = bare.get_inputs()[0].type == "tensor(float16)"
        given = given.astype(np.float16) if half else given
    try:
        explainer = Explainer(path)
        name = explainer.plain.inputs[0].name
        if bare is None and explainer.plain.inputs[0].dtype == np.float16:
            given = given.astype(np.float16)
        found = [
            explainer.explain_all(given[i : i + 1], [Job(m) for m in METHODS], network.about.target)
            for i in range(PICTURES)
        ]
    except AnalyzerError as error:
        if bare is None:
            raise VerdictError("broken", f"onnxruntime cannot load it: {failure}") from None
        raise VerdictError("refused", short(error)) from None
    # Scores and classes.
    plain = bare_session(network.path)
    for i in range(PICTURES):
        own = found[i][0]
        truth = outputs(plain, network.image, network.pictures[i : i + 1])
        said = truth if bare is None else outputs(bare, name, given[i : i + 1])
        if kind == "same" and bare is not None:
            away = max(distance(a, b) for a, b in zip(said, truth, strict=True))
            if away > 1e-3:
                raise VerdictError("broken", f"its outputs differ by {away:.1e} from the float file's")
        scores = [class_scores(network, s) for s in said]
        scores = [s for s in scores if s.size == own.scores.size] or scores
        off = min(distance(own.scores, s.reshape(own.scores.shape)) for s in scores if s.size == own.scores.size)
        figures["scores"] = max(off, figures.get("scores", 0.0))
        if network.about.target == "top1" and int(scores[0].argmax()) != int(own.target[0]):
            top = np.sort(scores[0].ravel())
            tie = " (a tie)" if top[-1] == top[-2] else ""
            differences.append(f"class {own.target[0]} is explained, {int(scores[0].argmax())} is on top{tie}")
    model = onnx.load(path) if kind == "quantised" else None
    exact = model is not None and rounds(model)
    if figures["scores"] > (0.0 if exact else SCORES[kind]):
        differences.append(f"scores are {figures['scores']:.1e} away from the bare session's")
    # Maps.
    first: Reference | None = None
    best: dict[str, tuple[float, float, float]] = {}
    for i in range(PICTURES):
        target = int(found[i][0].target[0])
        layer = found[i][2].layer
        if model is None:
            reference = network.reference(i, target, kind)
        else:
            try:
                reference = network.reference_of(model, layer, i, target)
            except KeyError:
                differences.append(f"layer {layer!r} is no tensor of the file")
                break
            twin = network.reference(i, target, "same").activations
            alike = cosine(reference.activations, twin)
            figures["layer"] = min(alike, figures.get("layer", 1.0))
        first = first or reference
        least, times = ALLOWED[kind]
        for method, result in zip(METHODS, found[i], strict=True):
            off = distance(result.raw, reference.maps[method])
            allowed = least if off <= least else max(least, times * reference.noise[method])
            row = (off / allowed, off, allowed)
            best[method] = min(row, best.get(method, row))
        if all(off <= least for _, off, _ in best.values()):
            break
    for method, (ratio, off, allowed) in best.items():
        figures[method] = [off, allowed]
        if not ratio <= 1:
            differences.append(f"{method} is {off:.1e} away, {allowed:.1e} allowed")
    if figures.get("layer", 1.0) < ALIKE and plain_name(found[0][2].layer) != plain_name(network.layer):
        differences.append(f"layer {found[0][2].layer!r} instead of {network.layer!r}")
    figures["layer name"] = found[0][2].layer
    if bare is not None:
        try:
            differences += exported(network, path, name, given[:1], found[0][2], kind, first, figures)
        except VerdictError:
            if not differences:
                raise
    return {"status": "differs" if differences else "agrees", "reason": "; ".join(dict.fromkeys(differences)),
            "figures": figures}  # fmt: skip


def exported(
    network: Network, path: Path, name: str, given: np.ndarray, cam: Any, kind: str, reference: Reference | None,
    figures: dict[str, Any],
) -> list[str]:  # fmt: skip
    """What is wrong with the exported Grad-CAM in stock onnxruntime at its default level."""
    from analyzer import export
    from analyzer.errors import AnalyzerError

    target = path.with_suffix(".heat.onnx")
    try:
        export(path, target, "grad-cam", network.about.target)
    except AnalyzerError as error:
        raise VerdictError("refused", f"export: {short(error)}") from None
    try:
        heat = bare_session(target, pad_fusion=True).run(["heatmap"], {name: given})[0]
    except Exception as error:
        return [f"the exported file does not run: {short(error)}"]
    finally:
        target.unlink(missing_ok=True)
    off = float(np.abs(heat - cam.heatmap).mean())
    figures["export"] = off
    if off <= EXPORTED[kind]:
        return []
    relative = distance(heat, cam.heatmap)
    allowed = ALLOWED[kind][1] * reference.noise["grad-cam"] if reference else 0.0
    return [] if relative <= allowed else [f"the exported heatmap is {relative:.1e} away, {allowed:.1e} allowed"]


def rounds(model: Any) -> bool:
    """Whether any node computes with whole numbers; a quantiser that finds nothing to quantise leaves the file."""
    return any("Quantize" in n.op_type or n.op_type.startswith("Q") or "Integer" in n.op_type or "NBits" in n.op_type
               for n in model.graph.node)  # fmt: skip


def plain_name(layer: str) -> str:
    """What a tensor is called in the float file."""
    return re.sub(
        r"^InsertedPrecisionFreeCast_|(_QuantizeLinear_Output|_quantized)?(_DequantizeLinear_Output)?$", "", layer
    )


def outputs(session: Any, name: str, given: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(o) for o in session.run(None, {name: given})]


def class_scores(network: Network, output: np.ndarray) -> np.ndarray:
    return output.mean((2, 3)) if network.name == "unet" else output


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return 0.0
    product = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a * b).sum()) / product if product else 0.0


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


# ---- Child processes ----


def work(pipe: Any, folder: Path) -> None:
    """Carries out cases that come through the pipe; two messages each: "made", then the result."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    network, seen = None, dict[str, tuple[str, dict[str, Any]]]()
    for name, treatment in iter(pipe.recv, None):
        if network is None or network.name != name:
            network, seen = Network(name, folder), {}
        path = folder / name / f"{''.join(c if c.isalnum() else '_' for c in treatment)}.onnx"
        path.parent.mkdir(exist_ok=True)
        about = TREATMENTS[treatment]
        try:
            if not path.exists():
                partial = path.with_suffix(".partial.onnx")
                partial.unlink(missing_ok=True)
                about.make(name, network.path, partial)
                partial.rename(path)
        except Exception as error:
            pipe.send("made")
            pipe.send({"status": "no file", "reason": f"{type(error).__name__}: {short(error)}", "figures": {}})
            continue
        pipe.send("made")
        key = content(path)
        if key in seen and seen[key][0] == about.kind:
            pipe.send(seen[key][1])
            continue
        try:
            result = judge(network, path, about.kind)
        except VerdictError as verdict:
            result = {"status": verdict.status, "reason": verdict.reason, "figures": {}}
        except NotImplementedError as error:
            result = {"status": "unjudged", "reason": f"the interpreter lacks {error}", "figures": {}}
        except Exception as error:
            result = {"status": "differs", "reason": f"{type(error).__name__}: {short(error)}", "figures": {}}
        seen[key] = (about.kind, result)
        pipe.send(result)


def content(path: Path) -> str:
    """Hash of a file but for who made it."""
    import onnx

    model = onnx.load(path)
    model.producer_name = model.producer_version = ""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


class Worker:
    """A child process; another one takes its place when it dies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process, self.pipe = folder, None, None

    def run(self, network: str, treatment: str) -> dict[str, Any]:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=work, args=(other, self.folder), daemon=True)
            self.process.start()
            other.close()
        self.pipe.send((network, treatment))
        made = False
        try:
            for _ in range(2):
                if not self.pipe.poll(PATIENCE):
                    raise TimeoutError
                message = self.pipe.recv()
                if isinstance(message, dict):
                    return message
                made = True
        except (EOFError, OSError, TimeoutError) as error:
            code = None if isinstance(error, TimeoutError) else self.process.exitcode
            self.close()
            why = f"not done after {PATIENCE} s" if isinstance(error, TimeoutError) else f"the process died ({code})"
            return {"status": "differs" if made else "no file", "reason": why, "figures": {}}
        raise AssertionError("two messages, the second one a result")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


# ---- The section of the documentation ----

STATUSES = ("agrees", "refused", "differs", "unjudged")
INTRODUCTION = """## Converted files

`python -m benchmarks.treated` applies {treatments} settings of converters, quantizers, optimizers and simplifiers to
{networks} small networks. Weights are random, except for the digits networks (the demo models) and keras (from the
corpus). Every resulting file is explained and checked:

- Input gradient, guided backpropagation and Grad-CAM at the default layer, compared with torch's autograd in
  float64: of the float32 file if the conversion keeps the mathematics or rounds to float16, otherwise of the converted
  file as read by `tests/straight_through.py` (rounding counts as the identity; saturated values have gradient 0).
  Relative L2 distance ≤ 1e-4, for float16 2e-3, for quantized files 1e-3; or, if larger, ten times (float32) or three
  times the effect of the precision alone on the reference: tensors rounded to the type, or a change of 1e-4 steps
  before each rounding, which flips ties and near ties. At least one of three pictures must agree.
- The default layer has the name of the float32 file's, or its activations (cosine ≥ 0.95).
- The top class and the scores agree with a plain session of the file: bit-identical for quantized files, within 2e-5
  for float32 and 5e-3 for float16.
- The exported Grad-CAM runs in a plain session at its default level and has the same heatmap: mean absolute difference
  ≤ 1e-3, for float16 2e-2, for quantized files 5e-2, or within the noise of the map.

Entries are the numbers of files that agree, and of those that are refused or differ.
"""


def section(rows: list[dict[str, Any]]) -> str:
    groups = list(dict.fromkeys(t.group for t in TREATMENTS.values()))
    names = list(dict.fromkeys(r["network"] for r in rows))
    introduction = INTRODUCTION.format(networks=len(names), treatments=len({r["treatment"] for r in rows}))
    lines = [introduction, "| network | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for name in [*names, "all"]:
        own = [r for r in rows if name in (r["network"], "all")]
        cells = [cell([r for r in own if TREATMENTS[r["treatment"]].group == g]) for g in groups]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    total = Counter(r["status"] for r in rows)
    lines += ["", wrapped(
        f"{sum(total[s] for s in STATUSES)} files: {total['agrees']} agree, {total['refused']} are refused, "
        f"{total['differs']} differ. Not counted: in {total['no file']} cases the tool refuses; in {total['broken']} "
        f"its file computes another function, or onnxruntime cannot load it. {tightness(rows)}"
    )]  # fmt: skip
    for status, title in (("refused", "Refused"), ("differs", "Different"), ("unjudged", "Not judged"),
                          ("broken", "Conversions that failed because of the tool")):  # fmt: skip
        found = [r for r in rows if r["status"] == status]
        if found:
            lines += ["", f"{title}:", ""]
            lines += [wrapped(f"- {cases}: {reason}") for reason, cases in grouped(found, status)]
    return "\n".join(lines)


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent="  " if text[0] == "-" else "", break_long_words=False)


def tightness(rows: list[dict[str, Any]]) -> str:
    """How near the gradients of the files are that agree."""
    parts = []
    for kind, (least, _) in ALLOWED.items():
        own = [r for r in rows if r["status"] == "agrees" and TREATMENTS[r["treatment"]].kind == kind]
        away = sorted(r["figures"]["gradient"][0] for r in own)
        if away:
            within = sum(a <= least for a in away)
            parts.append(
                f"{kind}: median distance of the gradient {away[len(away) // 2]:.0e}, {within} of {len(away)} within "
                f"{least:.0e}"
            )
    return "Among those that agree: " + "; ".join(parts) + ". The others are within the noise of their precision."


def cell(rows: list[dict[str, Any]]) -> str:
    count = Counter(r["status"] for r in rows)
    parts = [str(count["agrees"])] + [f"{count[s]} {s}" for s in STATUSES[1:] if count[s]]
    return ", ".join(parts) if any(count[s] for s in STATUSES) else "–"


def grouped(rows: Iterable[dict[str, Any]], status: str) -> list[tuple[str, str]]:
    """(reason, the cases that share it); a difference by its explanation where it has one."""
    found: dict[str, list[str]] = {}
    for row in rows:
        reason = explanation(row) if status == "differs" else None
        found.setdefault(reason or row["reason"], []).append(f"{row['network']} × {row['treatment']}")
    return [(reason, "; ".join(cases)) for reason, cases in found.items()]


def explanation(row: dict[str, Any]) -> str | None:
    for (network, treatment), reason in EXPLAINED.items():
        if fnmatch.fnmatchcase(row["network"], network) and fnmatch.fnmatchcase(row["treatment"], treatment):
            return reason
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="*", help="Patterns, separated by commas. Default: all.")
    parser.add_argument("--treatments", default="*", help="Patterns, separated by semicolons. Default: all.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="Networks, treated files, journal.")
    parser.add_argument(
        "--again", action="store_true", help="Judge the cases named anew; files that exist are used again."
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    journal = given.folder / "journal.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {(r["network"], r["treatment"]): r for r in map(json.loads, lines)}
    wanted = [
        (n, t)
        for n in NETWORKS
        for t in TREATMENTS
        if any(fnmatch.fnmatchcase(n, p) for p in given.networks.split(","))
        and any(fnmatch.fnmatchcase(t, p) for p in given.treatments.split(";"))
    ]
    if given.again:
        done = {k: r for k, r in done.items() if k not in wanted}
        journal.write_text("".join(json.dumps(r) + "\n" for r in done.values()))
    worker = Worker(given.folder)
    absent = set()
    for network, treatment in wanted:
        if (network, treatment) in done or network in absent:
            continue
        if network not in absent and small_networks.file(network, given.folder) is None:
            absent.add(network)
            continue
        start = time.time()
        row = {"network": network, "treatment": treatment} | worker.run(network, treatment)
        row["seconds"] = round(time.time() - start, 2)
        done[network, treatment] = row
        with journal.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{network} × {treatment}: {row['status']} {row['reason']} ({row['seconds']} s)",
            file=sys.stderr,
            flush=True,
        )
    worker.close()
    rows = [done[k] for k in wanted if k in done]
    print(section(rows))
    differing = [r for r in rows if r["status"] == "differs"]
    used = {k for k in EXPLAINED for r in differing if explanation(r) == EXPLAINED[k]}
    stale = [k for k in EXPLAINED if k not in used and given.networks == given.treatments == "*"]
    for key in stale:
        print(f"EXPLAINED: nothing differs at {key}", file=sys.stderr)
    sys.exit(bool(stale) or any(explanation(r) is None for r in differing))


if __name__ == "__main__":
    main()
