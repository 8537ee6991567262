"""What is kept is never stale: each byte that a result depends on is in its key, and nothing else is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import analyzer
from analyzer import store
from analyzer.api import models
from analyzer.attribution import Explainer
from analyzer.attribution import model as loaded_model
from analyzer.errors import InputError
from analyzer.files import content_hash
from analyzer.graph import load
from analyzer.images import Preprocess, model_card, write_png
from analyzer.mining import miner
from analyzer.runtime import Session
from analyzer.store import Cache, Store
from analyzer.validation import Pair, Side, compare
from analyzer.validation.audit import Picture, audit
from tests.models import small_cnn

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)


def external(folder: Path, name: str = "m.onnx", sizes: int = 0) -> Path:
    """The small network with its weights in two files beside it."""
    model = small_cnn()
    onnx.external_data_helper.convert_model_to_external_data(model, all_tensors_to_one_file=False, size_threshold=sizes)
    onnx.save(model, folder / name)
    return folder / name


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix not in (".onnx", ".png", ".toml", ".txt", ".json"))


def change(path: Path) -> None:
    """One bit in the middle of a file, in place, its size and times as they were."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 // 4 * 4 + 2] ^= 0x40
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def large(folder: Path) -> Path:
    """A network whose convolution is mapped from its file: (1, 3, 12, 12) → (1, 4)."""
    weights = np.random.default_rng(1).standard_normal((64, 3, 3, 3)).astype(np.float32)
    head = np.random.default_rng(2).standard_normal((64, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(head, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(exist_ok=True)
    path = folder / "large.onnx"
    onnx.save(model, path, save_as_external_data=True, location="large.data", size_threshold=0)
    return path


# ---- Models ----


def test_each_byte_of_a_model_is_its_identity(tmp_path):
    path = external(tmp_path)
    files = [path, *data_files(tmp_path)]
    assert len(files) > 3
    seen = {load(path).identity}
    assert load(path).identity in seen
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert load(tmp_path / "copy" / "m.onnx").identity in seen  # by content, not by path or time
    for file in files[1:]:
        change(file)
        found = load(path).identity
        assert found not in seen, file
        seen.add(found)
    plain = small_cnn().SerializeToString()
    (tmp_path / "plain.onnx").write_bytes(plain)
    assert load(tmp_path / "plain.onnx").identity == load(plain).identity == content_hash(tmp_path / "plain.onnx")


def test_mapped_weights_and_models_in_memory_too(tmp_path):
    path = large(tmp_path / "a")
    first = load(path)
    assert first.mapped and first.identity == load(path).identity
    change(path.with_name("large.data"))
    assert load(path).identity != first.identity
    one, other = small_cnn(), small_cnn()
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(other.graph.initializer[0]) + 1, other.graph.initializer[0].name)
    )
    assert load(one).identity == load(small_cnn()).identity != load(other).identity


def test_external_data_is_hashed_once_per_state(tmp_path, monkeypatch):
    path = large(tmp_path / "a")
    data = path.with_name("large.data")
    os.utime(data, ns=(1, 1))
    opened = []
    real = os.fstat
    monkeypatch.setattr("analyzer.files.FileState.from_stat", _old(opened, real))
    hashes = {load(path).identity for _ in range(5)}
    assert len(hashes) == 1
    count = _hash_count(monkeypatch)
    load(path).identity
    assert count == []
    change(data)
    assert load(path).identity not in hashes and len(count) == 1


def _old(_calls, _real):
    """States of files that are settled, as those of old files are."""
    from analyzer.files import FileState

    def made(status):
        return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, (status.st_dev, status.st_ino), True)

    return made


def _hash_count(monkeypatch) -> list:
    import hashlib

    calls: list = []
    real = hashlib.file_digest

    def counted(file, *rest):
        if str(file.name).endswith(".data"):
            calls.append(file.name)
        return real(file, *rest)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return calls


def test_a_loaded_model_whose_mapped_weights_change_is_refused(tmp_path):
    path = large(tmp_path / "a")
    explainer = Explainer(path)
    before = explainer.explain(IMAGE).scores
    change(path.with_name("large.data"))
    with pytest.raises(InputError, match=r"large\.data has changed since the model was loaded"):
        explainer.explain(IMAGE)
    assert not np.array_equal(Explainer(path).explain(IMAGE).scores, before)


@pytest.mark.parametrize("make", [external, large])
def test_explain_follows_the_bytes(tmp_path, make):
    path = make(tmp_path)
    for file in data_files(tmp_path):
        before = analyzer.explain(str(path), IMAGE).scores
        assert np.array_equal(analyzer.explain(str(path), IMAGE).scores, before)
        change(file)
        assert np.array_equal(analyzer.explain(str(path), IMAGE).scores, Explainer(path).explain(IMAGE).scores), file
    assert not np.array_equal(analyzer.explain(str(path), IMAGE).scores, before)


def test_explain_keeps_what_has_not_changed(tmp_path, monkeypatch):
    path = external(tmp_path)
    monkeypatch.setattr("analyzer.files.FileState.from_stat", _old([], None))
    analyzer.explain(str(path), IMAGE)
    made = []
    monkeypatch.setattr(models, "Explainer", lambda *a, **k: made.append(a))
    analyzer.explain(str(path), IMAGE)
    assert not made


# ---- Weights of bodies ----


def with_body(folder: Path, as_constant: bool) -> Path:
    """x · secret inside an If, whose weight lies in secret.bin."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "s")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    nodes = [helper.make_node("Constant", [], ["s"], value=tensor)] if as_constant else []
    out = helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 4])
    then = helper.make_graph(
        [*nodes, helper.make_node("Mul", ["x", "s"], ["t"])], "then", [], [out], [] if as_constant else [tensor]
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "else", [], [out])
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["n"], keepdims=0),
            helper.make_node("Greater", ["n", "zero"], ["c"]),
            helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        ],
        "body",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "body.onnx").write_bytes(model.SerializeToString())
    return folder / "body.onnx"


@pytest.mark.parametrize("as_constant", [True, False])
def test_weights_of_bodies_lie_beside_the_model(tmp_path, monkeypatch, as_constant):
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = with_body(tmp_path / "model", as_constant)
    np.full(4, 7, np.float32).tofile(tmp_path / "elsewhere" / "secret.bin")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"secret\.bin is missing"):
        Explainer(path)
    identities = set()
    for value in (2, 3):
        np.full(4, value, np.float32).tofile(path.with_name("secret.bin"))
        explainer = Explainer(path)
        identities.add(explainer.loaded.identity)
        found = Session(explainer.graph()).run({"x": np.ones((1, 4), np.float32)})["y"]
        assert np.array_equal(found, np.full((1, 4), value, np.float32))
    assert len(identities) == 2


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, "../secret.bin", "/etc/passwd"])
def test_locations_of_body_weights_are_checked(tmp_path, location):
    path = with_body(tmp_path, False)
    model = onnx.load(path, load_external_data=False)
    bodies = [a.g for a in model.graph.node[-1].attribute if a.g.initializer]
    bodies[0].initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="external data"):
        load(path)


# ---- The cache of rewritten graphs ----


def rewrites(monkeypatch) -> list:
    calls: list = []
    real = loaded_model.normalize

    def counted(*arguments, **options):
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(loaded_model, "normalize", counted)
    return calls


def test_the_cache_follows_small_external_weights(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.setattr("analyzer.graph.source.DETACH_BYTES", 1 << 20)
    path, cache = external(tmp_path / "m"), Cache(tmp_path / "cache")
    scores = [Explainer(path, cache=cache).explain(IMAGE).scores]
    calls = rewrites(monkeypatch)
    assert np.array_equal(Explainer(path, cache=cache).explain(IMAGE).scores, scores[0]) and not calls
    for file in data_files(tmp_path / "m"):
        change(file)
        scores.append(Explainer(path, cache=cache).explain(IMAGE).scores)
        assert np.array_equal(scores[-1], Explainer(path).explain(IMAGE).scores)
    assert calls and not np.array_equal(scores[0], scores[-1])


@pytest.fixture
def other_code(monkeypatch):
    """A function after whose call our code counts as changed."""
    return lambda: monkeypatch.setattr(store, "code_stamp", lambda: "other")


def test_the_cache_follows_our_code(tmp_path, monkeypatch, other_code):
    (tmp_path / "m.onnx").write_bytes(small_cnn().SerializeToString())
    Explainer(tmp_path / "m.onnx", cache=Cache(tmp_path / "cache")).explain(IMAGE)
    other_code()
    calls = rewrites(monkeypatch)
    Explainer(tmp_path / "m.onnx", cache=Cache(tmp_path / "cache")).explain(IMAGE)
    assert calls


def test_every_file_of_ours_is_in_the_stamp(tmp_path, monkeypatch):
    copy = tmp_path / "analyzer"
    shutil.copytree(Path(store.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "__file__", str(copy / "store.py"))
    stamp = store.code_stamp.__wrapped__
    known = stamp()
    for file in ("images/preprocess.py", "validation/metrics.py", "runtime/session.py", "runtime/kernels/cuda.json"):
        text = (copy / file).read_text()
        os.utime(copy / file, ns=(5, 5))
        assert stamp() == known, "by content, not by time"
        (copy / file).write_text(text + "\n")
        assert stamp() != known, file
        (copy / file).write_text(text)
    assert stamp() == known


# ---- Stores of comparisons and audits ----


class Runs:
    """Counts session runs."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        real = Session.run

        def counted(session, *arguments, **options):
            self.count += 1
            return real(session, *arguments, **options)

        monkeypatch.setattr(Session, "run", counted)

    def of(self, work) -> int:
        self.count = 0
        work()
        return self.count


def compared(reference: Path, candidate: Path, folder: Path, image: np.ndarray = IMAGE, **options) -> dict:
    sides = [Side(Explainer(m, **options), image.shape) for m in (reference, candidate)]
    return compare(*sides, [Pair("p", image, image)], methods=("grad-cam",), folder=folder).report


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return external(tmp_path / "a"), large(tmp_path / "b")


def test_compare_runs_again_what_changed_and_nothing_else(tmp_path, pair, monkeypatch, other_code):
    runs = Runs(monkeypatch)
    work = lambda **options: compared(*pair, tmp_path / "store", **options)  # noqa: E731
    assert runs.of(work) > 4
    assert runs.of(work) == 0
    for file in [*data_files(pair[0].parent), pair[1].with_name("large.data")]:
        change(file)
        assert runs.of(work) > 0, file
        assert runs.of(work) == 0
    assert runs.of(lambda: compared(*pair, tmp_path / "store", IMAGE + 1e-6)) > 0
    for options in ({"threads": 1}, {"level": "basic"}):
        assert runs.of(lambda options=options: work(**options)) > 0, options
    for name, value in (("runtime_version", "0.1"), ("processor", "abacus")):
        monkeypatch.setattr(f"analyzer.runtime.host.{name}", lambda value=value: value)
        assert runs.of(work) > 0, name
        assert runs.of(work) == 0
    other_code()
    assert runs.of(work) > 0


def test_another_candidate_under_the_same_name_fails(tmp_path, pair):
    """Not the kernels that were read for the layers of another pair, either."""
    folder = tmp_path / "store"
    same = compared(pair[0], pair[0], folder)
    assert same["outputs"]["score_drift_max"] == 0
    for file in data_files(pair[0].parent):
        shutil.copy(file, file.with_name(f"{file.name}.kept"))
        change(file)
    (tmp_path / "c").mkdir()
    fresh = external(tmp_path / "c")
    assert compared(fresh, pair[0], folder)["outputs"]["score_drift_max"] > 0


def test_a_record_is_followed_where_the_model_is_the_same(tmp_path, pair, monkeypatch):
    runs, folder = Runs(monkeypatch), tmp_path / "store"
    Side(pair[0], IMAGE.shape, store=Store(folder)).record(IMAGE, ("grad-cam",))
    monkeypatch.setattr("analyzer.runtime.host.runtime_version", lambda: "0.1")
    side = lambda: Side(pair[0], IMAGE.shape, store=Store(folder))  # noqa: E731
    assert runs.of(lambda: side().output(IMAGE)) == 0
    assert side().receipt["onnxruntime"] != "0.1"
    with pytest.raises(InputError, match="another environment"):
        side().output(IMAGE + 1)
    change(data_files(pair[0].parent)[0])
    assert runs.of(lambda: side().output(IMAGE)) > 0


def test_audit_runs_again_what_changed_and_nothing_else(tmp_path, monkeypatch, other_code):
    (tmp_path / "m").mkdir()
    path, runs = external(tmp_path / "m"), Runs(monkeypatch)
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    how = model_card(None, {"preset": "0-1"}, (1, 3, 12, 12), np.float32).preprocess

    def work(pixels=pixels, how: Preprocess = how, label: int | None = 0, boxes=None, method="grad-cam", **options):
        explainer = Explainer(path, **options)
        given = [Picture("p", pixels, label, boxes)]
        audit(explainer, how, given, method, 1, 0, folder=tmp_path / "store")

    assert runs.of(work) > 4
    unchanged = runs.of(work)
    assert unchanged <= 2
    brighter = pixels.copy()
    brighter[0, 0, 0] ^= 1
    for what in (
        {"pixels": brighter},
        {"how": how.replace(mean=(0.1,))},
        {"label": 1},
        {"boxes": np.array([[0.0, 0, 4, 4]])},
        {"method": "gradient"},
        {"threads": 1},
    ):
        assert runs.of(lambda what=what: work(**what)) > unchanged, what
        assert runs.of(lambda what=what: work(**what)) <= unchanged, what
    for file in data_files(tmp_path / "m"):
        change(file)
        assert runs.of(work) > unchanged, file
    monkeypatch.setattr("analyzer.runtime.host.runtime_version", lambda: "0.1")
    assert runs.of(work) > unchanged
    other_code()
    assert runs.of(work) > unchanged


# ---- Mining ----


@pytest.fixture
def mined(tmp_path):
    """work(…) mines six pictures into a folder; how many were taken from an earlier run."""
    (tmp_path / "m").mkdir()
    path = external(tmp_path / "m")
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        write_png(tmp_path / "pictures" / f"{i}.png", rng.integers(0, 255, (12, 12, 3), np.uint8))
    how = model_card(None, {"preset": "0-1", "size": "12x12"}, (1, 3, 12, 12), np.float32).preprocess

    def work(how: Preprocess = how, folder: str = "mined", **options) -> int:
        explainer, place = Explainer(path, **options), tmp_path / folder
        return miner.mine(explainer, [tmp_path / "pictures"], ["r1"], how, 2, place, 2, workers=1).resumed

    return work


def test_mine_resumes_what_is_the_same(tmp_path, mined, other_code):
    assert mined() == 0
    assert mined() == 6
    for picture in (tmp_path / "pictures").iterdir():
        os.utime(picture, ns=(5, 5))
    assert mined() == 6, "by content, not by time"
    swapped = model_card(None, {"preset": "-1-1", "size": "12x12"}, (1, 3, 12, 12), np.float32).preprocess
    for options in ({"how": swapped}, {"threads": 1}):
        assert (mined(**options), mined(**options)) == (0, 6), options
    change(data_files(tmp_path / "m")[0])
    assert (mined(), mined()) == (0, 6)
    other_code()
    assert mined() == 0


@pytest.mark.parametrize(("number", "left"), [(0, 2), (3, 2), (5, 4)])
def test_mine_sees_a_changed_picture(tmp_path, mined, number, left):
    """Batches of two, the first two joined to one block: what the changed picture is not in is used again."""
    assert mined() == 0
    write_png(tmp_path / "pictures" / f"{number}.png", np.full((12, 12, 3), 99, np.uint8))
    assert mined() == left
    assert mined() == 6


def test_a_journal_sees_a_changed_picture(tmp_path, mined, monkeypatch):
    real = miner.Mining.step

    def stops(self, batch):
        if batch[0].sample.number >= 4:
            raise KeyboardInterrupt
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(miner.Mining, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            mined()
    shutil.copytree(tmp_path / "mined", tmp_path / "again")
    assert mined() == 4
    write_png(tmp_path / "pictures" / "1.png", np.full((12, 12, 3), 99, np.uint8))
    assert mined(folder="again") == 2
