"""Whether `compare` finds injected faults, names their place first, and reports nothing for sound conversions.

    python -m benchmarks.faults --half dev|held [--draw 1] [--minutes 25] [--only TEXT] [--limit N] [--folder FOLDER]

Cases are (network, fault) and (network, conversion); a hash of both names puts each into the half that `compare` was
developed on or the half that is kept for the figures, and orders the cases of a half, so that a run that is cut off
has an unbiased sample. Every case is one `analyzer.compare` of two files on four pictures, with default thresholds.
Results are kept in a journal below FOLDER; a second run goes on. Prints two tables.

Needs `pip install '.[torch]' onnxconverter-common onnxsim onnxoptimizer` and the corpus beside the checkout.

A fault counts if, on any of the pictures and in a bare session of onnxruntime, it changes an output by 5 % (L2) or
more, of an INT8 build by more than rounding to eight bits may, or makes an output infinite. A conversion counts if it
changes no output by more than `ROUNDING` allows, and no top class. Others say nothing about `compare` and are left out.
The change of an output is the largest over its slices along the shortest axis.

The first finding names the right place if each name in its `where` is one of

- the node, weight, tensor or output that was changed, under its name in either file;
- for a node whose output is no layer that is compared: the nearest compared layers or outputs after it on each path;
- for a picture that is fed otherwise, inside the file or by its card, also `input-differs`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.compared_networks import COMPARED, NETWORKS, ROOT, Network, pictures
from benchmarks.edited import Edited
from benchmarks.injected import IN_FILE, PREPROCESSING, QUANTISED, out_of_range
from benchmarks.sound_builds import KINDS, SOUND, UnsuitableError, nameless, to_int8

FOLDER = Path(__file__).parent / "cache" / "faults"
EFFECT = 0.05  # relative L2 change of an output from which a fault counts
ROUNDING = {"same": 1e-3, "half": 0.02, "quantized": 0.15}  # the same, up to which a conversion is sound
SAME_OF_LOGITS = ("output + 1", "sigmoid of an output")
OVERFLOW = "FP16: values beyond 65,504"


@dataclass(frozen=True)
class Case:
    """`kind` is "fault" or "sound"; `draw` chooses the layer that a fault is injected into."""

    kind: str
    network: str
    name: str
    draw: int = 0

    @property
    def hash(self) -> int:
        return int(hashlib.sha256(f"{self.network}/{self.name}".encode()).hexdigest(), 16)

    @property
    def drawn(self) -> int:
        """What chooses the place of a fault."""
        return int(hashlib.sha256(f"{self.hash}/{self.draw}".encode()).hexdigest(), 16) if self.draw else self.hash

    @property
    def half(self) -> str:
        return ("dev", "held")[self.hash & 1]

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.drawn >> 8 & 0xFFFFFFFF)

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.network}-{self.hash:x}"[:40]


def cases(draw: int = 0) -> list[Case]:
    """All of them, in the order of their hashes."""
    faults = (*IN_FILE, *PREPROCESSING, *QUANTISED, OVERFLOW)
    found = [Case("fault", network, name, draw) for network in NETWORKS for name in faults]
    found += [Case("sound", network, name, draw) for network in NETWORKS for name in SOUND]
    found = [case for case in found if not (case.hash >> 64) % NETWORKS[case.network].every]
    return sorted(found, key=lambda case: case.hash)


# ---- Files ----


def write_card(path: Path, network: Network, told: dict[str, Any] | None = None) -> None:
    """The card beside a file: of a shipped model its own, else the network's; with other keys of `told`."""
    shipped = tomllib.loads((ROOT / "models" / "models.toml").read_text()).get(network.file, {})
    row = {k: shipped[k] for k in ("task", "labels", "decode", "outputs") if k in shipped}
    how = dict(network.card or shipped.get("preprocess") or {"preset": "0-1"})
    if told and "preset" in told:
        how = {k: v for k, v in how.items() if k not in ("scale", "mean", "std")}
    how |= told or {}
    lines = [f"{key} = {_toml(value)}" for key, value in (row | {"preprocess": how}).items()]
    path.with_suffix(".toml").write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def kept_pictures(kind: str, folder: Path) -> list[np.ndarray]:
    """`pictures(kind)`, made once: composing them takes longer than a case."""
    path = folder / f"{kind}.npz"
    if not path.exists():
        np.savez(path, *pictures(kind))
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


class Prepared:
    """A network's reference file, its pictures on disk, and what a bare session says of them."""

    def __init__(self, name: str, folder: Path) -> None:
        import cv2

        self.network, self.folder = NETWORKS[name], folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference = self.folder / "reference.onnx"
        if not self.reference.exists():
            onnx.save(onnx.load(self.network.path), self.reference)
        write_card(self.reference, self.network)
        shown = kept_pictures(self.network.pictures, folder)
        self.given, self.others = shown[:COMPARED], shown[COMPARED:]
        self.shown = [self.folder / f"picture{i}.png" for i in range(COMPARED)]
        for path, pixels in zip(self.shown, shown, strict=False):
            if not path.exists():
                cv2.imwrite(str(path), pixels[..., ::-1])
        self.known: list[dict[str, np.ndarray]] | None = None

    @property
    def said(self) -> list[dict[str, np.ndarray]]:
        """The reference's outputs."""
        if self.known is None:
            self.known = self.outputs(self.reference)
        return self.known

    def feeds(self, file: Path, given: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """What a session of a file takes for pictures, by the card beside it."""
        from analyzer.images import model_card

        name = Edited(onnx.load(file, load_external_data=False)).image.name
        how = model_card(file).preprocess
        return [{name: how.apply(pixels)[0]} for pixels in given]

    def outputs(self, file: Path) -> list[dict[str, np.ndarray]]:
        """Every output for every picture, by stock onnxruntime."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        # Pad_Fusion is wrong for a zero Pad before MaxPool, see docs/architecture.md.
        session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])
        names = [o.name for o in session.get_outputs()]
        half = session.get_inputs()[0].type == "tensor(float16)"
        found = []
        for feeds in self.feeds(file, self.given):
            given = {n: a.astype(np.float16) if half else a for n, a in feeds.items()}
            found.append(dict(zip(names, map(np.asarray, session.run(names, given)), strict=True)))
        return found

    def change(
        self, before: Sequence[dict[str, np.ndarray]], after: Sequence[dict[str, np.ndarray]], classes: bool = False
    ) -> float:
        """The largest relative change of an output, L2; ∞ where a shape, finiteness or (`classes`) top class does."""
        worst = 0.0
        for ours, theirs in zip(before, after, strict=True):
            for index, (name, a) in enumerate(ours.items()):
                b = theirs[name]
                if a.shape != b.shape or np.isfinite(a).all() != np.isfinite(b).all():
                    return float("inf")
                if classes and index == 0 and self.network.classes and a.argmax() != b.argmax():
                    return float("inf")
                worst = max(worst, relative_change(a.astype(np.float64), b.astype(np.float64)))
        return worst


def relative_change(a: np.ndarray, b: np.ndarray) -> float:
    """‖a − b‖ / ‖a‖, the largest over the slices along the shortest axis: scores are not hidden by coordinates.

    Slices whose norm is less than a thousandth of the largest one's count as of that size.
    """
    axes = [i for i in range(1, a.ndim) if a.shape[i] > 1]
    if a.ndim > 2 and axes:
        axis = min(axes, key=lambda i: a.shape[i])
        a, b = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (a, b))
    else:
        a, b = a.reshape(1, -1), b.reshape(1, -1)
    norms = np.linalg.norm(a, axis=1)
    return float((np.linalg.norm(a - b, axis=1) / (np.maximum(norms, norms.max() / 1000) + 1e-30)).max())


# ---- Making a case ----


@dataclass
class Made:
    """Two files, what is known to be wrong, and how far their outputs are apart."""

    reference: Path
    candidate: Path
    places: set[str]
    by_input: bool
    change: float


def make(case: Case, prepared: Prepared) -> Made:
    """Raises: UnsuitableError: the network has nothing of the kind."""
    if case.kind == "sound":
        return made_sound(case, prepared)
    if case.name in PREPROCESSING:
        return made_fed(case, prepared)
    if case.name in QUANTISED:
        return made_quantised(case, prepared)
    if case.name == OVERFLOW:
        return made_overflow(case, prepared)
    if prepared.network.logits and case.name in SAME_OF_LOGITS:
        raise UnsuitableError
    rng, candidate = case.rng, prepared.folder / f"{case.file}.onnx"
    file = Edited(onnx.load(prepared.reference))
    places = IN_FILE[case.name](file, rng)
    if places is None:
        raise UnsuitableError
    inside = places == {file.image.name}
    if rng.random() < 0.25:  # the faulty build lost its names, as by another exporter
        nameless(file)
    onnx.save(file.finished(), candidate)
    write_card(candidate, prepared.network)
    change = prepared.change(prepared.said, prepared.outputs(candidate))
    return Made(prepared.reference, candidate, places, inside, change)


def made_sound(case: Case, prepared: Prepared) -> Made:
    if KINDS[case.name] == "quantized" and prepared.network.file.startswith("situations"):
        raise UnsuitableError  # weights set by hand: no scale is good for them
    if case.name == "probabilities instead of logits" and not prepared.network.classes:
        raise UnsuitableError
    candidate = prepared.folder / f"{case.file}.onnx"
    calibration = prepared.feeds(prepared.reference, prepared.others)
    told = SOUND[case.name](prepared.reference, calibration, candidate)
    write_card(candidate, prepared.network, told)
    before, after = prepared.said, prepared.outputs(candidate)
    if case.name in ("probabilities instead of logits", "logits instead of probabilities"):
        return Made(prepared.reference, candidate, set(), False, 0.0)  # exact by construction, other numbers by purpose
    return Made(prepared.reference, candidate, set(), False, prepared.change(before, after, True))


def made_fed(case: Case, prepared: Prepared) -> Made:
    from analyzer.images import model_card

    card = prepared.network.card or {"preset": "imagenet", "resize": "resize"}
    told = PREPROCESSING[case.name](card)
    if told is None or (model_card(prepared.reference).preprocess.channels == "GRAY" and "channels" in told):
        raise UnsuitableError
    candidate = prepared.folder / f"{case.file}.onnx"
    onnx.save(onnx.load(prepared.reference), candidate)
    write_card(candidate, prepared.network, told)
    change = prepared.change(prepared.said, prepared.outputs(candidate))
    return Made(prepared.reference, candidate, {Edited(onnx.load(candidate)).image.name}, True, change)


def made_quantised(case: Case, prepared: Prepared) -> Made:
    if prepared.network.file.startswith("situations"):
        raise UnsuitableError
    sound = prepared.folder / "int8.onnx"
    if not sound.exists():
        to_int8(prepared.reference, prepared.feeds(prepared.reference, prepared.others), sound, "QDQ", "QUInt8")
        write_card(sound, prepared.network)
    file = Edited(onnx.load(sound))
    places = QUANTISED[case.name](file, case.rng)
    before = prepared.outputs(sound)
    if places is None or prepared.change(prepared.said, before, True) > ROUNDING["quantized"]:
        raise UnsuitableError
    candidate = prepared.folder / f"{case.file}.onnx"
    onnx.save(file.finished(), candidate)
    write_card(candidate, prepared.network)
    by_input = file.image.name in places  # its quantizer is the input's scale
    return Made(prepared.reference, candidate, places, by_input, prepared.change(before, prepared.outputs(candidate)))


def made_overflow(case: Case, prepared: Prepared) -> Made:
    file = Edited(onnx.load(prepared.reference))
    places = out_of_range(file, case.rng)
    if places is None:
        raise UnsuitableError
    reference, candidate = (prepared.folder / f"{case.file}{end}.onnx" for end in ("-wide", ""))
    onnx.save(file.finished(), reference)
    write_card(reference, prepared.network)
    SOUND["FP16 by onnxconverter-common"](reference, [], candidate)
    write_card(candidate, prepared.network)
    change = prepared.change(prepared.outputs(reference), prepared.outputs(candidate))
    return Made(reference, candidate, places, False, change)


# ---- Judging ----


def nearest(file: Path, places: set[str], compared: set[str]) -> set[str]:
    """`places`, the weights of their nodes, and the first compared tensors after them, on each path."""
    graph = onnx.load(file, load_external_data=False).graph
    found, ahead, seen = set(places), [], set()
    weights = {t.name for t in graph.initializer}
    for node in graph.node:
        if node.name in places or places & set(node.output):
            ahead += node.output
            found |= weights & set(node.input)
    ahead += places & {i.name for i in graph.input if i.name not in weights}
    seen.update(ahead)
    while ahead:
        name = ahead.pop()
        if name in compared:
            found.add(name)
            continue
        for node in graph.node:
            if name in node.input:
                ahead += [o for o in node.output if o not in seen]
                seen.update(node.output)
    return found


def judged(made: Made, prepared: Prepared) -> dict[str, Any]:
    """The findings of the comparison, and the names that are right."""
    import analyzer

    start = time.perf_counter()
    done = analyzer.compare(
        str(made.reference), str(made.candidate), [str(p) for p in prepared.shown], "grad-cam", workers=1
    )
    report = done.report
    compared = {row["layer"] for row in report["layers"]} | {row["output"] for row in report["compared"]}
    right = nearest(made.reference, made.places, compared) if made.places else set()
    found = done.findings or []
    return {
        "findings": [{k: f[k] for k in ("code", "where", "value", "words")} for f in found],
        "right": sorted(right),
        "by_input": made.by_input,
        "layers": {row["layer"]: [row["sqnr_db"], row["cosine"]] for row in report["layers"]},
        "seconds": round(time.perf_counter() - start, 2),
    }


def run(case: Case, prepared: Prepared) -> dict[str, Any]:
    """{status, …}: "judged", "unsuitable" (nothing of the kind, or of no effect), "no file" (a tool refused)."""
    about = {"kind": case.kind, "network": case.network, "name": case.name}
    try:
        made = make(case, prepared)
    except UnsuitableError:
        return about | {"status": "unsuitable", "why": "nothing of the kind"}
    except Exception as error:
        return about | {"status": "no file", "why": f"{type(error).__name__}: {error}"[:300]}
    about["change"] = made.change if np.isfinite(made.change) else str(made.change)
    least = ROUNDING["quantized"] if case.name in QUANTISED else EFFECT
    if case.kind == "fault" and made.change < least:
        return about | {"status": "unsuitable", "why": "changes no output"}
    if case.kind == "sound" and not made.change <= ROUNDING[KINDS[case.name]]:
        return about | {"status": "unsuitable", "why": "changes outputs"}
    try:
        return about | {"status": "judged"} | judged(made, prepared)
    except Exception as error:
        traceback.print_exc()
        return about | {"status": "judged", "findings": [], "right": [], "error": f"{type(error).__name__}: {error}"}


def located(result: dict[str, Any]) -> bool:
    """Whether the first finding names the right place, and nothing else."""
    if not result["findings"]:
        return False
    first = result["findings"][0]
    if result["by_input"] and first["code"] == "input-differs":
        return True
    names = [first["where"]] if first["where"] in result["right"] else first["where"].split(", ")
    return set(names) <= set(result["right"])


# ---- Tables ----


def group_of(name: str) -> str:
    """The row of the table that a fault belongs to."""
    if name in PREPROCESSING or name.endswith("in the file"):
        return "preprocessing, by the card or inside the file"
    if name in QUANTISED:
        return "INT8: scales, zero points, ranges"
    if name == OVERFLOW:
        return "FP16: overflow"
    order = list(IN_FILE)
    if order.index(name) <= order.index("bias of reversed channels"):
        return "weights and biases"
    if order.index(name) <= order.index("slope of a leaky activation × 4"):
        return "normalization and activations"
    if order.index(name) <= order.index("two branches of a Concat exchanged"):
        return "padding, pooling, resizing, branches"
    return "outputs: scaled, shifted, permuted, saturated; anchors"


def conversion_of(name: str) -> str:
    if KINDS[name] == "half":
        return "FP16, by two converters"
    if KINDS[name] == "quantized":
        return "INT8 per channel: QDQ, QOperator, optimized"
    order = list(SOUND)
    if name.startswith(("onnx", "opset")):
        return "onnxruntime's levels, onnxsim, onnxoptimizer, opsets"
    if order.index(name) <= order.index("outputs in another order"):
        return "names, order, storage"
    if order.index(name) <= order.index("bias of convolutions as Add"):
        return "operators written otherwise, layouts, folded normalization"
    return "Softmax added or dropped; the picture's form"


def table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    faults = [r for r in results if r["kind"] == "fault" and r["status"] == "judged"]
    yield "| fault | injected | found | right place first |\n|---|---|---|---|"
    for group in [*dict.fromkeys(map(group_of, (*IN_FILE, *PREPROCESSING, *QUANTISED, OVERFLOW))), "all"]:
        rows = [r for r in faults if group in ("all", group_of(r["name"]))]
        found, right = sum(bool(r["findings"]) for r in rows), sum(map(located, rows))
        said = [f"{n} ({n / len(rows):.1%})" if group == "all" and rows else str(n) for n in (found, right)]
        if rows:
            yield f"| {group} | {len(rows)} | {' | '.join(said)} |"
    sound = [r for r in results if r["kind"] == "sound" and r["status"] == "judged"]
    yield "\n| sound build | builds | false positives |\n|---|---|---|"
    for group in [*dict.fromkeys(map(conversion_of, SOUND)), "all"]:
        rows = [r for r in sound if group in ("all", conversion_of(r["name"]))]
        if rows:
            yield f"| {group} | {len(rows)} | {sum(bool(r['findings'] or 'error' in r) for r in rows)} |"
    left = Counter((r["kind"], r.get("why", "")[:24]) for r in results if r["status"] == "unsuitable")
    refused = sum(r["status"] == "no file" for r in results)
    networks = len({r["network"] for r in (*faults, *sound)})
    words = ", ".join(f"{count} {kind}: {why}" for (kind, why), count in sorted(left.items()))
    yield f"\n{networks} networks. Left out: {words}; {refused} conversions that their tool refuses."


def failures(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line for every case that went wrong."""
    for r in results:
        if r["status"] != "judged":
            continue
        said = "; ".join(f"{f['code']} at {f['where']!r} ({f['value']:.3g})" for f in r["findings"][:3]) or "passes"
        said = r.get("error", said)
        if r["kind"] == "sound" and (r["findings"] or "error" in r):
            yield f"FALSE POSITIVE | {r['network']} | {r['name']} | {said}"
        elif r["kind"] == "fault" and not located(r):
            kind = "MISSED" if not r["findings"] else "WRONG PLACE"
            yield f"{kind} | {r['network']} | {r['name']} | {said} | right: {', '.join(r['right'][:6])}"


# ---- Running ----


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("dev", "held"), required=True)
    parser.add_argument("--only", default="", help="cases whose 'kind network: name' contains this")
    parser.add_argument("--limit", type=int, default=10**9, help="at most so many judged cases")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no case after so many minutes")
    parser.add_argument("--draw", type=int, default=0, help="another number: other layers get the faults")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every N-th case, from I: for N processes")
    parser.add_argument("--again", action="store_true", help="run cases that are in the journal, too")
    parser.add_argument("--failed", action="store_true", help="with --again: only those that went wrong")
    parser.add_argument("--keep", action="store_true", help="keep the candidates' files")
    parser.add_argument("--table", action="store_true", help="run nothing; print the tables of the journal")
    given = parser.parse_args()
    os.environ.setdefault("ONNX_ANALYZER_CACHE", "")
    warnings.simplefilter("ignore")
    journal = given.folder / (f"journal-{given.half}" + (f"-{given.draw}" if given.draw else ""))
    journal.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, given.part.split("/"))
    taken = [c for c in cases(given.draw) if c.half == given.half and given.only in f"{c.kind} {c.network}: {c.name}"]
    prepared: dict[str, Prepared] = {}
    start, judged_cases, results = time.monotonic(), 0, []
    for index, case in enumerate(taken):
        entry = journal / f"{case.file}.json"
        known = json.loads(entry.read_text()) if entry.exists() else None
        wrong = known is not None and any(failures([known]))
        mine = index % parts == part and not given.table
        if mine and (known is None or (given.again and (wrong or not given.failed))):
            if judged_cases >= given.limit or time.monotonic() - start > 60 * given.minutes:
                if known is not None:
                    results.append(known)
                continue
            if case.network not in prepared:
                prepared[case.network] = Prepared(case.network, given.folder)
            known = run(case, prepared[case.network])
            entry.write_text(json.dumps(known, indent=1, ensure_ascii=False))
            judged_cases += known["status"] == "judged"
            for line in failures([known]):
                print(line, file=sys.stderr, flush=True)
            if not given.keep:
                for path in prepared[case.network].folder.glob(f"{case.file}*"):
                    path.unlink()
        if known is not None:
            results.append(known)
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
