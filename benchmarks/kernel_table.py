"""Which operators onnxruntime-gpu's partitioner gives to its CUDA provider, without a GPU: the table behind
`plan --provider cuda`.

    python -m benchmarks.kernel_table [--models FILE.onnx …]

Creates sessions on the CUDA provider over every operator sample of the tests and over its gradient, in float32, float16
and float64, and asks the session which provider each node was assigned to; nothing is run. The driver and NVIDIA's
libraries are replaced by stand-ins whose functions all succeed and do nothing (made with gcc from the names that
onnxruntime's library asks for), so partitioning is real and results would not be. Writes
analyzer/runtime/kernels/cuda.json; with --models, prints the float nodes of the methods' graphs that fall to the CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from analyzer.runtime.kernel_table import constant_names, form

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "analyzer" / "runtime" / "kernels" / "cuda.json"
TYPES = ("float32", "float16", "float64")
NAMES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "float64"}
# {operator: {(form, type): how often it was taken or not}}
Counts = dict[str, dict[tuple[str, str], Counter[bool]]]
METHODS = ("grad-cam", "gradient", "guided-backprop", "deconvnet", "full-grad")

# Functions that must fill something in; all others return 0.
SPECIAL = {
    "cudaGetDevice": "int {0}(int*d){{*d=0;return 0;}}",
    "cudaGetDeviceCount": "int {0}(int*n){{*n=1;return 0;}}",
    "cudaMemGetInfo": "int {0}(size_t*a,size_t*b){{*a=*b=8ul<<30;return 0;}}",
    "cudaGetDeviceProperties": 'int {0}(char*p,int d){{memset(p,0,600);strcpy(p,"stand-in");return 0;}}',
    "cudaDeviceGetAttribute": "int {0}(int*v,int a,int d){{*v=80;return 0;}}",
    "cudaDriverGetVersion": "int {0}(int*v){{*v=13000;return 0;}}",
    "cudaRuntimeGetVersion": "int {0}(int*v){{*v=13000;return 0;}}",
    "cudaGetErrorName": 'char*{0}(int e){{return "";}}',
    "cudaGetErrorString": 'char*{0}(int e){{return "";}}',
    "__cudaRegisterFatBinary": "void*{0}(void*p){{static void*x[64];return x;}}",
    "cuInit": "int {0}(unsigned f){{return 0;}}",
    "cuDeviceGetCount": "int {0}(int*n){{*n=1;return 0;}}",
    "cudnnGetVersion": "long {0}(void){{return 90000;}}",
    "cudnnGetCudartVersion": "long {0}(void){{return 13000;}}",
    "cudnnGetErrorString": 'char*{0}(int e){{return "";}}',
}
SPECIAL |= dict.fromkeys(
    ("cudaMalloc", "cudaMallocHost", "cudaHostAlloc"), "int {0}(void**p,size_t n){{*p=malloc(n+64);return 0;}}"
)
SPECIAL |= dict.fromkeys(
    ("cudaStreamCreate", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cublasCreate_v2", "cublasLtCreate",
     "cudnnCreate"), "int {0}(void**h){{*h=malloc(64);return 0;}}",
)  # fmt: skip


def stand_ins(folder: Path) -> None:
    """A shared library in `folder` for each that the CUDA provider needs."""
    provider = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not provider.exists():
        raise SystemExit("this onnxruntime has no CUDA provider: pip install onnxruntime-gpu")
    wanted: dict[str, set[str]] = defaultdict(set)
    for line in subprocess.run(["nm", "-D", str(provider)], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    ):
        found = re.search(r" U (_*cu\w+)(?:@+(lib\S+))?$", line)
        if found:
            wanted[found[2] or "libcuda.so.1"].add(found[1])
    needed = subprocess.run(["readelf", "-d", str(provider)], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"\[(lib(?:cu|nv)\S+)\]", needed):
        wanted.setdefault(name, set())
    wanted["libcuda.so.1"] |= {"cuInit", "cuDeviceGetCount"}
    cudnn = re.findall(rb"\x00(cudnn[A-Z]\w+)(?=\x00)", provider.read_bytes())  # looked up by name when it runs
    wanted["libcudnn.so.9"] = {name.decode() for name in cudnn}
    for library, functions in wanted.items():
        body = [SPECIAL.get(f, "long {0}(void){{return 0;}}").format(f) for f in sorted(functions)]
        source = folder / f"{library}.c"
        source.write_text("#include <string.h>\n#include <stdlib.h>\n" + "\n".join(body) + "\n")
        command = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", str(source), "-o", str(folder / library)]
        subprocess.run(command, check=True)


def samples() -> list[Any]:
    """Those of the tests, and of operators that have no gradient."""
    from tests.samples import Sample, ints, normal
    from tests.test_rules import SAMPLES

    return [
        *SAMPLES,
        *(Sample("Cast", (normal(3, 3),), {"to": kind}, wrt=()) for kind in NAMES),
        Sample("ConstantOfShape", (ints(2, 3),)),
        Sample("EyeLike", (normal(3, 3),), wrt=()),
        Sample("Hardmax", (normal(3, 3),), wrt=()),
    ]


def assigned(model: onnx.ModelProto) -> dict[str, str]:
    """{node: provider}"""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("the CUDA provider could not be created with the stand-ins")
    return {n.name: part.ep_name for part in session.get_provider_graph_assignment_info() for n in part.get_nodes()}


def work(op: str) -> None:
    """Prints [operator, form, type, assigned to CUDA] for the float nodes of the samples of `op`.

    And for those of their gradients that have no samples of their own.
    """
    from analyzer import append_vjp
    from tests.rule_checks import build

    every = samples()
    own = {s.op for s in every}
    for sample in (s for s in every if s.op == op):
        for dtype, baked in itertools.product(TYPES, (False, True)):
            models: list[onnx.ModelProto] = []
            try:
                models = [build(sample, dtype, baked=baked)]
                wrt = [n for n in models[0].graph.input if n.type.tensor_type.elem_type in NAMES]
                if sample.targets and wrt:
                    models.append(append_vjp(models[0], [models[0].graph.output[0].name], [wrt[0].name]).model)
            except Exception:  # no such kernel on the CPU either, or no gradient
                if not models:
                    continue
            for at, model in enumerate(models):
                for number, node in enumerate(model.graph.node):
                    node.name = node.name or f"node_{number}"
                try:
                    found = assigned(model)
                    inferred = onnx.shape_inference.infer_shapes(model).graph
                except Exception:
                    continue
                values = [*inferred.value_info, *inferred.output, *inferred.input]
                # Of rank 2 and more: arithmetic on shapes belongs on the CPU.
                kinds = {
                    v.name: NAMES.get(v.type.tensor_type.elem_type)
                    for v in values
                    if len(v.type.tensor_type.shape.dim) > 1
                }
                for node in model.graph.node:
                    kind = next((kinds[n] for n in [*node.output, *node.input] if kinds.get(n)), None)
                    if kind and node.name in found and not node.domain and (not at or node.op_type not in own):
                        cuda = found[node.name] == "CUDAExecutionProvider"
                        print(json.dumps([node.op_type, form(node, constant_names(model)), kind, cuda, sample.id]))
    sys.stdout.flush()
    os._exit(0)  # the stand-ins cannot be torn down


def summary(counts: Counts) -> dict[str, dict[str, dict[str, str]]]:
    """What a table holds: "kernels", {operator: {type: "yes", "no", "some"}}, and the same of the "forms" of those
    operators of which some were taken."""
    kernels: dict[str, dict[str, str]] = defaultdict(dict)
    forms: dict[str, dict[str, str]] = defaultdict(dict)
    for op, found in sorted(counts.items()):
        for kind in sorted({kind for _, kind in found}):
            of_kind = {name: count for (name, one), count in sorted(found.items()) if one == kind}
            kernels[op][kind] = _answer(sum(of_kind.values(), Counter()))
            if kernels[op][kind] == "some":
                for name, count in of_kind.items():
                    forms[name][kind] = _answer(count)
    return {"kernels": kernels, "forms": forms}


def _answer(taken: Counter[bool]) -> str:
    return "some" if len(taken) > 1 else "yes" if taken[True] else "no"


def models(paths: list[str]) -> None:
    """Prints what falls to the CPU, per model and method."""
    from analyzer.attribution import Explainer
    from analyzer.errors import AnalyzerError
    from analyzer.graph.query import single_batch
    from analyzer.runtime import Session

    for path in paths:
        explainer = Explainer(path)
        sizes = single_batch(explainer.plain.inputs)
        for method in METHODS:
            try:
                compiled = explainer.compile(method, shapes=sizes)
                session = Session(compiled.graph, "cuda", outputs=compiled.names, allow_fallback=True)
                told = ", ".join(session.fallbacks) or "nothing"
            except AnalyzerError as error:
                told = f"not available: {error.message}"
            print(f"{Path(path).name}: {method}: {told}", flush=True)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="Only say what of these falls to the CPU.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
    if given.models and os.environ.get("STAND_INS"):
        models(given.models)
    with tempfile.TemporaryDirectory() as folder:
        stand_ins(Path(folder))
        environment = os.environ | {"LD_LIBRARY_PATH": folder, "STAND_INS": "1"}
        call = [sys.executable, "-m", "benchmarks.kernel_table"]
        if given.models:
            subprocess.run([*call, "--models", *given.models], env=environment, cwd=ROOT, check=False)
            return
        counts: Counts = defaultdict(lambda: defaultdict(Counter))
        for op in sorted({s.op for s in samples()}):
            done = subprocess.run([*call, "--worker", op], env=environment, cwd=ROOT, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                if line.startswith("["):
                    name, shape, dtype, cuda, _ = json.loads(line)
                    counts[name][shape, dtype][cuda] += 1
            if done.returncode:
                print(f"{op}: the worker ended with {done.returncode}: {done.stderr.strip()[-200:]}", file=sys.stderr)
    about = {
        "runtime": f"onnxruntime {ort.__version__}",
        "provider": "CUDAExecutionProvider",
        "fall": "the CPU",
        "opset": 21,
    }
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps(about | summary(counts), indent=1) + "\n")
    print(f"{len(counts)} operators: {TABLE}")


if __name__ == "__main__":
    main()
