"""The explorer's server: what it answers equals the library, and who is refused."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.attribution.projection import project
from analyzer.data import find_pictures
from analyzer.images import decode
from analyzer.images.preprocess import INTERPOLATIONS, PRESETS, RESIZES, Preprocess

pytest.importorskip("uvicorn", reason="needs the extra explore")
pytest.importorskip("starlette", reason="needs the extra explore")

from analyzer.explorer.answers import Explorer
from analyzer.explorer.atlas import atlas
from analyzer.explorer.bench import Bench, first_readable
from analyzer.explorer.cards import Cards
from analyzer.explorer.embedding import model_of
from analyzer.explorer.jobs import Jobs, Progress
from analyzer.explorer.pictures import Pictures
from analyzer.explorer.serve import serve

ROOT = Path(__file__).parent.parent
MODEL, OTHER = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_cnn_int8.onnx"
PICTURES = sorted((ROOT / "examples").glob("digits_*.png"))
LAYER = "/network/stage3/Relu_output_0"


def opened(path: Path, pictures: Pictures) -> Bench:
    explainer = Explainer(path)
    return Bench(explainer, read_card(explainer, None, {}), pictures.first)


class Client:
    """Asks the server as the page does, with its cookie."""

    def __init__(self, url: str) -> None:
        found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/\?token=([\w-]+)", url)
        assert found is not None, url
        self.host, self.token = found.groups()
        answer, _ = self.get(f"/?token={self.token}", cookie="")
        assert answer.status == 200
        self.cookie = answer.headers["set-cookie"].split(";")[0]

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, cookie: str | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        given = {"Cookie": self.cookie if cookie is None else cookie}
        connection.request(method, path, body, {n: v for n, v in (given | headers).items() if v})
        answer = connection.getresponse()
        return answer, answer.read()

    def json(self, path: str) -> Any:
        answer, data = self.get(path)
        assert answer.status == 200, data
        return json.loads(data)

    def npy(self, path: str) -> np.ndarray:
        answer, data = self.get(f"{path}{'&' if '?' in path else '?'}format=npy")
        assert answer.status == 200, data
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))

    def packed(self, path: str) -> tuple[Any, bytes]:
        answer, data = self.get(path)
        assert answer.status == 200, data
        (length,) = struct.unpack("<I", data[:4])
        return json.loads(data[4 : 4 + length]), data[4 + length :]


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    samples = find_pictures(list(map(str, PICTURES)))
    pictures = Pictures(samples)
    benches = [opened(MODEL, pictures), opened(OTHER, pictures)]
    return Explorer(benches, pictures, Cards(benches[0], samples))


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> Iterator[Client]:
    urls: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    def note(url: str) -> None:
        urls.append(url)
        ready.set()

    thread = threading.Thread(target=serve, args=(explorer,), kwargs={"ready": note, "stop": stop}, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield Client(urls[0])
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def number(client: Client) -> int:
    """Of the last layer with maps."""
    layers = client.json("/api/model")["models"][0]["layers"]
    return next(at for at, layer in enumerate(layers) if layer["name"] == LAYER)


# ---- Numbers are those of the library ----


def test_activations_are_those_of_features(client: Client, number: int) -> None:
    explainer = Explainer(MODEL)
    array = read_card(explainer, None, {}).feeds.feed(PICTURES[1]).main.array
    expected = analyzer.features(explainer, array, [LAYER])[LAYER][0]
    found = client.npy(f"/api/activations/1/{number}")
    assert np.allclose(found, expected, rtol=0, atol=1e-6 * expected.max())  # other layers are read in the same run
    about, data = client.packed(f"/api/values/1/{number}/5")
    assert np.array_equal(np.frombuffer(data, "<f4").reshape(about["grid"]), found[5])


def test_the_atlas_holds_every_channel_in_its_own_scale(client: Client, number: int) -> None:
    maps = client.npy(f"/api/activations/0/{number}")
    about, data = client.packed(f"/api/activations/0/{number}")
    gray = decode(data)[..., 0].astype(np.float32)
    height, width = about["tile"]
    assert (height, width) == maps.shape[1:] and about["count"] == len(maps)
    for channel in range(len(maps)):
        row, column = divmod(channel, about["columns"])
        tile = gray[row * height : (row + 1) * height, column * width : (column + 1) * width]
        low, high = about["low"][channel], about["high"][channel]
        assert np.allclose(low + tile / 255 * (high - low), maps[channel], atol=(high - low) / 500)


def test_the_atlas_holds_all_of_a_long_vector() -> None:
    made = atlas(np.arange(21_843, dtype=np.float32)[:, None, None])
    assert made.count == 21_843 and made.high[-1] == 21_842
    assert atlas(np.zeros((5000, 64, 64))).count == 4096


def test_jobs_are_stopped_and_go_on() -> None:
    """One that fails without a reason of ours does not end the others."""
    jobs, started, go = Jobs(), threading.Event(), threading.Event()

    def slow(note: Progress) -> str:
        for step in range(100):
            started.set()
            note(step, 100)
            go.wait(0.05)
        return "done"

    broken = jobs.get("broken", lambda note: 1 // 0)
    assert broken.finished.wait(10) and broken.state == "failed" and "ZeroDivisionError" in broken.error
    job = jobs.get("slow", slow)
    assert started.wait(10)
    waiting = jobs.get("waiting", lambda note: "early")
    jobs.set_running(waiting.number, False)
    jobs.set_running(job.number, False)
    assert job.finished.wait(10) and waiting.finished.wait(10) and job.state == waiting.state == "stopped"
    go.set()
    jobs.set_running(job.number, True)
    assert job.finished.wait(10) and job.result == "done" and waiting.result is None
    with pytest.raises(analyzer.NotFoundError):
        jobs.set_running(99, False)
    jobs.stop()


def test_large_maps_keep_their_strongest_values() -> None:
    maps = np.zeros((2, 300, 200), np.float32)
    maps[0, 123, 45], maps[1, 299, 199] = 5, -3
    made = atlas(maps)
    assert max(made.tile) <= 96 and made.pixels.max() == 255
    assert list(made.low) == [0, -3] and list(made.high) == [5, 0]


def test_what_is_not_finite_is_dark() -> None:
    maps = np.ones((1, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 1, 1] = np.nan, 3
    made = atlas(maps)
    assert made.low[0] == 1 and made.high[0] == 3 and made.pixels[0, 0] == 0


@pytest.mark.parametrize("policy", ["deconvnet", "guided", "gradient"])
def test_projections_are_those_of_project(client: Client, number: int, policy: str) -> None:
    explainer = Explainer(MODEL)
    array = read_card(explainer, None, {}).feeds.feed(PICTURES[0]).main.array
    expected = project(explainer, array, LAYER, 7, 20, policy).pixels[0].transpose(1, 2, 0)
    y, x = divmod(20, 12)
    path = f"/api/project/0/{number}/7?y={y}&x={x}&policy={policy}"
    assert np.array_equal(client.npy(path), expected)
    about, small = client.packed(path)
    said, quick = client.packed(f"{path}&plain=1")  # as the page asks
    assert said == about and small.startswith(b"\x89PNG") and quick.startswith(b"BM")
    assert np.array_equal(decode(quick), decode(small))


def test_answers_are_sent_at_once(client: Client) -> None:
    """Head and body of an answer are two packets: without TCP_NODELAY the second waits 40 ms for the first."""
    connection = http.client.HTTPConnection(client.host, timeout=60)
    took = []
    for _ in range(9):
        started = time.perf_counter()
        connection.request("GET", "/api/pictures", headers={"Cookie": client.cookie})
        connection.getresponse().read()
        took.append(time.perf_counter() - started)
    assert min(took[1:]) < 0.03


def test_evidence_is_that_of_explain(client: Client) -> None:
    expected = analyzer.explain(str(MODEL), PICTURES[0], "grad-cam", "three")
    found = client.npy("/api/explain/0?method=grad-cam&target=three")
    assert np.allclose(found, expected.in_units(0), atol=1e-5)
    about, _ = client.packed("/api/explain/0?method=grad-cam&target=three")
    assert about["title"].startswith("three") and about["layer"] == LAYER
    named = [one["label"] for one in client.json("/api/predictions/0")["predictions"]]
    assert named[:3] == [p.label for p in expected.predictions[:3]]


def test_gradients_are_those_of_the_graph(client: Client, number: int) -> None:
    """∂(the logit)/∂(a layer), and its sum times the activations; of units, ∂(unit)/∂(a layer before)."""
    explainer = Explainer(MODEL)
    array = read_card(explainer, None, {}).feeds.feed(PICTURES[0]).main.array
    logits = "/network/head/Gemm_output_0"
    found = client.npy(f"/api/activations/0/{number}?origin=target&target=3")
    expected = _gradient(logits, LAYER, array, (0, 3))
    assert np.abs(expected).max() > 0 and np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    maps = client.npy(f"/api/activations/0/{number}")
    ranking = client.json(f"/api/ranking/0/{number}?by=target&target=3")["channels"]
    total = (expected * maps).sum((1, 2))
    assert [v for _, v in ranking] == pytest.approx(sorted(total, reverse=True), rel=1e-3, abs=1e-4)
    first = client.json("/api/model")["models"][0]["layers"][0]["name"]
    found = client.npy(f"/api/activations/0/0?origin={number}/5/4/7&policy=gradient")
    assert np.allclose(found, _gradient(LAYER, first, array, (0, 5, 4, 7)), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "picture", "targets"),
    [
        ("digits_cnn", "digits_coffee", ["top1", "three", "probabilities[:, 0]"]),
        ("digits_detector", "digits_coffee", ["top1", "detection:1"]),
        ("digits_segmenter", "digits_coffee", ["top1", "eight"]),
        ("digits_keypoints", "digits_coffee", ["top1"]),
        ("digits_reader", "line", ["top1"]),
    ],
)
def test_gradients_of_any_target_are_those_of_hires_cam(model: str, picture: str, targets: list[str]) -> None:
    pictures = Pictures(find_pictures([str(ROOT / "examples" / f"{picture}.png")]))
    bench = opened(ROOT / "models" / f"{model}.onnx", pictures)
    number, first = bench.as_data()["first"], pictures.first
    for target in targets:
        expected = bench.explained(first, "hires-cam", target, number).raw[0]
        products = bench.sensitivity(first, bench.layer(number), target, "gradient") * bench.maps(first, number)
        assert np.allclose(np.maximum(products.sum(0), 0), expected, atol=1e-5 * np.abs(expected).max(initial=1))
    with pytest.raises((analyzer.NotFoundError, analyzer.InputError)):
        bench.sensitivity(first, bench.layer(number), "detection:99", "gradient")


def test_channels_are_ranked_by_selectivity(client: Client, explorer: Explorer) -> None:
    """For the class of one picture: (μ₊ − μ₋) / (μ₊ + μ₋) of positive activations that `features` gives."""
    layer = "/network/stage3/Add_output_0"  # with negative values
    number = [one.name for one in explorer.benches[0].layers].index(layer)
    found = [analyzer.features(str(MODEL), str(path), [layer])[layer][0] for path in PICTURES]
    assert min(map(np.min, found)) < 0
    maps = [np.maximum(one, 0).mean((1, 2)) for one in found]
    classes = [int(analyzer.explain(str(MODEL), str(path)).target[0]) for path in PICTURES]
    target = classes[0]
    one = np.mean([m for m, c in zip(maps, classes, strict=True) if c == target], axis=0)
    rest = np.mean([m for m, c in zip(maps, classes, strict=True) if c != target], axis=0)
    expected = (one - rest) / np.maximum(one + rest, 1e-12)
    path = f"/api/ranking/0/{number}?by=selectivity&target={target}"
    client.json(path)
    assert explorer.selectivity[0].job(explorer.benches[0].layer(number)).finished.wait(60)
    ranked = client.json(path)["channels"]
    assert [v for _, v in ranked] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert ranked[0][0] == int(np.argmax(expected))
    missing = next(c for c in range(10) if c not in classes)
    said = client.json(f"/api/ranking/0/{number}?by=selectivity&target={missing}")
    assert not said["channels"] and said["note"].startswith("0 of 4 pictures are of this class")


def _gradient(of: str, wrt: str, array: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    vjp = analyzer.append_vjp(str(MODEL), [of], [wrt])
    session = onnxruntime.InferenceSession(vjp.model.SerializeToString(), providers=["CPUExecutionProvider"])
    seed = np.zeros(analyzer.features(str(MODEL), array, [of])[of].shape, np.float32)
    seed[place] = 1
    given = {session.get_inputs()[0].name: array, vjp.cotangents[of]: seed}
    return np.asarray(session.run([vjp.gradients[wrt]], given)[0][0])


def test_heads_show_what_the_class_token_attends_to() -> None:
    """The row of the class token of each softmax, that of onnxruntime's own run."""
    pictures = Pictures(find_pictures([str(PICTURES[0])]))
    bench = opened(ROOT / "models" / "digits_vit.onnx", pictures)
    heads = [layer for layer in bench.layers if layer.heads]
    assert len(heads) == 5 and heads[0].grid == (12, 12)
    model = onnx.load(ROOT / "models" / "digits_vit.onnx")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(heads[2].name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    array = bench.card.feeds.feed(PICTURES[0]).main.array
    (weights,) = session.run(None, {session.get_inputs()[0].name: array})
    assert weights.shape[1:] == (heads[2].channels, 145, 145)
    found = bench.one(pictures["0"], heads[2])
    assert np.allclose(found.reshape(len(found), -1), weights[0, :, 0, 1:], atol=1e-6)
    other = bench.one(pictures["0"], heads[2].of_query(13))  # row 1, column 1 of 12 × 12
    assert np.allclose(other.reshape(len(other), -1), weights[0, :, 14, 1:], atol=1e-6)
    assert not np.allclose(other, found, atol=1e-3)
    with pytest.raises(analyzer.NotFoundError, match="no token 144"):
        heads[2].of_query(144)
    assert bench.sensitivity(pictures["0"], heads[2], "top1", "gradient").any()
    with pytest.raises(analyzer.UnsupportedError, match="attention is not projected"):
        bench.project(pictures["0"], heads[2], 0, 0, "deconvnet")


def test_a_picture_is_fitted_otherwise(client: Client) -> None:
    how = read_card(Explainer(MODEL), None, {"resize": "crop"})
    expected = how.feeds.preprocess.undo(how.feeds.feed(PICTURES[0]).main.array[0])
    assert np.array_equal(decode(client.get("/api/picture/0~crop?seen=1")[1]), expected)
    assert client.get("/api/picture/0~sideways?seen=1")[0].status == 404


def test_two_pictures_are_subtracted(client: Client, number: int) -> None:
    one, two = (client.npy(f"/api/activations/{key}/{number}") for key in (1, 2))
    assert np.array_equal(client.npy(f"/api/activations/1/{number}?minus=2"), one - two)


def test_the_units_that_answer_most_at_a_place(client: Client, number: int) -> None:
    maps = client.npy(f"/api/activations/0/{number}")
    found = client.json(f"/api/place/0/{number}?y=4&x=7")["units"]
    best = np.argsort(-maps[:, 4, 7], kind="stable")[:5]
    assert [unit for unit, _ in found] == list(best) and found[0][1] == pytest.approx(maps[best[0], 4, 7])


def test_spans_are_the_receptive_field(client: Client, number: int) -> None:
    field = analyzer.receptive_field(str(MODEL))[LAYER]
    found = client.json(f"/api/spans/0/{number}")
    for at in (0, 5, 11):
        rows, columns = field.interval((at, at))
        assert found["rows"][at] == list(rows or ()) and found["columns"][at] == list(columns or ())


def test_layers_hang_together_as_the_graph_does(client: Client) -> None:
    layers = client.json("/api/model")["models"][0]["layers"]
    names = [layer["name"] for layer in layers]
    added = names.index("/network/stage3/Add_output_0")
    parents = {names[parent] for parent in layers[added]["parents"]}
    assert "/network/stage3/conv2/Conv_output_0" in parents and len(parents) == 2
    assert all(parent < at for at, layer in enumerate(layers) for parent in layer["parents"])


# ---- Two models ----


def test_the_difference_is_candidate_minus_reference(client: Client, number: int) -> None:
    ours, theirs = (client.npy(f"/api/activations/0/{number}?model={at}") for at in (0, 1))
    assert np.array_equal(client.npy(f"/api/activations/0/{number}?model=2"), theirs - ours)
    drifts = client.json("/api/drifts/0")
    noise = 10 * np.log10((ours.astype(float) ** 2).sum() / ((theirs - ours).astype(float) ** 2).sum())
    assert drifts["layers"][number] == pytest.approx(noise, abs=0.01)
    assert drifts["first"] is not None


# ---- Unit cards ----


def test_a_card_has_the_patches_of_mine(client: Client, explorer: Explorer, number: int) -> None:
    client.json(f"/api/unit/{number}/4")
    assert explorer.cards.ranking(explorer.benches[0].layer(number)).finished.wait(60)
    card = client.json(f"/api/unit/{number}/4")
    best = analyzer.mine(str(MODEL), list(map(str, PICTURES)), LAYER).rankings[LAYER]
    assert [p["picture"] for p in card["patches"]] == [str(i) for i in best.images[4] if i >= 0]
    assert [p["value"] for p in card["patches"]] == pytest.approx([v for v in best.values[4] if np.isfinite(v)])
    for what in ("patches", "projections"):
        answer, data = client.get(f"/api/unit/{number}/4/{what}")
        assert answer.status == 200 and decode(data).shape[2] == 3
    assert card["optimum"] is None and client.get(f"/api/unit/{number}/4/optimum")[0].status == 404


def test_an_optimum_is_worked_out_once_and_kept(explorer: Explorer, number: int, tmp_path: Path) -> None:
    from analyzer.store import Cache

    bench, layer = explorer.benches[0], explorer.benches[0].layer(number)
    for _ in range(2):
        cards = Cards(bench, explorer.cards.samples, cache=Cache(tmp_path))
        job = cards.optimum(layer, 3)
        assert job is not None and job.finished.wait(120) and job.state == "done"
        assert job.result.shape == (96, 96, 3) and len(list(tmp_path.glob("*.npz"))) == 1
    assert job.total == 0  # read from disk


def test_a_folder_of_mine_is_not_mined_again(explorer: Explorer, number: int, tmp_path: Path) -> None:
    found = analyzer.mine(str(MODEL), list(map(str, PICTURES)), LAYER, out=tmp_path)
    cards = Cards(explorer.benches[0], explorer.cards.samples, str(tmp_path))
    job = cards.ranking(explorer.benches[0].layer(number))
    assert job.finished.wait(60) and job.total == 0
    assert np.array_equal(job.result.rankings[LAYER].images, found.rankings[LAYER].images)
    (tmp_path / "top.json").write_text("{}")
    with pytest.raises(analyzer.InputError, match="not what mine writes"):
        Cards(explorer.benches[0], explorer.cards.samples, str(tmp_path))


# ---- Who is refused ----


def test_only_its_own_page_is_answered(client: Client) -> None:
    assert client.get("/", cookie="")[0].status == 403
    assert client.get("/?token=wrong", cookie="")[0].status == 403
    assert client.get("/api/model", cookie="explorer-1=x")[0].status == 403
    assert client.get("/api/model", Origin="http://evil.example")[0].status == 403
    assert client.get("/api/model", Host="evil.example")[0].status == 421
    assert client.get("/api/model", cookie="", **{"X-Explorer-Token": client.token})[0].status == 200
    assert client.get("/api/model", cookie="", **{"X-Explorer-Token": "wrong"})[0].status == 403
    assert client.get("/static/main.js", cookie="")[0].status == 200
    assert client.get("/static/main.js", cookie="", Host="evil.example")[0].status == 421
    answer, _ = client.get("/api/model", Origin=f"http://{client.host}")
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/api/picture/..%2f..%2fetc",
        "/api/picture/%00", "/api/activations/0/99999", "/api/activations/0/-1", "/api/project/0/3/999999",
        "/api/project/0/3/0?y=99999&x=0", "/api/project/0/3/0?y=a", "/api/explain/0?method=../../x",
        "/api/explain/0?target=__import__('os')", "/api/explain/0?layer=99999", "/api/values/0/3/9999",
        "/api/unit/3/9999", "/api/unit/3/0/..%2fx", "/api/activations/0/3?model=77", "/api/picture/0?side=-5&seen=x",
        f"/api/picture/{'x' * 5000}", "/api/activations/0/3?minus=../../etc/passwd",
        "/api/activations/0/3?origin=/etc/passwd", "/api/activations/0/3?origin=target&target=/etc/passwd",
        "/api/activations/0/3?origin=target&policy=../x", "/api/project/0/3/0?policy=/etc/passwd",
        "/api/ranking/0/3?by=target&target=../../x", "/api/page/..%2fx/0", "/api/page/0/99999", "/api/patterns/99999",
        "/api/unit/3/0/patches%2f..%2f..", "/api/picture/0~..%2f..%2fetc", "/api/values/0/3/0?query=/etc/passwd",
    ],
)  # fmt: skip
def test_wrong_questions_are_one_clear_error(client: Client, path: str) -> None:
    answer, data = client.get(path)
    assert answer.status in (400, 404, 405, 422), (path, answer.status)
    assert b"Traceback" not in data and b"/work" not in data
    assert client.get("/api/pictures")[0].status == 200


def test_pictures_are_dropped_within_bounds(client: Client) -> None:
    answer, data = client.get("/api/pictures?name=mine.png", "POST", PICTURES[2].read_bytes())
    assert answer.status == 200
    key = json.loads(data)["key"]
    assert client.json(f"/api/predictions/{key}") == client.json("/api/predictions/2")
    assert client.get("/api/pictures", "POST", b"no picture")[0].status == 422
    # a PNG header that promises 60,000 × 60,000 pixels
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0) + bytes(4)
    assert client.get("/api/pictures", "POST", head)[0].status == 422
    before = client.json("/api/pictures")
    hidden = zlib.compress(bytes(64 << 20))  # 64 MiB of text in 64 kB
    bomb = PICTURES[2].read_bytes()[:33] + chunk(b"zTXt", b"a\0\0" + hidden) + PICTURES[2].read_bytes()[33:]
    assert client.get("/api/pictures?name=/etc/../mine.png", "POST", bomb)[0].status in (200, 422)
    assert len(client.json("/api/pictures")["pictures"]) <= len(before["pictures"]) + 1


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_large_uploads_are_refused_unread(client: Client) -> None:
    """100 MB: at once where the size is said, else as soon as it is too much."""
    host, port = client.host.split(":")
    head = f"POST /api/pictures HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\n"
    with socket.create_connection((host, int(port)), 30) as asking:
        asking.sendall(f"{head}Content-Length: {100 << 20}\r\n\r\n".encode())
        assert asking.recv(100).startswith(b"HTTP/1.1 413")
    sent, piece = 0, b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with socket.create_connection((host, int(port)), 30) as asking, suppress(ConnectionError):
        asking.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        while sent < 100 << 20:
            asking.sendall(piece)
            sent += 1 << 20
    assert sent < 80 << 20  # what the network's buffers hold besides
    assert client.get("/api/pictures")[0].status == 200


def test_frames_are_seen_but_not_listed(client: Client, number: int) -> None:
    """A frame reads the one layer that is shown, with the numbers of any other picture."""
    answer, data = client.get("/api/pictures?name=webcam&frame=1", "POST", PICTURES[3].read_bytes())
    key = json.loads(data)["key"]
    assert answer.status == 200 and key not in {p["key"] for p in client.json("/api/pictures")["pictures"]}
    found, expected = (client.npy(f"/api/activations/{picture}/{number}") for picture in (key, 3))
    assert np.allclose(found, expected, rtol=0, atol=1e-6 * expected.max())
    client.get("/api/pictures?name=webcam", "POST", PICTURES[3].read_bytes())
    assert key in {p["key"] for p in client.json("/api/pictures")["pictures"]}


def test_fifty_at_once_are_served(client: Client, number: int) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda at=at: found.append(client.get(f"/api/values/{at % 4}/{number}/{at}")[0].status))  # type: ignore[misc]
        for at in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [200] * 50


def test_of_a_view_only_the_latest_question_is_answered(explorer: Explorer, client: Client, number: int) -> None:
    assert client.get(f"/api/values/0/{number}/1?view=v&tab=a&n=5")[0].status == 200
    assert client.get(f"/api/values/0/{number}/1?view=v&tab=a&n=4")[0].status == 204
    assert client.get(f"/api/values/0/{number}/1?view=v&tab=b&n=4")[0].status == 200


def test_one_broken_picture_spoils_nothing(tmp_path: Path) -> None:
    """The first that can be read says what the layers are; the others are looked at."""
    (tmp_path / "0.png").write_text("no picture")
    for at in (1, 2):
        shutil.copy(PICTURES[at], tmp_path / f"{at}.png")
    samples, explainer = find_pictures([str(tmp_path)]), Explainer(MODEL)
    pictures, card = Pictures(samples), read_card(explainer, None, {})
    first = first_readable(pictures, card.feeds)
    assert first.key == "1"
    bench = Bench(explainer, card, first)
    asked = Explorer([bench], pictures, Cards(bench, samples))
    assert json.loads(bytes(asked.ask("model", {}).body))["models"][0]["layers"]
    job = asked.selectivity[0].job(bench.layer(0))
    assert job.finished.wait(60) and job.state == "done" and len(job.result.means) == 2
    with pytest.raises(analyzer.InputError, match=r"0\.png"):
        first_readable(list(pictures)[:1], card.feeds)
    with pytest.raises(analyzer.NotFoundError, match="none"):
        Bench(explainer, card, first, ["none"])


def test_refusals_come_with_200_where_the_page_asks(client: Client) -> None:
    """Browsers write others on their console. Who may ask at all is not among them."""
    asked = {"X-Explorer-Status": "1"}
    for path, method in [
        ("/api/explain/0?target=1000", "GET"),
        ("/api/activations/0/9999", "GET"),
        ("/api/pictures", "POST"),
    ]:
        plain, body = client.get(path, method, b"no picture" if method == "POST" else None)
        quiet, same = client.get(path, method, b"no picture" if method == "POST" else None, **asked)
        assert plain.status in (404, 422) and plain.headers["X-Explorer-Status"] is None
        assert quiet.status == 200 and quiet.headers["X-Explorer-Status"] == str(plain.status) and body == same
    assert client.get("/api/pictures", cookie="", **asked)[0].status == 403
    for options in ("[]", "{", '{"a": []}', "[" * 5000):
        assert client.get(f"/api/explain/0?options={quote(options)}")[0].status == 422
    drawn = [
        client.packed(f"/api/explain/0?method=smooth-grad&options={quote(text)}") for text in ('{"samples": 2}', "{}")
    ]
    assert drawn[0] != drawn[1]


def test_work_ends_when_nobody_waits_for_it(client: Client) -> None:
    """A method that runs the model for minutes is left as soon as another question of its view comes."""
    found = list[int]()
    path = "/api/explain/0?view=evidence&tab=long&n={}&method={}&options={}"
    long = path.format(1, "rise", quote('{"masks": 1000000}'))
    asking = threading.Thread(target=lambda: found.append(client.get(long)[0].status))
    asking.start()
    asking.join(2)
    assert asking.is_alive()
    assert client.get(path.format(2, "grad-cam", "{}"))[0].status == 200
    asking.join(30)
    assert found == [204]
    host, port = client.host.split(":")
    for at in range(4):  # also when the page is closed: more of them than there are workers
        path = long.replace("tab=long", f"tab=closed{at}")
        with socket.create_connection((host, int(port)), 30) as closed:
            closed.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\n\r\n".encode())
            time.sleep(0.3)
    started = time.perf_counter()
    assert client.get("/api/pictures")[0].status == 200 and time.perf_counter() - started < 20


def test_a_picture_that_vanished_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURES[0].read_bytes())
    pictures = Pictures(find_pictures([str(path), str(PICTURES[1])]))
    bench = opened(MODEL, pictures)
    path.unlink()
    with pytest.raises(analyzer.InputError, match=r"a\.png"):
        bench.predictions(pictures["0"])
    assert bench.predictions(pictures["1"])


# ---- The page ----


def test_the_scripts_have_no_errors_of_type() -> None:
    compiler = shutil.which("tsc")
    if compiler is None:
        pytest.skip("tsc is not installed (npm install typescript)")
    done = subprocess.run([compiler, "-p", str(ROOT / "analyzer" / "explorer")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_pages_prepare_pictures_to_the_bit(tmp_path: Path) -> None:
    """prepare.js in node gives the tensors of `Preprocess`, and where their pixels came from."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    shutil.copy(ROOT / "analyzer" / "explorer" / "static" / "prepare.js", tmp_path / "prepare.mjs")
    cases, noise = [], np.random.default_rng(0)
    colors = {
        "RGB": ("imagenet", "NCHW", "float32"),
        "BGR": ("caffe", "NHWC", "float32"),
        "GRAY": ("raw", "NHWC", "uint8"),
    }
    for number, (resize, filtering, (channels, (preset, layout, dtype))) in enumerate(
        itertools.product(RESIZES, INTERPOLATIONS, colors.items())
    ):
        size = [(37, 53), (120, 100), (64, 48), (20, 31)][number % 4]
        image = noise.integers(0, 256, (*size, 3), dtype=np.uint8)
        given = {"channels": channels, "layout": layout, "dtype": dtype, "resize": resize, "interpolation": filtering}
        how = Preprocess(**(PRESETS[preset] | given), size=(64, 48), antialias=number % 2 == 0)
        tensor, placement = how.apply(image)
        (tmp_path / f"{number}").write_bytes(image.tobytes())
        (tmp_path / f"{number}.tensor").write_bytes(tensor.tobytes())
        cases.append({"size": size, "how": asdict(how), "placement": [*placement.scale, *placement.offset]})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.mjs").write_text("""
        import { readFileSync } from "fs";
        import { prepared, typed } from "./prepare.mjs";
        JSON.parse(readFileSync("cases.json")).forEach(({ size, how, placement }, number) => {
            const [height, width] = size, data = new Uint8Array(readFileSync(`${number}`));
            const image = { data, height, width, channels: 3 };
            const found = prepared(image, how), { scale, offset } = found.placement;
            const same = Buffer.from(typed(found.values, how.dtype, 1).buffer).equals(readFileSync(`${number}.tensor`));
            const off = [...scale, ...offset].some((value, at) => value !== placement[at]);
            if (!same || off) { console.log(number, JSON.stringify(how)); process.exitCode = 1; }
        });
    """)
    done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "methods", "said"),
    [
        ("digits_detector.onnx", ["layer-cam"], "pages run classifiers, and this is detection"),
        ("digits_cnn.onnx", [], "methods of one run that are drawn over the picture"),
    ],
)
def test_pages_run_classifiers_and_class_maps(model: str, methods: list[str], said: str) -> None:
    pictures = Pictures(find_pictures([str(PICTURES[0])]))
    with pytest.raises(analyzer.UnsupportedError, match=said):
        model_of(opened(ROOT / "models" / model, pictures), methods)


@pytest.mark.parametrize("model", ["digits_vit.onnx", "digits_cnn_int8.onnx"])
def test_the_model_of_a_page_gives_the_maps_of_all_layers(model: str) -> None:
    """Tokens, heads and quantized layers as the bench has them, and the map of a class that is chosen."""
    pictures = Pictures(find_pictures([str(PICTURES[0])]))
    bench = opened(ROOT / "models" / model, pictures)
    data, about = model_of(bench, ["grad-cam"])
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = {**bench.feeds(pictures.first), about["target"]: np.array([4])}
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    for layer, name in zip(bench.layers, about["maps"], strict=True):
        expected = bench.one(pictures.first, layer)
        assert np.allclose(found[name], expected, atol=1e-3 * np.abs(expected).max()), layer.name
    names = about["methods"]["grad-cam"]
    low, high = found[names["extent"]]
    values = low + found[names["heatmap"]][0] * (high - low)
    assert np.allclose(values, bench.evidence(pictures.first, "grad-cam", "4").values, atol=1e-3 * high)


def test_the_page_is_light() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "analyzer" / "explorer" / "static").iterdir()) <= 250_000


# ---- The command ----


def served() -> tuple[subprocess.Popen[str], Client]:
    """The command on one picture, and a client at the URL that it printed."""
    run = subprocess.Popen(
        [sys.executable, "cli.py", "explore", str(MODEL), "--data", *map(str, PICTURES[:1]), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert run.stdout is not None
    return run, Client(run.stdout.readline().strip())


def test_the_command_prints_its_url_and_ends_with_ctrl_c() -> None:
    run, client = served()
    assert client.json("/api/pictures")["pictures"][0]["name"] == PICTURES[0].name
    run.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out, err) == (0, "", "") and time.monotonic() - started < 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_crash_of_native_code_costs_no_more_than_the_question() -> None:
    run, client = served()
    before = client.json("/api/model")
    (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGSEGV)
    for _ in range(600):
        with suppress(OSError):
            assert client.json("/api/model") == before  # at the same place, with the same token
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (0, "") and err == (
        "warning: native code crashed (SIGSEGV) on this input; started again\n"
    )


def test_the_port_is_taken(client: Client) -> None:
    port = client.host.split(":")[1]
    done = subprocess.run(
        [sys.executable, "cli.py", "explore", str(MODEL), str(PICTURES[0]), "--no-browser", "--port", port],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and f":{port}" in done.stderr and "--port" in done.stderr
