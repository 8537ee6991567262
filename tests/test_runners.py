"""Models in other runtimes: what is deployed is compared with what it was made from."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import analyzer
from analyzer.attribution import Explainer
from analyzer.attribution.black_box import BlackBox, look
from analyzer.attribution.deployed import open_model
from analyzer.errors import InputError, ProviderError, UnsupportedError
from analyzer.images import decode, model_card
from analyzer.runtime.runners import Address, address_of, open_runner
from analyzer.validation.runner_side import arranged, side_of, squashed_by, twins

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "models" / "digits_cnn.onnx"
DETECTOR = ROOT / "models" / "digits_detector.onnx"
EXAMPLES = sorted((ROOT / "examples").glob("digits_*.png"))
FEW = EXAMPLES[:2]


@pytest.fixture
def place(tmp_path):
    return tmp_path


@pytest.fixture(autouse=True)
def few_masks(monkeypatch):
    """Enough to tell maps apart."""
    monkeypatch.setattr("analyzer.validation.perturbed.MASKS", 120)


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module of functions, written as text and named by its address."""

    def written(body: str, name: str = "predict") -> str:
        module = f"served_{len(list(tmp_path.glob('served_*.py')))}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(f"{HEAD}\n{body}\n")
        return f"python:{module}:{name}"

    monkeypatch.syspath_prepend(str(tmp_path))
    return written


HEAD = f"""
import numpy as np, onnxruntime as ort
session = ort.InferenceSession({str(REFERENCE)!r}, providers=["CPUExecutionProvider"])
def model(image):
    return session.run(None, {{"image": image}})[0]
"""
SOUND = "def predict(image): return model(image)"


def codes(reference, candidate, pictures=FEW, **options) -> list[str]:
    return [f["code"] for f in analyzer.compare(reference, candidate, pictures, **options).findings]


# ---- Addresses ----


def test_an_address_is_a_scheme_and_a_target(tmp_path, monkeypatch):
    found = address_of("ort:model.onnx?provider=CPUExecutionProvider&threads=2")
    assert found == Address(
        "ort:model.onnx?provider=CPUExecutionProvider&threads=2",
        "ort",
        "model.onnx",
        {"provider": "CPUExecutionProvider", "threads": "2"},
    )
    assert address_of("model.onnx") is None and address_of(b"bytes") is None and address_of("C:\\model.onnx") is None
    monkeypatch.chdir(tmp_path)
    Path("ort:model.onnx").write_bytes(b"")
    assert address_of("ort:model.onnx") is None  # an existing file wins
    Path("model.ort").write_bytes(b"")
    assert address_of("model.ort").scheme == "ort"


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("ort:missing.onnx", InputError, "no such file"),
        (f"ort:{REFERENCE}?provider=Abacus", InputError, "no provider 'Abacus'"),
        (f"ort:{REFERENCE}?providers=cpu", InputError, "no option 'providers'"),
        (f"ort:{REFERENCE}?threads=many", InputError, "not a number"),
        (f"ort:{__file__}", ProviderError, "cannot load it"),
        ("python:missing_module:predict", InputError, "No module named"),
        ("python:json:predict", InputError, "has no 'predict'"),
        ("python:json", InputError, "is not python:package.module:function"),
        ("python:json:__name__", InputError, "is no function"),
        ("python:json:dumps", InputError, "the inputs of the function are not known"),
    ],
)
def test_a_wrong_address_is_one_sentence(address, error, words):
    with pytest.raises(error, match=words):
        open_runner(address_of(address))


def test_the_command_says_it_too(run):
    code, _, said = run("compare", str(REFERENCE), "python:json:predict", str(FEW[0]))
    assert code == 2 and "the module json has no 'predict'" in said and "Traceback" not in said


# ---- Functions and files of onnxruntime ----


def test_a_function_of_the_model_agrees(functions):
    done = analyzer.compare(REFERENCE, functions(SOUND), FEW)
    assert done.passed and done.report["outputs"]["score_drift_max"] < 1e-5
    assert done.report["evidence"]["rise"]["rank_correlation"] > 0.9999
    assert "Python" in done.run["candidate ran on"]


@pytest.mark.parametrize(
    "body",
    [
        "def predict(image): return {'other name': model(image)}",
        "def predict(image): return [model(image)[:, :, None]]",
        "def predict(image):\n    p = model(image)\n    return np.log(p / (1 - p))",  # logits
        "def predict(image):\n    assert len(image) == 1\n    return model(image)",
        "def predict(x): return model(np.float32((np.moveaxis(x, 3, 1) / 255 - M) / S))\n"
        "M = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)\nS = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)\n"
        "predict.inputs = {'pixels': ((None, 96, 96, 3), 'uint8')}",
    ],
)
def test_names_layouts_squashing_batches_and_preprocessing_are_no_differences(functions, body):
    address = functions(body)
    if "assert" in body:
        with pytest.raises(ProviderError, match="the function failed"):
            analyzer.compare(REFERENCE, address, FEW)
        return
    done = analyzer.compare(REFERENCE, address, FEW)
    assert done.passed, done.findings
    assert done.report["evidence"]["rise"]["rank_correlation"] > 0.99


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def predict(image): return np.roll(model(image), 1, 1)", "labels-differ"),
        ("def predict(image): return model(image) * 0.5", "scores-drift"),
        ("def predict(image):\n    p = model(image)\n    p[:, 3] = np.nan\n    return p", "not-finite"),
        (  # it reads a mark in the corner instead of the digits
            "def predict(image):\n    blank = model(np.zeros_like(image[:1]))[0]\n"
            "    return np.stack([np.clip(0.3 + 0.7 * blank + each[0, :20, :20].mean() / 9, 0, 1) for each in image])",
            "evidence-moves",
        ),
    ],
)
def test_a_broken_function_is_found(functions, body, code):
    assert code in codes(REFERENCE, functions(body))


def test_any_provider_and_ort_files(tmp_path):
    saved = tmp_path / "digits.ort"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(saved)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(REFERENCE), options, providers=["CPUExecutionProvider"])
    assert codes(REFERENCE, saved) == []
    assert codes(REFERENCE, f"ort:{REFERENCE}?provider=CPUExecutionProvider") == []
    assert codes(saved, REFERENCE) == []  # either side can be the runner
    assert codes(saved, f"ort:{REFERENCE}") == []  # and both


def test_a_detector_is_asked_by_d_rise():
    done = analyzer.compare(DETECTOR, f"ort:{DETECTOR}", FEW)
    assert done.passed and list(done.report["evidence"]) == ["d-rise"]
    assert done.report["evidence"]["d-rise"]["rank_correlation"] > 0.999


def test_methods_that_look_inside_are_refused():
    with pytest.raises(UnsupportedError, match="grad-cam looks inside the model"):
        analyzer.compare(REFERENCE, f"ort:{REFERENCE}", FEW, "grad-cam")


# ---- Evidence ----


def test_masks_are_those_of_explain():
    """With zeros for mid-gray, the map is that of `explain`, by another path through another session."""
    preprocess = model_card(REFERENCE).preprocess
    array = preprocess.apply(decode(FEW[0]))[0]
    expected = Explainer(REFERENCE).explain(array, "rise", 3, masks=60)
    side = side_of(open_model(f"ort:{REFERENCE}"), array.shape)
    outputs = side.all_outputs(array)

    class Answers:
        most = 7

        def said(self, pictures):
            return side.said(pictures, array)

    box = BlackBox(Answers(), side.task, ("Sigmoid",), array[0], np.zeros_like(array[0]), "CHW", outputs, 3)
    found = look(box, "rise", {"masks": 60})
    assert np.abs(found.heat - expected.heatmap[0]).max() < 1e-4


# ---- Nothing is lost ----


def test_a_run_that_died_resumes(functions, tmp_path, monkeypatch):
    log = tmp_path / "calls"
    address = functions(
        f"import pathlib\nlog = pathlib.Path({str(log)!r})\n"
        "def predict(image):\n"
        "    count = len(log.read_text()) if log.exists() else 0\n"
        "    log.write_text('x' * (count + len(image)))\n"
        "    if LIMIT and count > LIMIT: raise ConnectionError('the server is gone')\n"
        "    return model(image)\nLIMIT = 300"
    )
    store = str(tmp_path / "store")
    with pytest.raises(ProviderError, match="the server is gone"):
        analyzer.compare(REFERENCE, address, EXAMPLES, store=store, workers=1)
    first = len(log.read_text())
    sys.modules[address.split(":")[1]].LIMIT = 0
    whole = analyzer.compare(REFERENCE, address, EXAMPLES, store=store, workers=1)
    assert whole.passed and len(log.read_text()) - first < 4 * 122  # what was done is not done again
    assert [row["picture"] for row in whole.report["rows"]] == list(map(str, EXAMPLES))


def test_a_runner_is_recorded(functions, tmp_path, run):
    log = tmp_path / "calls"
    address = functions(
        f"import pathlib\ndef predict(image):\n    pathlib.Path({str(log)!r}).open('a').write('once')\n"
        "    return model(image)\n"
        "predict.inputs = {'image': ((None, 3, 96, 96), 'float32')}"
    )
    flags = ["--preset", "imagenet", "--store", str(tmp_path / "store"), *map(str, FEW)]
    assert run("record", address, *flags)[0] == 0
    log.unlink()
    code, said, _ = run("compare", address, str(REFERENCE), *flags)
    assert code == 0 and "rise: rank correlation 1.000" in said
    assert log.read_text() == "once"  # on random numbers, to see its outputs


# ---- Which output is which ----


def test_outputs_are_paired_by_name_then_shape_then_size():
    theirs = {"boxes": (1, 10, 4), "scores": (1, 10), "masks": (1, 3, 8, 8)}
    ours = {"a": (1, 8, 8, 3), "scores": (1, 10), "b": (1, 10, 4)}
    assert twins(ours, theirs) == {"scores": "scores", "b": "boxes", "a": "masks"}
    assert arranged(np.zeros((1, 8, 8, 3)), (1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert arranged(np.zeros((10,)), (1, 10)).shape == (1, 10)
    assert arranged(np.zeros((1, 5)), (1, 10)).shape == (1, 5)


def test_what_an_output_ends_with():
    assert squashed_by(np.array([[0.2, 0.8]])) == "Softmax"
    assert squashed_by(np.array([[0.9, 0.8]])) == "Sigmoid"
    assert squashed_by(np.array([[-1.0, 2.0]])) == ""


# ---- Servers ----


class _Server(ThreadingHTTPServer):
    """The protocol, spoken for the model; `trouble(count)` may answer a request otherwise, with a status or None."""

    daemon_threads = True

    def __init__(self, binary=True, trouble=lambda count: 200, change=lambda scores: scores):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.binary, self.trouble, self.change, self.count, self.batches = binary, trouble, change, 0, []
        self.session = ort.InferenceSession(str(REFERENCE), providers=["CPUExecutionProvider"])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v2/models/digits"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        tensor = {"datatype": "FP32", "shape": [-1, 3, 96, 96]}
        found = {"name": "tested", "version": "1", "extensions": ["binary_tensor_data"] if self.server.binary else []}
        if self.path != "/v2":
            outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
            found = {"name": "digits", "inputs": [{"name": "image", **tensor}], "outputs": outputs}
        self.answer(200, json.dumps(found).encode())

    def do_POST(self):
        self.server.count += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        size = int(self.headers.get("Inference-Header-Content-Length") or len(body))
        asked = json.loads(body[:size])["inputs"][0]
        given = np.frombuffer(body[size:], np.float32) if body[size:] else np.array(asked["data"], np.float32)
        self.server.batches.append(asked["shape"][0])
        status = self.server.trouble(self.server)
        if status is None:
            self.close_connection = True
            return self.connection.close()
        if status != 200:
            return self.answer(status, b'{"error": "too many pictures"}')
        scores = self.server.change(self.server.session.run(None, {"image": given.reshape(asked["shape"])})[0])
        output = {"name": "probabilities", "datatype": "FP32", "shape": list(scores.shape)}
        data = scores.astype(np.float32).tobytes()
        if not self.server.binary:
            return self.answer(200, json.dumps({"outputs": [output | {"data": scores.ravel().tolist()}]}).encode())
        head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": len(data)}}]}).encode()
        return self.answer(200, head + data, {"Inference-Header-Content-Length": str(len(head))})

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("analyzer.runtime.runners.http.PAUSE", 0.01)
    monkeypatch.setattr("analyzer.validation.perturbed.MASKS", 40)
    started = []

    def start(**how):
        started.append(_Server(**how))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("binary", [True, False])
def test_a_served_model_agrees(serve, binary):
    server = serve(binary=binary)
    done = analyzer.compare(REFERENCE, server.address, FEW)
    assert done.passed and done.report["evidence"]["rise"]["rank_correlation"] > 0.9999
    assert max(server.batches) == 16 and "tested 1 at 127.0.0.1" in done.run["candidate ran on"]


def test_a_broken_served_model_is_found(serve):
    server = serve(change=lambda scores: np.roll(scores, 1, 1))
    assert "labels-differ" in codes(REFERENCE, server.address)


def test_a_server_is_asked_again_and_for_fewer_pictures(serve):
    """Every fifth request breaks off, every seventh is refused for a while, and more than four pictures always are."""

    def trouble(server):
        if server.count % 5 == 0:
            return None
        return 503 if server.count % 7 == 0 else 400 if server.batches[-1] > 4 else 200

    server = serve(trouble=trouble)
    assert codes(REFERENCE, server.address) == []
    assert max(server.batches) == 16 and server.batches.count(4) > 10


def test_a_server_that_dies_is_one_sentence_and_nothing_is_lost(serve, tmp_path):
    server = serve(trouble=lambda server: 200 if server.count < 8 or server.alive else None)
    server.alive = False
    store = str(tmp_path / "store")
    with pytest.raises(ProviderError, match=r"the server at 127\.0\.0\.1:\d+ is gone: .* \(tried 4 times\)"):
        analyzer.compare(REFERENCE, server.address, EXAMPLES, store=store, workers=1)
    server.alive, before = True, server.count
    assert analyzer.compare(REFERENCE, server.address, EXAMPLES, store=store, workers=1).passed
    assert server.count - before <= 1 + 3 * 4  # to see the outputs, and three pictures


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("http://127.0.0.1:9/v2/models/digits?retries=0", ProviderError, "is gone"),
        ("http://localhost/digits", InputError, "is not http://host/v2/models/NAME"),
        ("http://user:secret@localhost/v2/models/digits", InputError, "must not contain a password"),
    ],
)
def test_a_wrong_server_is_one_sentence(path, error, words):
    with pytest.raises(error, match=words) as caught:
        open_runner(address_of(path))
    assert "secret" not in str(caught.value)


# ---- OpenVINO and LiteRT ----


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_int8", "digits_detector"])
def test_openvino_agrees_in_outputs_layers_and_evidence(name, tmp_path):
    openvino = pytest.importorskip("openvino", reason="pip install 'onnx-analyzer[openvino]'")
    saved = tmp_path / f"{name}.xml"
    openvino.save_model(openvino.convert_model(ROOT / "models" / f"{name}.onnx"), saved)
    reference = DETECTOR if "detector" in name else REFERENCE
    done = analyzer.compare(reference, f"openvino:{saved}", FEW)
    assert done.passed, done.findings
    assert len(done.report["layers"]) >= 13 and "OpenVINO" in done.run["candidate ran on"]
    assert next(iter(done.report["evidence"].values()))["rank_correlation"] > 0.99


def test_a_broken_openvino_model_is_found_at_its_layer(tmp_path):
    openvino = pytest.importorskip("openvino", reason="pip install 'onnx-analyzer[openvino]'")
    broken, saved = onnx.load(REFERENCE), tmp_path / "broken.xml"
    node = next(n for n in broken.graph.node if n.op_type == "Conv" and "stage3" in n.name)
    weight = next(t for t in broken.graph.initializer if t.name == node.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(broken, tmp_path / "broken.onnx")
    openvino.save_model(openvino.convert_model(tmp_path / "broken.onnx"), saved)
    found = {f["code"]: f["where"] for f in analyzer.compare(REFERENCE, saved, FEW).findings}
    assert "stage3" in found["features-diverge"]


@pytest.mark.parametrize(("scheme", "package"), [("openvino", "openvino"), ("litert", "ai-edge-litert")])
def test_a_missing_package_is_named_with_its_extra(scheme, package, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino" if scheme == "openvino" else "ai_edge_litert", None)
    with pytest.raises(ProviderError, match=f"needs the package {package}") as caught:
        open_runner(address_of(f"{scheme}:{REFERENCE}"))
    assert caught.value.hint == f"pip install 'onnx-analyzer[{scheme}]'"


@pytest.mark.parametrize("name", ["digits_cnn_int8.tflite", "digits_cnn_int8.xml"])
def test_the_included_files_agree_with_their_network(name):
    """Also the float network of which they are the eight-bit builds, by another converter."""
    package = {"tflite": "ai_edge_litert", "xml": "openvino"}[name.rpartition(".")[2]]
    pytest.importorskip(package, reason="pip install 'onnx-analyzer[litert,openvino]'")
    done = analyzer.compare(REFERENCE, ROOT / "models" / name, FEW)
    assert done.passed, done.findings
    assert len(done.report["layers"]) >= 13 and min(row["cosine"] for row in done.report["layers"]) > 0.99
    assert done.report["evidence"]["rise"]["rank_correlation"] > 0.99


def test_a_broken_litert_model_is_found():
    pytest.importorskip("ai_edge_litert", reason="pip install 'onnx-analyzer[litert]'")
    broken = onnx.load(REFERENCE)
    node = next(n for n in broken.graph.node if n.op_type == "Conv" and "stage3" in n.name)
    weight = next(t for t in broken.graph.initializer if t.name == node.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    file = ROOT / "models" / "digits_cnn_int8.tflite"
    done = analyzer.compare(broken, file, FEW, preset="imagenet", labels=None)
    assert {"labels-differ", "evidence-moves"} <= {f["code"] for f in done.findings}
