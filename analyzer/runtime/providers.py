"""Execution providers: what is installed, what can really be created, and what to do where it cannot."""

from __future__ import annotations

import ctypes
import functools
import platform
from dataclasses import dataclass, field
from typing import Any

from analyzer.errors import InputError, NotFoundError, ProviderError, suggest
from analyzer.runtime.installed import problems, versions
from analyzer.runtime.threads import plain_options

NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
ALIASES = {"gpu": "cuda", "nvidia": "cuda", "trt": "tensorrt", "dml": "directml"} | {
    full.lower(): name for name, full in NAMES.items()
}
INSTALL = "pip install 'onnx-analyzer[cuda]' and an NVIDIA driver, or choose --provider cpu"


def resolve(provider: str) -> list[tuple[str, dict[str, Any]]]:
    """The providers to ask onnxruntime for: "cpu", "cuda", "cuda:1", "auto" (cuda where it works, else cpu)…

    The first is the one that was asked for; what it does not take goes to the next. What TensorRT does not take stays
    on the GPU: CUDA comes behind it. The CPU comes last: shape arithmetic has no GPU kernels, and needs none.

    Raises:
        NotFoundError: the name is not known. InputError: its index is no number.
        ProviderError: the installed onnxruntime was built without it, or it cannot be used.
    """
    name, _, index = provider.partition(":")
    if name == "auto":
        return resolve("cuda") if cuda_problem() is None else resolve("cpu")
    if name not in NAMES:
        meant = f"did you mean {ALIASES[name.lower()]!r}?" if name.lower() in ALIASES else suggest(name, NAMES)
        raise NotFoundError(f"no execution provider {provider!r}", meant or f"choose one of {', '.join(NAMES)}, auto")
    if index and not index.isdigit():
        raise InputError(f"{provider!r}: the device index must be a number", "for example cuda:0")
    import onnxruntime as ort

    if NAMES[name] not in ort.get_available_providers():
        raise ProviderError(
            f"the installed onnxruntime {ort.__version__} was built without {NAMES[name]}; "
            f"it has {', '.join(ort.get_available_providers())}",
            INSTALL if name == "cuda" else "install the onnxruntime build that has it",
        )
    cpu = (NAMES["cpu"], dict[str, Any]())
    if name == "cpu":
        return [cpu]
    if name not in ("cuda", "tensorrt"):
        return [(NAMES[name], {}), cpu]
    problem = cuda_problem()
    if problem:
        raise ProviderError(f"{NAMES[name]} cannot be used: {problem}", INSTALL)
    device = {"device_id": int(index or 0)}
    # TensorFloat-32 keeps 10 of 23 mantissa bits; an analysis compares numbers, so it is off.
    cuda = (NAMES["cuda"], device | {"use_tf32": 0})
    return [cuda, cpu] if name == "cuda" else [(NAMES[name], device), cuda, cpu]


@functools.cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used, in words; None where it can."""
    import onnxruntime as ort

    if NAMES["cuda"] not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} was built without CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda is missing)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    try:
        ort.preload_dlls()
    except Exception as error:
        return f"the CUDA libraries cannot be loaded: {error}"
    missing = _missing_library()
    return f"the library {missing} is missing; pip install 'onnx-analyzer[cuda]' brings it" if missing else None


def _missing_library() -> str | None:
    """The first library that the CUDA provider's own library cannot find, as the loader names it."""
    import onnxruntime as ort

    if platform.system() != "Linux":
        return None
    from pathlib import Path

    shared = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_shared.so"
    library = shared.with_name("libonnxruntime_providers_cuda.so")
    try:
        ctypes.CDLL(str(shared), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        text = str(error)
        return text.split(":")[0] if "cannot open shared object" in text else None
    return None


@dataclass
class Report:
    """What `doctor` found. `problems` and `advice` are sentences."""

    versions: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def diagnose() -> Report:
    """Looks at what is installed and creates a small session on each provider that is compiled in."""
    report = Report(versions={**versions(), "python": platform.python_version()})
    for problem, advice in problems():
        report.problems.append(problem)
        if advice not in report.advice:
            report.advice.append(advice)
    try:
        import onnxruntime as ort

        ort.get_available_providers()
    except (ImportError, AttributeError):
        return report
    report.limits = runtime_limits()
    for provider in ort.get_available_providers():
        report.providers[provider] = _try(provider)
    cuda = report.providers.get(NAMES["cuda"])
    if cuda and cuda != "works":
        report.advice.append(f"CUDA: {INSTALL}")
    return report


def _try(provider: str) -> str:
    if provider in (NAMES["cuda"], NAMES["tensorrt"]):
        problem = cuda_problem()
        if problem:
            return problem
    try:
        used = _session(_smallest_model(), provider).get_providers()[0]
        return "works" if used == provider else f"cannot be created: onnxruntime fell back to {used}"
    except Exception as error:
        return f"cannot be created: {' '.join(str(error).split())[:200]}"


def _session(model: bytes, provider: str) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model, plain_options(), [provider])


def _smallest_model(opset: int = 13, ir: int = 8) -> bytes:
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "probe", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    return bytes(model.SerializeToString())


@functools.cache
def runtime_limits() -> dict[str, int]:
    """The newest operator set and IR version that the installed onnxruntime loads."""

    def loads(opset: int, ir: int) -> bool:
        try:
            _session(_smallest_model(opset, ir), NAMES["cpu"])
        except Exception:
            return False
        return True

    opset = next(v for v in range(40, 12, -1) if v == 13 or loads(v, 8))
    return {"opset": opset, "ir": next(v for v in range(20, 7, -1) if v == 8 or loads(13, v))}


def runtime_version() -> str:
    """Of the installed onnxruntime."""
    import onnxruntime as ort

    return str(ort.__version__)
