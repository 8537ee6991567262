"""A classifier made one ONNX file that an exported page runs itself: scores, maps of any class, activations.

onnxruntime-web comes from npm when the page is written; the page loads nothing.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from analyzer.analysis.scores import REAL
from analyzer.attribution import Job
from analyzer.attribution.asked import task_for
from analyzer.attribution.compiler import Compiled, compile_question
from analyzer.attribution.methods import find_method
from analyzer.attribution.model import sizes_of
from analyzer.attribution.postprocess import FLOAT32, linear_weights
from analyzer.attribution.seeds import PREFIX
from analyzer.errors import InputError, UnsupportedError
from analyzer.explorer.bench import Bench
from analyzer.explorer.layers import Layer
from analyzer.files import temporary_folder
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.roles import separate_roles
from analyzer.graph.save import save
from analyzer.images.colour import colormap
from analyzer.runtime import Plain
from analyzer.tasks.classification import Binary, Classification

WEB = "1.30.0"  # of onnxruntime-web
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
LARGEST = 512 << 20  # bytes of a model in a page
DISTANCE = 1e-3  # relative L2, of a map and of scores, from those of the library
WITHOUT = "leave out --with-model: the pictures that you name are in the page without it"


@dataclass(frozen=True)
class Embedded:
    """What a page needs to explain other pictures.

    Attributes:
        model: an ONNX file: the classifier with maps and activations as further outputs.
        about: names of its inputs and outputs, preprocessing, labels; as local.js reads it.
        script, wasm: onnxruntime-web.
    """

    model: bytes
    about: dict[str, Any]
    script: bytes
    wasm: bytes


def embedded(bench: Bench, methods: Sequence[str] = ()) -> Embedded:
    """The model of a bench with the layers that it shows; those of the methods that are one graph and one map.

    Raises:
        UnsupportedError: it is no classifier of one picture, too large, or differs from the library when it is run.
        InputError: npm is missing, or has no onnxruntime-web.
    """
    script, wasm = web_runtime()
    model, about = model_of(bench, [name for name in methods or [bench.method] if _fits(name)])
    return Embedded(model, about, script, wasm)


def _fits(method: str) -> bool:
    found = find_method(method, {})
    return not found.runs and found.views[0] == "overlay"


def model_of(bench: Bench, methods: Sequence[str]) -> tuple[bytes, dict[str, Any]]:
    """The file, run once and compared with the library, and what is to be known of it."""
    _check(bench, methods)
    feeds = bench.feeds(bench.first)
    question = bench.question("top1", *(Job(name, bench.card.default_layer or "auto") for name in methods))
    compiled = compile_question(bench.explainer, question, [None], sizes_of(feeds))
    graph, task = compiled[0].graph, compiled[0].scores
    assert graph is not None
    op = Builder(graph, PREFIX)
    scores = op.cast(task.shown(op), FLOAT32)
    if task.quantisation != REAL and not isinstance(task, Binary):
        zero, scale = task.quantisation
        scores = op.Mul(op.Sub(scores, zero), scale)
    image = feeds[bench.explainer.image]
    size = bench.card.feeds.preprocess.size
    assert size is not None
    maps = [graph.add_output(_maps(op, graph, one), f"{PREFIX}/maps_{n}").name for n, one in enumerate(bench.layers)]
    drawn = {one.method.name: _map(op, graph, one, size) for one in compiled}
    shown = graph.add_output(scores, f"{PREFIX}/scores").name
    how, chosen = bench.card.feeds.preprocess, compiled[0].slots[0][2]
    classes = task.label_counts[-1] if task.label_counts else 0
    about = {
        "first": bench.first.key,
        "input": bench.explainer.image,
        "shape": list(image.shape),
        "target": compiled[0].target_inputs[0],
        "class": chosen,
        "scores": shown,
        "maps": maps,
        "methods": drawn,
        "labels": [task.label(index, bench.card.labels) for index in range(classes)],
        "how": {**asdict(how), "mean": list(how.mean), "std": list(how.std)},
        "colors": base64.b64encode(colormap("turbo").tobytes()).decode(),
    }
    data = _written(graph, [shown, *maps, *(one[k] for one in drawn.values() for k in ("heatmap", "extent")), chosen])
    _compare(bench, data, about)
    return data, about


def _check(bench: Bench, methods: Sequence[str]) -> None:
    name, feeds, how = bench.explainer.loaded.name, bench.card.feeds, bench.card.feeds.preprocess
    task = task_for(bench.explainer, bench.question("top1"), bench.feeds(bench.first))
    if not isinstance(task, Classification):
        raise UnsupportedError(f"{name}: pages run classifiers, and this is {task.kind}", WITHOUT)
    if not methods:
        raise UnsupportedError("pages run methods of one run that are drawn over the picture", "choose -m grad-cam")
    if len(bench.explainer.plain.inputs) > 1 or feeds.main.stacked:
        raise UnsupportedError(f"{name}: pages run models whose one input is a picture", WITHOUT)
    if how.channels not in ("RGB", "BGR", "GRAY") or how.size is None:
        raise UnsupportedError(
            f"{name}: pages cannot prepare pictures as {how.describe()}", "give --size, or " + WITHOUT
        )


def _maps(op: Builder, graph: Graph, layer: Layer) -> Value:
    """`Layer.maps` as nodes: (channels, h, w) float32 of the first picture."""
    value, layout, shape = op.cast(graph[layer.name], FLOAT32), layer.layout, [layer.channels, *(layer.grid or (1, 1))]
    if layer.heads:
        tokens = layout.count
        value = _first(op, op.Reshape(value, [-1, tokens, tokens]), layer.channels)
        value = op.Gather(value, np.int64(0), axis=1) if layout.prefix else op.ReduceMean(value, [1], keepdims=0)
    elif layer.grid:
        order = [layout.axes.index("N")] if "N" in layout.axes else []
        value = op.Transpose(value, perm=[*order, layout.channel, *layout.spatial])
        value = _first(op, value, 1) if order else value
    else:
        value = _first(op, value, 1)
    if "L" in layout.axes or layer.heads:
        value = op.Reshape(value, [layer.channels, layout.count])
        value = op.Slice(value, [layout.prefix], [layout.count - layout.suffix], [1])
    return op.Reshape(value, shape)


def _first(op: Builder, value: Value, count: int) -> Value:
    return op.Slice(value, [0], [count], [0])


def _map(op: Builder, graph: Graph, one: Compiled, size: tuple[int, int]) -> dict[str, str]:
    """Names of a method's heatmap, of the numbers that 0 and 1 of it stand for, and of its layer."""
    raw, heat, *_ = one.slots[0]
    first = _first(op, graph[raw], 1)
    sides = [op.dim(first, axis) for axis in (1, 2)]
    matrices = []
    for axis, (count, length) in enumerate(zip(sides, size, strict=True)):
        assert count is not None
        centers = one.located.centers
        matrices.append(linear_weights(count, length) if centers is None else centers.weights(axis, count, length))
    low = op.ReduceMin(first, [1, 2], keepdims=1)
    rows, columns = (op.constant(np.asarray(matrix, np.float32), "weights") for matrix in matrices)
    over = op.Add(low, op.MatMul(op.MatMul(rows, op.Sub(first, low)), op.Transpose(columns, perm=[1, 0])))
    ends = [op.Reshape(reduced(over, [0, 1, 2]), [1]) for reduced in (op.ReduceMin, op.ReduceMax)]
    extent = graph.add_output(op.Concat(*ends, axis=0), f"{PREFIX}/extent_{one.method.name}").name
    return {"heatmap": heat, "extent": extent, "layer": one.layer}


def _written(graph: Graph, outputs: list[str]) -> bytes:
    size = sum(one.size for one in graph.parameters()) * 4
    if size > LARGEST:
        raise UnsupportedError(f"{graph.name}: a model of {size >> 20} MiB is too large for a page", WITHOUT)

    def rewritten(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> None:
        separate_roles(proto, weights)

    with temporary_folder() as folder:
        return save(graph, folder / "model.onnx", outputs, rewritten).read_bytes()


def _compare(bench: Bench, data: bytes, about: Mapping[str, Any]) -> None:
    """UnsupportedError where a plain session does not give the maps and the scores of the library."""
    target = np.full(about["shape"][0], -1, np.int64)
    given = Plain(data).run({**bench.feeds(bench.first), about["target"]: target})
    expected = {name: bench.explained(bench.first, name) for name in about["methods"]}
    pairs = {name: (one.heatmap[0], given[about["methods"][name]["heatmap"]][0]) for name, one in expected.items()}
    pairs["scores"] = next(iter(expected.values())).scores[0], given[about["scores"]][0]
    for name, (ours, theirs) in pairs.items():
        distance = float(np.linalg.norm(ours - theirs) / (np.linalg.norm(ours) or 1))
        if not distance <= DISTANCE:
            said = f"{name} of the page's model differ from the library's (relative difference {distance:.2g})"
            raise UnsupportedError(f"{bench.explainer.loaded.name}: {said}", WITHOUT)


def web_runtime() -> tuple[bytes, bytes]:
    """onnxruntime-web: its script in one module, and its WebAssembly. npm checks them against the registry's hash.

    Raises:
        InputError: npm is not installed, or does not get it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("--with-model needs npm, which brings onnxruntime-web", "install Node.js, or " + WITHOUT)
    with temporary_folder() as folder:
        asked = [npm, "pack", f"onnxruntime-web@{WEB}", "--silent"]
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or not packages:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise InputError(f"npm cannot get onnxruntime-web {WEB}: {said[0]}", WITHOUT)
        with tarfile.open(packages[0]) as package:
            return _member(package, SCRIPT), _member(package, WASM)


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/dist/{name}")
    assert file is not None
    return file.read()
