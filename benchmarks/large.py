"""Anonymous memory of commands on a model over 2 GB, in units of its weights. The model is made here, and deleted.

    python -m benchmarks.large [--gib 2.6] [--tasks gradient export compare audit filters sizes]
                              [--packed] [--folder DIR]

Half of the weights are of 3×3 convolutions, half of matrix products over tokens; they are external data, which is
mapped from the file: the operating system takes such memory back when it is short. What counts is RssAnon, whose peak
is polled while each task runs as a process of its own. `compare` is of two such models with other weights, in units of
the weights of both. `gradient` also prints the seconds of its first run and of the quickest of three further ones.
`sizes` is a small model that is fed pictures of 600 sizes. With `--packed`, kernels copy weights into a form of their
own, as they do for small models.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HIDDEN, SIDE, CLASSES = 2048, 8192, 112, 1000
LIMITS = {"gradient": 2.2, "export": 2.2, "compare": 2.5, "audit": 2.2}

GRADIENT = """
import time
import numpy as np
from analyzer.attribution import Explainer
image = np.random.default_rng(0).standard_normal((1, 3, 112, 112)).astype(np.float32)
explainer, seconds = Explainer({model!r}), []
for _ in range(4):
    start = time.perf_counter()
    explainer.explain(image, "gradient", 1)
    seconds.append(time.perf_counter() - start)
print(f"first gradient {{seconds[0]:.1f}} s, further ones {{min(seconds[1:]):.1f}} s", flush=True)
"""
PACKED = "import analyzer.runtime.session as session; session.MAPPED = 1 << 62\n"
PLAIN = """
import numpy as np, onnxruntime as ort
session = ort.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
session.run(None, {{"image": np.zeros((1, 3, 112, 112), np.float32)}})
"""
COMMAND = "import sys; sys.argv = ['onnx-analyzer', *{arguments!r}]; from analyzer.commands import main; main()"
SIZES = """
import numpy as np
from analyzer.attribution import Explainer
explainer, rng = Explainer({model!r}), np.random.default_rng(0)
for at, side in enumerate(rng.permutation(600)):
    image = rng.standard_normal((1, 3, 32 + side, 48 + at % 100)).astype(np.float32)
    explainer.explain(image, ("grad-cam", "gradient")[at % 2], 1)
    if at % 60 == 59:
        print(at + 1, [l.split()[1] for l in open("/proc/self/status") if l.startswith("RssAnon")][0], flush=True)
"""


class Weights:
    """Random weights, written to one file as they are made."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.path, self.rng = folder / "weights.data", np.random.default_rng(seed)
        self.file = self.path.open("wb")
        self.tensors: list[onnx.TensorProto] = []

    def add(self, name: str, *shape: int) -> str:
        array = self.rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
        offset = self.file.tell()
        array.tofile(self.file)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.path.name), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def make(folder: Path, gib: float, seed: int = 0, convolutional: float = 0.5) -> Path:
    """A model of so many GiB in `folder`; `convolutional` is the share of its weights that convolutions have."""
    folder.mkdir(parents=True)
    weights, nodes = Weights(folder, seed), []

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    x = node("Conv", ["image", weights.add("stem.w", WIDTH, 3, 16, 16)], "stem", strides=[16, 16])
    for at in range(round(gib * convolutional * 2**30 / (WIDTH * WIDTH * 9 * 4))):
        y = node("Conv", [x, weights.add(f"conv{at}.w", WIDTH, WIDTH, 3, 3)], f"conv{at}", pads=[1] * 4)
        x = node("Add", [x, node("Relu", [y], f"relu{at}")], f"sum{at}")
    features = x
    x = node("Reshape", [x, "rows"], "flat")
    x = node("Transpose", [x], "tokens", perm=[0, 2, 1])
    for at in range(round(gib * (1 - convolutional) * 2**30 / (WIDTH * HIDDEN * 8))):
        y = node("MatMul", [x, weights.add(f"up{at}.w", WIDTH, HIDDEN)], f"up{at}")
        y = node("MatMul", [node("Relu", [y], f"act{at}"), weights.add(f"down{at}.w", HIDDEN, WIDTH)], f"down{at}")
        x = node("Add", [x, y], f"mlp{at}")
    x = node("ReduceMean", [x], "pooled", axes=[1], keepdims=0)
    node("Gemm", [x, weights.add("head.w", CLASSES, WIDTH)], "logits", transB=1)
    weights.file.close()
    rows = helper.make_tensor("rows", TensorProto.INT64, [3], [0, WIDTH, -1])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(nodes, features, [image], [logits], [*weights.tensors, rows])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def make_small(folder: Path) -> Path:
    """A fully convolutional network that takes pictures of every size."""
    rng, nodes, tensors, x, depth = np.random.default_rng(0), [], [], "image", 3
    for at, width in enumerate((16, 32, 64)):
        weight = (rng.standard_normal((width, depth, 3, 3)) * (2 / (9 * depth)) ** 0.5).astype(np.float32)
        tensors.append(onnx.numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("Conv", [x, f"w{at}"], [f"c{at}"], f"c{at}", pads=[1] * 4, strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"], f"r{at}"))
        x, depth = f"r{at}", width
    tensors.append(onnx.numpy_helper.from_array(rng.standard_normal((10, depth)).astype(np.float32), "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "sizes", [image], [logits], tensors)
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def peak(script: str) -> tuple[int, float, int]:
    """(peak of RssAnon in KiB, CPU seconds, exit code) of a script that runs as a process of its own."""
    import os

    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"ONNX_ANALYZER_CACHE": ""})
    highest = 0
    while True:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        highest = max([highest, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.01)
    return highest, used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.6)
    tasks = ["plain", *LIMITS, "filters", "sizes"]
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    parser.add_argument("--folder", type=Path, help="where the model is made, and left")
    parser.add_argument("--packed", action="store_true", help="let kernels copy weights into a form of their own")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="large-"))
    try:
        measure(folder, given.gib, given.tasks, PACKED if given.packed else "")
    finally:
        if not given.folder:
            shutil.rmtree(folder)


def measure(folder: Path, gib: float, tasks: list[str], before: str = "") -> None:
    model = folder / "a" / "model.onnx"
    if tasks != ["sizes"] and not model.exists():
        make(folder / "a", gib)
    if "compare" in tasks and not (folder / "b").exists():
        make(folder / "b", gib, seed=1)
    pictures = folder / "pictures"
    if not pictures.exists():
        import cv2

        pictures.mkdir(parents=True)
        for at in range(3):
            cv2.imwrite(
                str(pictures / f"{at}.png"), np.random.default_rng(at).integers(0, 255, (128, 128, 3), np.uint8)
            )
    commands = {
        "export": ["export", str(model), "-o", str(folder / "exported.onnx"), "-m", "gradient", "--target", "1"],
        "compare": ["compare", str(model), str(folder / "b" / "model.onnx"), "-d", str(pictures), "--preset", "0-1"],
        "audit": ["audit", str(model), "-d", str(pictures), "--preset", "0-1"],
        "filters": ["filters", str(model), "-l", "conv0"],
    }
    print("| task | RssAnon peak MiB | weights | limit | CPU s | exit code |\n|---|---|---|---|---|---|")
    for task in tasks:
        if task == "sizes":
            continue
        size = (folder / "a" / "weights.data").stat().st_size * (2 if task == "compare" else 1)
        scripts = {"plain": PLAIN, "gradient": GRADIENT}
        script = scripts.get(task, COMMAND).format(model=str(model), arguments=commands.get(task))
        highest, seconds, code = peak(before + script)
        cells = (task, highest >> 10, f"{highest * 1024 / size:.2f}", LIMITS.get(task, ""), f"{seconds:.0f}", code)
        print("|", " | ".join(map(str, cells)), "|", flush=True)
        for file in folder.glob("exported.onnx*"):
            file.unlink()
    if "sizes" in tasks:
        print("\n| sizes so far | RssAnon KiB |\n|---|---|", flush=True)
        peak(SIZES.format(model=str(make_small(folder))))


if __name__ == "__main__":
    main()
