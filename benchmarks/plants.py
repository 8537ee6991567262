"""Whether `compare` finds injected faults, names their cause, and reports nothing for correct conversions.

    python -m benchmarks.plants [--pictures 16] [--verbose]

Every fault changes one thing of an included model; every correct build is the same model, converted. Needs the
pictures' packages: pip install '.[torch]'. A fault is found if there is any finding, and named if the first finding
points to the weight, the quantiser, the preprocessing, or the first compared layer that depends on the changed weight.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from analyzer.images import model_card
from analyzer.validation import Finding, Pair, Side, Thresholds, compare, judge

ROOT = Path(__file__).resolve().parents[1]
CNN, VIT = (ROOT / "models" / f"{name}.onnx" for name in ("digits_cnn", "digits_vit"))
INT8 = CNN.with_name("digits_cnn_int8.onnx")
STRENGTHS = (0.1, 0.3, 1.0)  # ‖ΔW‖ / ‖W‖
INTERFACE = ("image", "probabilities")


@dataclass(frozen=True)
class Build:
    """A candidate: `planted` names what findings may point to (empty for correct builds), `feed` changes its input."""

    kind: str
    reference: Path
    model: onnx.ModelProto | Path
    planted: frozenset[str] = frozenset()
    codes: tuple[str, ...] = ()
    feed: Callable[[np.ndarray], np.ndarray] = lambda x: x


# ---- Injected faults ----


def plants() -> Iterator[Build]:
    """Every defect."""
    for reference in (CNN, VIT):
        for strength in STRENGTHS:
            for index, name in enumerate(weights_of(onnx.load(reference))[:: 1 if reference == CNN else 4]):
                model = perturbed(onnx.load(reference), name, strength, index)
                yield Build(f"weight of a layer, {strength:.0%}", reference, model, frozenset({name}))
                renamed = anonymous(model)
                downstream = frozenset({name, *first_dependent(reference, name)})
                yield Build(f"weight of a layer, {strength:.0%}, names lost", reference, renamed, downstream)
    for name in weights_of(onnx.load(CNN)):
        for factor in (1.5, 3.0):
            model, scale = scaled(onnx.load(INT8), f"{name}_scale", factor)
            if scale:
                yield Build(f"INT8, scale of a weight × {factor}", CNN, model, frozenset({name}))
    for name in quantisers(onnx.load(INT8)):
        for factor in (3.0, 8.0):
            model, _ = scaled(onnx.load(INT8), name, 1 / factor)
            layer = name.removesuffix("_scale")
            yield Build(f"INT8, range of an activation ÷ {factor:.0f}", CNN, model, frozenset({layer}))
    yield from input_plants()


def input_plants() -> Iterator[Build]:
    """Wrong preprocessing, and channels swapped inside the file."""
    for reference in (CNN, VIT):
        swapped = onnx.load(reference)
        name = weights_of(swapped)[0]
        replace(swapped, name, lambda w: w[:, ::-1])
        yield Build("channels of the first weight swapped", reference, swapped, frozenset({name}))
        for kind, change in (
            ("mean and std of 0–1", lambda x: x * 0.226 + 0.449),
            ("mean and std of −1–1", lambda x: (x * 0.226 + 0.449) * 2 - 1),
            ("pixels 0–255", lambda x: (x * 0.226 + 0.449) * 255),
        ):
            yield Build(f"preprocessing: {kind}", reference, reference, frozenset({"scale"}), feed=change)
        yield Build("preprocessing: BGR", reference, reference, frozenset({"channels"}), feed=lambda x: x[:, ::-1])
        yield Build(
            "preprocessing: shifted crop", reference, reference, frozenset({"values"}), feed=lambda x: np.roll(x, 4, -1)
        )


def weights_of(model: onnx.ModelProto) -> list[str]:
    """Weights of convolutions and matrix products, in the order of the graph."""
    known = {t.name: t for t in model.graph.initializer}
    used = [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in known]
    return [n for n in dict.fromkeys(used) if len(known[n].dims) >= 2]


def quantisers(model: onnx.ModelProto) -> list[str]:
    """Scales of quantised activations between the first and the last layer."""
    produced = {o for n in model.graph.node for o in n.output}
    found = [n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in produced]
    return [n for n in dict.fromkeys(found) if "probabilities" not in n and "Shape" not in n]


def replace(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.array(change(array), array.dtype, order="C"), name))
            return True
    return False


def perturbed(model: onnx.ModelProto, name: str, strength: float, seed: int) -> onnx.ModelProto:
    def change(weight: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(weight.shape)
        return weight + noise * (strength * np.linalg.norm(weight) / np.linalg.norm(noise))

    replace(model, name, change)
    return model


def scaled(model: onnx.ModelProto, name: str, factor: float) -> tuple[onnx.ModelProto, bool]:
    return model, replace(model, name, lambda s: s * factor)


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every name but the interface's replaced."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    names: dict[str, str] = {}

    def fresh(name: str) -> str:
        return name if name in INTERFACE or not name else names.setdefault(name, f"t{len(names)}")

    for tensor in new.graph.initializer:
        tensor.name = fresh(tensor.name)
    for index, node in enumerate(new.graph.node):
        node.name = f"n{index}"
        node.input[:] = [fresh(n) for n in node.input]
        node.output[:] = [fresh(n) for n in node.output]
    del new.graph.value_info[:]
    return new


def first_dependent(path: Path, weight: str) -> list[str]:
    """The compared layers nearest behind a weight: up to the first that all its paths lead into."""
    graph = onnx.load(path).graph
    side = kept(path, (1, 3, 96, 96))
    reached, found = {weight}, []
    for node in graph.node:
        if reached & set(node.input):
            reached.update(node.output)
    for layer in side.layers:
        if layer in reached:
            found.append(layer)
        if len(found) == 2:
            break
    return found


# ---- Sound builds ----


def sound(folder: Path) -> Iterator[Build]:
    """Every conversion."""
    for kind in ("fp16", "int8", "dynamo"):
        yield Build(f"shipped {kind}", CNN, CNN.with_name(f"digits_cnn_{kind}.onnx"))
    yield Build("shipped INT8 against FP16", CNN.with_name("digits_cnn_fp16.onnx"), INT8)
    yield Build("shipped INT8 against dynamo", CNN.with_name("digits_cnn_dynamo.onnx"), INT8)
    yield Build(
        "shipped FP16 against dynamo", CNN.with_name("digits_cnn_dynamo.onnx"), INT8.with_name("digits_cnn_fp16.onnx")
    )
    yield Build("normalisation folded", split_off(CNN, folder), CNN)
    yield Build("normalisation split off", CNN, split_off(CNN, folder))
    for path in (CNN, VIT, INT8, *(CNN.with_name(f"digits_cnn_{k}.onnx") for k in ("fp16", "dynamo"))):
        reference = VIT if path == VIT else CNN
        for level in ("basic", "extended"):
            yield Build(f"onnxruntime {level}", reference, optimised(path, level, folder))
        for opset in (19, 21, 23):
            yield Build(f"opset {opset}", reference, version_converter.convert_version(onnx.load(path), opset))
        yield Build("names lost", reference, anonymous(onnx.load(path)))


def split_off(path: Path, folder: Path) -> Path:
    """The same function with a BatchNormalization behind every convolution, whose scale the weights lose."""
    model, nodes = onnx.load(path), []
    rng = np.random.default_rng(0)
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Conv":
            shape = next(list(t.dims) for t in model.graph.initializer if t.name == node.input[1])
            scale = rng.uniform(0.3, 3, shape[0]).astype(np.float32)
            bias = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == node.input[2])
            replace(model, node.input[1], lambda w, s=scale: w / s.reshape(-1, 1, 1, 1))
            replace(model, node.input[2], lambda b: b * 0)
            own = {"scale": scale, "bias": bias, "mean": bias * 0, "var": bias * 0 + 1}
            names = [f"{node.name}/{key}" for key in own]
            model.graph.initializer.extend(map(numpy_helper.from_array, own.values(), names))
            output = node.output[0]
            node.output[0] = f"{output}/convolved"
            nodes.append(onnx.helper.make_node("BatchNormalization", [node.output[0], *names], [output], epsilon=1e-12))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    file = folder / f"{path.stem}_split.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), file)
    return file


def optimised(path: Path, level: str, folder: Path) -> Path:
    """The file that onnxruntime writes of its optimised graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = {
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    }[level]
    options.optimized_model_filepath = str(folder / f"{path.stem}_{level}.onnx")
    ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])
    return Path(options.optimized_model_filepath)


# ---- Judging ----


def arrays(reference: Path, count: int) -> list[np.ndarray]:
    """Held-out pictures as the model takes them."""
    sys.path.insert(0, str(ROOT / "models"))
    from pictures import Composer

    preprocess = model_card(reference).preprocess
    return [preprocess.apply(p.pixels)[0] for p in Composer("held-out", 5).batch(count)]


@functools.cache
def kept(path: Path, shape: tuple[int, ...]) -> Side:
    """A reference, whose sessions serve all its candidates."""
    return Side(path, shape, threads=1)


def findings(build: Build, given: list[np.ndarray]) -> list[Finding]:
    sides = [kept(build.reference, given[0].shape), Side(build.model, given[0].shape, threads=1)]
    pictures = [Pair(str(i), a, np.ascontiguousarray(build.feed(a))) for i, a in enumerate(given)]
    return judge(compare(*sides, pictures, methods=("grad-cam",)).report, Thresholds())


def named(build: Build, found: list[Finding]) -> bool:
    first = found[0].where
    return any(first == p or p in first for p in build.planted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--only", default="", help="Kinds that contain this.")
    parser.add_argument("--every", type=int, default=1, help="Use every N-th build only.")
    parser.add_argument("--verbose", action="store_true", help="Print missed and misnamed faults, and false positives.")
    given = parser.parse_args()
    data = {path: arrays(path, given.pictures) for path in (CNN, VIT)}
    counts: dict[tuple[str, str], list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for group, builds in (("fault", plants()), ("correct", sound(Path(folder)))):
            for build in itertools.islice(builds, 0, None, given.every):
                if given.only not in f"{group}: {build.kind}":
                    continue
                found = findings(build, data[VIT if build.reference == VIT else CNN])
                count = counts.setdefault((group, build.kind), [0, 0, 0])
                right = bool(found) and named(build, found)
                for i, value in enumerate((1, bool(found), right)):
                    count[i] += value
                if given.verbose and (found if group == "correct" else not right):
                    first = "; ".join(f"{f.code} {f.where} {f.value:.3g}" for f in found[:3]) or "nothing"
                    print(
                        f"{build.kind}: {build.reference.stem} {sorted(build.planted)}: {first}",
                        file=sys.stderr,
                        flush=True,
                    )
    for group, titles in (("fault", "injected | found | named"), ("correct", "builds | false positives")):
        print(f"| {group} | {titles} |\n|" + "---|" * (titles.count("|") + 2))
        rows = {kind: count for (g, kind), count in counts.items() if g == group}
        rows["all"] = [sum(c[i] for c in rows.values()) for i in range(3)]
        for kind, (total, found_, right_) in rows.items():
            print(f"| {kind} | {total} | {found_} |" + (f" {right_} |" if group == "fault" else ""))
        print()


if __name__ == "__main__":
    main()
