"""Values that float16 cannot represent, told from the float32 file; checked against onnxruntime's converter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import analyzer
from analyzer.commands import main
from analyzer.errors import UnsupportedError
from analyzer.images import write_png

ROOT = Path(__file__).resolve().parents[1]
PREPROCESS = {"preset": "raw", "size": [8, 8]}


def chain(*factors: float, names: str = "abcdefg", last: str = "y") -> onnx.ModelProto:
    """x times one factor after the other, each by a node of its own, then a score per channel."""
    nodes, weights, tensor = [], [], "x"
    for name, factor in zip(names, factors, strict=False):
        weights.append(numpy_helper.from_array(np.float32(factor).reshape(1), f"{name}.factor"))
        nodes.append(helper.make_node("Mul", [tensor, f"{name}.factor"], [f"{name}.out"], name))
        tensor = f"{name}.out"
    nodes += [helper.make_node("GlobalAveragePool", [tensor], ["pooled"], "pool")]
    nodes += [helper.make_node("Flatten", ["pooled"], [last], "flat")]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 3])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Two pictures, with gray values of 50 and of 100."""
    for value in (50, 100):
        write_png(tmp_path / f"{value}.png", np.full((8, 8, 3), value, np.uint8))
    return [str(tmp_path / "50.png"), str(tmp_path / "100.png")]


def audited(proto: onnx.ModelProto, folder: Path, pictures: list[str]) -> analyzer.Audit:
    onnx.save(proto, folder / "m.onnx")
    return analyzer.audit(folder / "m.onnx", pictures, fp16=True, preprocess=PREPROCESS)


def converted(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every tensor of the file that onnxruntime's converter makes, for the second picture, without optimizations."""
    half = convert_float_to_float16(proto, keep_io_types=True)
    names = [name for node in half.graph.node for name in node.output]
    shapes = {o.name for o in half.graph.output}
    half.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in shapes)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(half.SerializeToString(), options)
    outputs = [o.name for o in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {"x": np.full((1, 3, 8, 8), 100, np.float32)}), strict=True))


def test_an_intermediate_of_1e5_overflows(tmp_path, pictures):
    """50 · 1000 fits, 100 · 1000 does not."""
    proto = chain(10, 100, 1e-3)
    done = audited(proto, tmp_path, pictures)
    (finding,) = done.findings
    assert (finding["code"], finding["where"]) == ("fp16-overflow", "b.out")
    assert finding["value"] == pytest.approx(1e5) and finding["limit"] == 65504
    assert "the output of Mul 'b' reaches 1e+05, on 1 of 2 pictures" in finding["words"]
    (row,) = done.report["fp16"]
    assert row["overflow"] == 0.5 and row["node"] == "b" and done.report["summary"]["overflowing"] == 1
    real = converted(proto)
    assert np.isfinite(real["a.out"]).all() and np.isinf(real["b.out"]).all()


def test_what_vanishes_is_named_where_it_does(tmp_path, pictures):
    proto = chain(1e-5, 1e-6, 3e4, 3e4)
    done = audited(proto, tmp_path, pictures)
    assert [(f["code"], f["where"]) for f in done.findings] == [("fp16-vanishes", "b.out")]
    assert "100% of the magnitude of the output of Mul 'b'" in done.findings[0]["words"]
    real = converted(proto)
    assert (real["a.out"] > 0).all() and (real["b.out"] == 0).all()


def test_weights(tmp_path, pictures):
    """A factor of 1e-9 becomes 0 in a file whose tensors are rounded, one of 7e4 ∞."""
    done = audited(chain(1e-9, 7e4, 1e2), tmp_path, pictures)
    found = {f["where"]: f for f in done.findings}
    assert found["a.factor"]["code"] == "fp16-vanishes" and found["b.factor"]["code"] == "fp16-overflow"
    assert "that Mul 'b' reads reaches 7e+04" in found["b.factor"]["words"]
    with np.errstate(over="ignore"):
        assert np.float16(1e-9) == 0 and np.isinf(np.float16(7e4))


@pytest.mark.parametrize("value", [65503.9, 65519.9, 65520.0, 2.0**-24, 1.01 * 2.0**-25, 2.0**-25])
def test_the_bounds_are_those_of_rounding(tmp_path, pictures, value):
    """NumPy's rounding is the judge."""
    done = audited(chain(value), tmp_path, pictures)
    with np.errstate(over="ignore"):
        half = np.float16(np.float32(value))
    named = [f["where"] for f in done.findings]
    assert ("a.factor" in named) == (np.isinf(half) or half == 0)


def test_a_sound_model_and_a_detector(tmp_path, pictures):
    assert not audited(chain(2, 0.5), tmp_path, pictures).findings
    found = analyzer.audit(
        ROOT / "models" / "digits_detector.onnx", sorted((ROOT / "examples").glob("d*.png")), fp16=True
    )
    assert not [f for f in found.findings if f["code"] == "fp16-overflow"] and found.report["summary"]["tensors"] > 10


def test_half_precision_files_are_refused(tmp_path, pictures):
    half = convert_float_to_float16(chain(1, 2))
    with pytest.raises(UnsupportedError, match="float32"):
        audited(half, tmp_path, pictures)


def test_the_command(tmp_path, pictures, monkeypatch, capsys):
    onnx.save(chain(10, 100, 1e-3), tmp_path / "m.onnx")
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    call = ["audit", str(tmp_path / "m.onnx"), *pictures, "--fp16", "--preset", "raw", "--size", "8x8"]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *call, "--report", str(page), "--report", str(data)])
    with pytest.raises(SystemExit) as stopped:
        main()
    out = capsys.readouterr().out
    assert stopped.value.code == 1 and "fp16-overflow" in out and "b.out" in out
    assert "Values that float16 cannot represent" in page.read_text() and ">Checks</h2>" not in page.read_text()
    assert json.loads(data.read_text())["audit"]["fp16"][0]["tensor"] == "b.out"
