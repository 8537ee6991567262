"""The explorer's page in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import analyzer
from analyzer.images import decode, encode, write_png

pytest.importorskip("uvicorn", reason="needs the extra explore")
pytest.importorskip("playwright.sync_api", reason="needs the extra browser")

from playwright import sync_api

from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.data import find_pictures
from analyzer.explorer.answers import Explorer
from analyzer.explorer.bench import SIDES, Bench
from analyzer.explorer.cards import Cards
from analyzer.explorer.embedding import Embedded, model_of, web_runtime
from analyzer.explorer.exporting import Wanted, answers, write_folder, write_page
from analyzer.explorer.pictures import Pictures
from analyzer.images import Drawing
from analyzer.images.views import one

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
PICTURES = sorted(map(str, (ROOT / "examples").glob("digits_*.png")))
FIRST = "/network/stage2/stage2.0/conv1/conv1.0/Conv_output_0"  # the first layer that differs
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with one weight changed, that of `FIRST`."""
    model = onnx.load(ROOT / "models" / "digits_cnn.onnx")
    (node,) = [n for n in model.graph.node if FIRST in n.output]
    (tensor,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    tensor.CopyFrom(onnx.numpy_helper.from_array(1.3 * onnx.numpy_helper.to_array(tensor), tensor.name))
    path = tmp_path_factory.mktemp("models") / "other.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def url(other: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    asked = [sys.executable, "cli.py", "explore", "models/digits_cnn.onnx", "--against", str(other), "--no-browser"]
    asked += ["--resize", "letterbox"]
    fresh = {**os.environ, "ONNX_ANALYZER_CACHE": str(tmp_path_factory.mktemp("cache"))}  # no optima
    run = subprocess.Popen([*asked, *PICTURES], stdout=subprocess.PIPE, cwd=ROOT, text=True, env=fresh)
    assert run.stdout is not None
    yield run.stdout.readline().strip()
    run.terminate()
    run.wait(20)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in one file, and the same in a folder."""
    place = tmp_path_factory.mktemp("export")
    asked = [sys.executable, "cli.py", "explore", "models/digits_cnn.onnx", *PICTURES[:2], "--resize", "letterbox"]
    asked += ["-l", "*/stage3/Relu_output_0", "-l", "*/stage1.0/Relu_output_0", "--draw", "2", "-m", "grad-cam"]
    for out in ("page.html", "folder/"):
        subprocess.run([*asked, "--export", f"{place}/{out}"], cwd=ROOT, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *camera])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with watched(browser, url) as found:
        yield found


@contextmanager
def watched(browser: Any, url: str) -> Iterator[Any]:
    """The page, drawn; at the end nothing was said on its console, and nothing was asked of others."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(120_000)
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    answer = page.goto(url)
    assert answer.status == 200 or url.startswith("file:")
    quiet(page)
    yield page
    assert not said
    if url.startswith("file:"):
        asked.remove(page.url.partition("#")[0])
    home = url.split("?")[0]
    assert all(place.startswith((home, "blob:", "data:")) for place in asked)
    context.close()


def quiet(page: Any) -> None:
    """Waits until all is drawn."""
    page.wait_for_selector("#grid[data-shown]", state="attached")
    page.wait_for_timeout(250)
    page.wait_for_selector("body[data-idle=true]")


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    quiet(page)


def drawn(page: Any, name: str) -> np.ndarray:
    """The pixels of a canvas."""
    data = page.evaluate(f"document.getElementById('{name}').toDataURL().split(',')[1]")
    return decode(base64.b64decode(data))


def said(page: Any) -> dict[str, str]:
    """The state in the URL's fragment."""
    return dict(part.split("=") for part in page.url.partition("#")[2].split("&") if part)


def test_keys_work_from_the_start(page: Any) -> None:
    """In the layers up and down, then right into the units and across them."""
    assert "token" not in page.url
    before = drawn(page, "grid")
    press(page, "ArrowUp", "ArrowUp")
    first = int(said(page)["layer"])
    assert not np.array_equal(drawn(page, "grid"), before)
    press(page, "ArrowRight", "l", "L")
    assert said(page)["unit"] == "4" and said(page)["area"] == "units"
    press(page, "u")
    assert int(said(page)["layer"]) == first - 1 and said(page)["unit"] == "4"
    press(page, "e")
    assert said(page)["picture"] == "1"
    press(page, "Escape")
    assert said(page) == {"sha": said(page)["sha"], "picture": "1", "layer": "0"}


def test_a_link_brings_everything_back(page: Any, url: str) -> None:
    press(page, "k", "i", "ArrowRight", "ArrowRight", "ArrowDown", "b", "t", "T", "e")
    page.click("#predictions button >> nth=2")
    quiet(page)
    shown = {name: drawn(page, name) for name in ("grid", "projection", "evidence", "picture", "tile")}
    page.reload()
    quiet(page)
    for name, pixels in shown.items():
        assert np.array_equal(drawn(page, name), pixels), name


def test_a_link_without_a_layer_shows_the_first_one(page: Any) -> None:
    before = drawn(page, "grid")
    page.evaluate("location.hash = '#gamma=0.5&unit=99999&picture=none'")
    quiet(page)
    page.evaluate("location.hash = '#gamma=1'")
    quiet(page)
    assert np.array_equal(drawn(page, "grid"), before)


def test_projections_follow_the_cursor_unless_they_are_pinned(page: Any) -> None:
    press(page, "ArrowRight", "ArrowRight")
    first = drawn(page, "projection")
    press(page, "ArrowRight")
    second = drawn(page, "projection")
    assert not np.array_equal(first, second)
    press(page, "d", "ArrowRight", "u")
    assert np.array_equal(drawn(page, "projection"), second) and "pinned" in page.inner_text("#projection-title")
    press(page, "d")
    assert not np.array_equal(drawn(page, "projection"), second)


def test_gradients_patches_and_other_pictures_in_the_grid(page: Any) -> None:
    """a: gradients of the class, or of the pinned unit; s: strongest patches; v: the difference of two pictures."""
    plain = drawn(page, "grid")
    press(page, "a")
    of_class = drawn(page, "grid")
    assert "gradient of the explained class" in page.inner_text("#scale") and not np.array_equal(of_class, plain)
    page.click("#predictions button >> nth=2")
    quiet(page)
    assert not np.array_equal(drawn(page, "grid"), of_class)
    press(page, "d", "u", "u")
    assert "gradient of the pinned unit" in page.inner_text("#scale")
    press(page, "a", "d", "o", "o")
    assert np.array_equal(drawn(page, "grid"), plain)
    press(page, "v", "e")
    assert "minus digits_camera.png" in page.inner_text("#scale") and page.is_visible("#second")
    press(page, "w")
    assert not np.ptp(drawn(page, "tile").astype(int), axis=(0, 1)).any()  # of the same picture
    press(page, "v", "s")
    page.locator("#scale", has_text="strongest patches").wait_for(timeout=60_000)
    assert not np.array_equal(drawn(page, "grid"), plain)


def test_units_are_listed_and_pictures_fitted_otherwise(page: Any) -> None:
    first = page.inner_text("#ranked button >> nth=0")
    press(page, "r")
    assert page.inner_text("#ranked button >> nth=0") != first
    page.click("#ranked button >> nth=0")
    quiet(page)
    assert f"Unit {page.inner_text('#ranked button >> nth=0').split()[0]}" == page.inner_text("#unit-name")
    of_target = page.inner_text("#ranked")
    press(page, "r")
    page.locator("#ranked button").first.wait_for()
    assert said(page)["rank"] == "selectivity" and page.inner_text("#ranked") != of_target
    before = drawn(page, "picture")
    press(page, "5", "0")
    assert said(page)["fit"] == "resize" and "server" in page.inner_text("#timings")
    press(page, "0")
    assert not np.array_equal(drawn(page, "picture"), before)


def test_a_class_is_explained(page: Any) -> None:
    before = drawn(page, "evidence")
    page.click("#predictions button >> nth=1")
    quiet(page)
    label = page.inner_text("#predictions button >> nth=1").split()[0]
    assert label in page.inner_text("#evidence-title") and not np.array_equal(drawn(page, "evidence"), before)


def test_the_receptive_field_is_outlined(page: Any) -> None:
    clear = drawn(page, "outline")
    page.hover("#grid", position={"x": 40, "y": 40})
    page.wait_for_timeout(100)
    assert not np.array_equal(drawn(page, "outline"), clear) and "unit 0 at" in page.inner_text("#where")


def test_the_units_under_a_pixel_are_named(page: Any) -> None:
    page.hover("#picture", position={"x": 90, "y": 90})
    page.wait_for_selector("text=strongest units at", timeout=10_000)
    page.hover("#tile", position={"x": 50, "y": 50})
    quiet(page)
    page.hover("#tile", position={"x": 60, "y": 60})
    assert "at " in page.inner_text("#numbers")
    before = drawn(page, "tile-cursor")
    page.click("#tile", position={"x": 60, "y": 60})
    quiet(page)
    assert f"at {said(page)['y']}, {said(page)['x']}" in page.inner_text("#unit-name")
    assert not np.array_equal(drawn(page, "tile-cursor"), before)


def test_the_first_divergence_is_a_click(page: Any) -> None:
    page.click("#first")
    quiet(page)
    assert page.inner_text("#layer-name") == FIRST
    press(page, "x", "x")
    assert page.inner_text("#side") == "difference" and np.ptp(drawn(page, "grid").astype(int)) > 0
    press(page, "u")
    assert page.inner_text("#scale") == "each unit's own scale"
    press(page, "T")
    assert page.inner_text("#scale") == "0 … 0"


def test_the_card_of_a_unit(page: Any) -> None:
    press(page, "ArrowRight", "ArrowRight")
    page.wait_for_selector("#tops li")
    assert page.locator("#tops li").count() == len(PICTURES)
    page.click("#tops li button >> nth=0")
    quiet(page)
    assert int(said(page)["y"]) >= 0
    press(page, "9")
    assert page.is_hidden("#card")


def test_pictures_are_dropped_and_the_webcam_runs(page: Any, tmp_path: Path) -> None:
    write_png(tmp_path / "mine.png", decode(PICTURES[1])[:, ::-1])
    page.set_input_files("#files", str(tmp_path / "mine.png"))
    quiet(page)
    assert said(page)["picture"].startswith("d") and page.inner_text("#picture-name") == "mine.png"
    transfer = page.evaluate_handle(
        """async (data) => {
            const found = new DataTransfer(), bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            found.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            return found;
        }""",
        base64.b64encode(encode(decode(PICTURES[2])[::-1].copy())).decode(),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_timeout(500)
    quiet(page)
    assert page.inner_text("#picture-name") == "dropped.png"
    page.keyboard.press("c")
    frames = set()
    for _ in range(30):
        page.wait_for_timeout(200)
        frames.add(said(page)["picture"])
    assert len(frames) > 2
    kept = page.locator("#pictures button").count()
    page.keyboard.press("c")
    page.wait_for_timeout(500)
    quiet(page)
    last = said(page)["picture"]
    page.reload()
    quiet(page)
    assert page.locator("#pictures button").count() == kept + 1 and said(page)["picture"] == last


def test_an_exported_page_shows_the_same_without_a_server(browser: Any, url: str, export: Path) -> None:
    """By double click: one file, nothing loaded, units with a dot have their projection and card."""
    with watched(browser, (export / "page.html").as_uri()) as page:
        unit = page.inner_text("#unit-name").split()[1]
        found = {name: drawn(page, name) for name in ("grid", "picture", "tile", "evidence")}
        assert page.inner_text("#layer-name") == "/network/stage3/Relu_output_0"
        assert page.locator("#tops li").count() == 2 and np.ptp(drawn(page, "projection")) > 0
        page.hover("#picture", position={"x": 90, "y": 90})
        assert "strongest units at" in page.inner_text("#where")
        page.hover("#tile", position={"x": 60, "y": 60})
        assert "≈" in page.inner_text("#numbers")
        press(page, *"asvr0qcf")  # not in the page
        assert all(np.array_equal(drawn(page, name), pixels) for name, pixels in found.items())
        press(page, "ArrowRight", "e", "o")
        assert page.url.startswith("file:") and said(page)["picture"] == "1"
        assert page.is_hidden("#webcam")
        page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; }")
        page.click("#copy-link")
        assert page.evaluate("window.copied") == page.url
    with watched(browser, url) as page:
        page.evaluate(f"location.hash = '#unit={unit}&model=0'")
        quiet(page)
        for name in ("grid", "tile"):
            assert np.array_equal(drawn(page, name), found[name]), name
        for name in ("picture", "evidence"):  # as WebP
            assert np.abs(drawn(page, name).astype(float) - found[name]).mean() < 4, name


def test_a_notebook_shows_it_in_a_frame(browser: Any, tmp_path: Path) -> None:
    """The notebook is another site (localhost), in whose frames the page has no cookie."""
    shown = analyzer.explore("models/digits_vit.onnx", PICTURES[:2], layer="softmax_2")
    (tmp_path / "index.html").write_text(f"<!doctype html><title>notebook</title>{shown._repr_html_()}")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{server.server_port}/")
        frame = page.frame_locator("iframe")
        frame.locator("#grid[data-shown]").wait_for(timeout=60_000)
        assert frame.locator("#pictures img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)")
        frame.locator("#pictures button").nth(1).click()
        frame.locator("#picture[data-shown='1']").wait_for(timeout=60_000)
        assert frame.locator("#scale").inner_text().startswith("attention of the class token")
        box = frame.locator("#picture").bounding_box()
        frame.locator("#picture").click(position={"x": 3.5 / 12 * box["width"], "y": 5.5 / 12 * box["height"]})
        frame.locator("#scale", has_text="attention of the token at 5, 3").wait_for(timeout=60_000)
        page.wait_for_timeout(500)  # the URL follows after a rest
        assert "query=63" in frame.locator("body").evaluate("() => location.hash")
        page.close()
        server.shutdown()
    shown.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(shown.url, timeout=10)


def test_what_is_shown_is_downloaded(page: Any, browser: Any, tmp_path: Path) -> None:
    """As a picture with a caption, and as a page that needs no server."""
    with page.expect_download() as waiting:
        page.click("#download")
    waiting.value.save_as(tmp_path / "shown.png")
    composed, grid = decode(tmp_path / "shown.png"), drawn(page, "grid")
    assert composed.shape[0] > grid.shape[0] and composed.shape[1] > grid.shape[1] + 600
    assert np.array_equal(composed[16 : 16 + grid.shape[0], 352 : 352 + grid.shape[1]], grid)
    with page.expect_download(timeout=120_000) as waiting:
        page.click("#page")
    waiting.value.save_as(tmp_path / "shown.html")
    with watched(browser, (tmp_path / "shown.html").as_uri()) as saved:
        assert saved.inner_text("#layer-name") == page.inner_text("#layer-name")
        assert saved.locator("#pictures button").count() == 1 and saved.locator("#tops li").count() == len(PICTURES)


def test_both_models_explain_the_target(page: Any) -> None:
    ours, theirs = page.inner_text("#evidence-title").split(), page.inner_text("#other-title").split()
    assert ours[:3] == ["reference:", "grad-cam", "of"] and theirs[:3] == ["candidate:", "grad-cam", "of"]
    of = [page.get_attribute(f"#{name}", "data-shown") for name in ("evidence", "other")]
    assert of[0] == of[1] == "0/7/grad-cam"
    assert not np.array_equal(drawn(page, "evidence"), drawn(page, "other"))


def test_an_exported_folder_needs_any_web_server(browser: Any, export: Path) -> None:
    handler = functools.partial(QuietHandler, directory=str(export / "folder"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with watched(browser, f"http://127.0.0.1:{server.server_port}/") as page:
            assert page.locator("#layers [role=option]").count() == 2
            assert page.locator("#tops li").count() == 2
        server.shutdown()


@pytest.fixture(scope="module")
def with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that has the model, in one file and as a folder."""
    try:
        runtime = web_runtime()
    except analyzer.InputError as error:
        pytest.skip(error.message)
    place, explainer = tmp_path_factory.mktemp("with-model"), Explainer("models/digits_cnn.onnx")
    samples = find_pictures(PICTURES[:1])
    pictures, card = Pictures(samples), read_card(explainer, None, {"resize": "letterbox"})
    bench = Bench(explainer, card, pictures.first, ["*/stage3/Relu_output_0"])
    model = Embedded(*model_of(bench, ["grad-cam"]), *runtime)
    found = answers(Explorer([bench], pictures, Cards(bench, samples)), Wanted(units=0, targets=1))
    write_page(str(place / "page.html"), found, model)
    write_folder(f"{place}/folder/", found, model)
    return place


def test_a_page_with_the_model_explains_a_dropped_picture(browser: Any, with_model: Path, tmp_path: Path) -> None:
    """Class, map and activations are those of the library; nothing is asked of a server."""
    layer, picture = "/network/stage3/Relu_output_0", tmp_path / "mine.png"
    write_png(picture, decode(PICTURES[2])[5:, 20:80].copy())
    asked = "models/digits_cnn.onnx", picture, "grad-cam"
    first = analyzer.explain(*asked, resize="letterbox")
    second = analyzer.explain(*asked, first.predictions[1].target, resize="letterbox")
    assert first.view is not None
    drawn_by_us = one(first.view.map(first, 0), Drawing(), SIDES, bare=True)
    maps = analyzer.features("models/digits_cnn.onnx", picture, [layer], resize="letterbox")[layer][0]
    handler = functools.partial(QuietHandler, directory=str(with_model / "folder"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = f"http://127.0.0.1:{server.server_port}/"
        for url, module in [((with_model / "page.html").as_uri(), "explorer/local.js"), (served, "/static/local.js")]:
            with watched(browser, url) as page:
                page.set_input_files("#files", str(picture))
                page.locator("#evidence[data-shown='d0/top1/grad-cam']").wait_for()
                quiet(page)
                assert page.inner_text("#evidence-title") == f"grad-cam of {first.title(0)}"
                assert page.inner_text("#unit-name") == "Unit 0"  # of those with a card there are none
                shown = [one.inner_text() for one in page.locator("#predictions button span:first-child").all()]
                assert shown == [one.label for one in first.predictions]
                assert np.abs(drawn(page, "evidence").astype(float) - drawn_by_us).mean() < 3
                page.click("#predictions button >> nth=1")
                quiet(page)
                assert page.inner_text("#evidence-title") == f"grad-cam of {second.title(0)}"
                for target, expected in [("top1", first), (second.predictions[1].target, second)]:
                    found = page.evaluate(MAP_OF, [module, target])
                    assert np.abs(np.array(found["scores"]) - expected.scores[0]).max() < 1e-3
                    assert np.abs(np.array(found["values"]) - expected.in_units(0).ravel()).max() < 1e-3
                    assert np.abs(np.array(found["maps"]) - maps.ravel()).max() < 1e-3 * maps.max()
        server.shutdown()


MAP_OF = """async ([module, target]) => {
    const local = await import(module), { run, values } = await local.map("d0", target, "grad-cam");
    return { values: [...values], scores: [...run.scores], maps: [...run.maps["xai/maps_0"].data] };
}"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given: Any) -> None:
        pass


def test_help_lists_the_keys(page: Any) -> None:
    page.keyboard.press("?")
    assert page.is_visible("dialog#keys") and page.inner_text("dialog#keys h2") == "Keys"
    assert page.locator("dialog#keys tr").count() > 15
    page.keyboard.press("Escape")
    assert page.is_hidden("dialog#keys")


def test_search_goes_to_a_layer(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("stem.0.2")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    quiet(page)
    assert "stem.0.2" in page.inner_text("#layer-name")


def copied(page: Any, name: str) -> str:
    page.click(f"#copy-{name}")
    page.wait_for_timeout(100)
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_the_lines_that_are_copied_run(page: Any, tmp_path: Path) -> None:
    """The command and the Python line make the same picture."""
    page.click("#predictions button >> nth=1")
    quiet(page)
    words = shlex.split(copied(page, "command"))
    assert words[0] == "onnx-analyzer"
    words[words.index("-o") + 1] = str(tmp_path / "command.png")
    subprocess.run([sys.executable, "cli.py", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    line = copied(page, "python").replace("evidence.png", str(tmp_path / "python.png"))
    subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=True)
    pictures = [decode(tmp_path / f"{name}.png") for name in ("command", "python")]
    assert np.array_equal(*pictures)
    assert "token" not in copied(page, "link")


def test_any_target_layer_and_option_can_be_asked_for(page: Any, tmp_path: Path) -> None:
    """What cannot be done is said in the pane, and is no error of the console."""
    page.click("#asked summary")
    page.select_option("#modes select", "smooth-grad")
    for name, text in [("target", "probabilities[:, 0] - probabilities[:, 1]"), ("options", "samples=2 seed=3")]:
        page.fill(f"#{name}", text)
        page.keyboard.press("Enter")
        quiet(page)
    assert page.inner_text("#evidence-title").startswith(
        "reference: smooth-grad of probabilities[:, 0] - probabilities[:, 1]"
    )
    assert page.is_visible("#evidence")
    words, line = shlex.split(copied(page, "command")), copied(page, "python")
    at = words.index("-O")
    assert words[at : at + 4] == ["-O", "samples=2", "-O", "seed=3"] and "samples=2, seed=3" in line
    exec(line.replace("evidence.png", str(tmp_path / "evidence.png")), {})
    assert (tmp_path / "evidence.png").exists()
    page.fill("#options", "sample=2")
    page.keyboard.press("Enter")
    quiet(page)
    assert "has no option 'sample'" in page.inner_text("#evidence-note") and page.is_hidden("#evidence")
    page.select_option("#modes select", "grad-cam")
    page.select_option("#at", "3")
    quiet(page)
    assert said(page)["at"] == "3" and "options" not in said(page) and page.is_visible("#evidence")
    (tmp_path / "broken.png").write_text("no picture")
    page.set_input_files("#files", str(tmp_path / "broken.png"))
    page.locator("#busy", has_text="not a picture").wait_for()


def test_tall_pictures_leave_room_and_the_cursor_is_on_the_unit(browser: Any, tmp_path: Path) -> None:
    """Also where the unit is shown large."""
    weights = onnx.numpy_helper.from_array(np.ones((6, 3, 3, 3), np.float32), "w")
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    sizes = {
        name: onnx.helper.make_tensor_value_info(name, 1, size)
        for name, size in [("x", [1, 3, 200, 20]), ("y", [1, 6, 198, 18])]
    }
    graph = onnx.helper.make_graph([node], "g", [sizes["x"]], [sizes["y"]], [weights])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "tall.onnx",
    )
    shown = analyzer.explore(str(tmp_path / "tall.onnx"), PICTURES[0])
    with watched(browser, shown.url) as page:
        for zoom in range(2):
            boxes = {
                name: page.locator(f"#{name}").bounding_box() for name in ("picture", "outline", "tile", "tile-cursor")
            }
            assert boxes["picture"] == boxes["outline"] and boxes["tile"] == boxes["tile-cursor"], zoom
            assert all(box["height"] < 720 and 9 < box["height"] / box["width"] < 12 for box in boxes.values())
            press(page, "z")
    shown.stop()


def test_all_that_keys_do_is_reached_by_mouse(page: Any) -> None:
    page.click("#help")
    page.click("#keys td button >> text=zoom")
    quiet(page)
    assert said(page)["zoom"] == "1" and page.is_hidden("#keys")
    assert page.locator("#tile").bounding_box()["width"] > 500
    press(page, "l", "l", "k")
    assert int(said(page)["unit"]) > 2 and said(page)["area"] == "units"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator("#tile").bounding_box()["y"] < 300


def test_keys_work_after_files_are_opened_and_arrows_move_in_the_strip(page: Any) -> None:
    with page.expect_file_chooser() as waiting:
        page.click("footer .button")
    waiting.value.set_files(PICTURES[3])
    quiet(page)
    press(page, "e")
    assert "picture" not in said(page)  # the first one, after the last
    assert page.locator("#pictures [tabindex='0']").count() == 1
    page.locator("#pictures [tabindex='0']").focus()
    press(page, "Shift+Tab", "Tab", "ArrowRight", "ArrowRight")
    assert said(page)["picture"] == "2" and page.evaluate("document.activeElement.value") == "2"
    page.click("#pictures button >> nth=1")  # after a click arrows are those of the page
    press(page, "ArrowRight", "ArrowRight")
    assert said(page)["picture"] == "1" and said(page)["unit"] == "1"
    page.locator("#predictions [tabindex='0']").focus()
    press(page, "Tab", "Shift+Tab", "ArrowDown", "Enter")
    chosen = page.locator("#predictions [aria-pressed='true']")
    assert chosen.evaluate("(button) => button === document.activeElement") and "target" in said(page)
    assert page.locator("#ranked [tabindex='0']").count() == 1


def test_the_value_under_the_pointer_is_that_of_the_layer(page: Any) -> None:
    page.hover("#grid", position={"x": 40, "y": 40})
    page.wait_for_timeout(300)
    unit, y, x, value = re.fullmatch(r"unit (\d+) at (\d+), (\d+): (\S+)", page.inner_text("#where")).groups()  # type: ignore[union-attr]
    layer = "/network/stage3/Relu_output_0"
    assert page.inner_text("#layer-name") == layer
    maps = analyzer.features("models/digits_cnn.onnx", PICTURES[0], [layer], resize="letterbox")[layer][0]
    assert abs(maps[int(unit), int(y), int(x)] - float(value)) <= 1e-3 * maps.max()


@pytest.mark.parametrize(
    "wrong",
    [
        "layer=1.5&unit=0.5", "y=9999&x=9999&unit=1", "pin=99/9/0/0", "pin=x", "tiles=x&scale=x&gamma=-1", "zoom=9",
        "model=7&method=x&policy=x&at=9999", "second=gone&picture=gone", "sha=0123&layer=2&gamma=0.5",
    ],
)  # fmt: skip
def test_wrong_links_show_what_there_is(page: Any, url: str, wrong: str) -> None:
    """A link of another model the start, and says so."""
    before = drawn(page, "grid")
    page.goto(f"{url}&again#{wrong}")
    quiet(page)
    assert page.is_visible("#evidence") and page.is_visible("#tile") and page.is_visible("#picture")
    if "sha" in wrong:
        assert page.inner_text("#where") == "the link is of another model" and np.array_equal(
            drawn(page, "grid"), before
        )
    press(page, "u")
    assert len(said(page)["sha"].split(".")) == 2


def test_patches_that_come_late_are_not_shown_for_others(page: Any) -> None:
    plain = drawn(page, "grid")
    running = b'{"state": "running"}'
    page.route(
        "**/api/patterns/**",
        lambda route: route.fulfill(body=struct.pack("<I", len(running)) + running),
        times=1,
    )
    press(page, "s", "s", "s")
    page.wait_for_timeout(1000)
    assert np.array_equal(drawn(page, "grid"), plain) and page.inner_text("#scale") == "each unit's own scale"


def stop_or_go(url: str) -> str:
    return "running" if "start=1" in url else "stopped"


def test_work_in_the_background_is_stopped_and_keys_wait_for_the_page(page: Any) -> None:
    page.reload(wait_until="commit")
    for key in "ueobzs":
        page.keyboard.press(key)
    quiet(page)
    page.goto(page.url.partition("#")[0])
    page.keyboard.press("Escape")
    quiet(page)
    said = {"state": "running", "done": 3, "total": 96, "error": "", "number": 7}
    page.route("**/api/unit/*/*?*", lambda route: route.fulfill(json={**route.fetch().json(), "optimum": said}))
    page.route(
        "**/api/job/7?*", lambda route: route.fulfill(json=said.update(state=stop_or_go(route.request.url)) or said)
    )
    page.click("#dream")
    page.click("#dreaming button >> text=Stop")
    page.locator("#dreaming", has_text="stopped").wait_for()
    page.click("#dreaming button >> text=Go on")
    page.locator("#dreaming", has_text="3 of 96").wait_for()
    page.unroute_all()
    page.locator("#optimum").wait_for()
    assert not page.inner_text("#dreaming")


def test_it_is_dark_where_the_system_is(page: Any) -> None:
    """Paper and ink change places; values keep their colors."""
    before = drawn(page, "grid")
    paper = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert min(page.evaluate(paper)) > 200
    page.emulate_media(color_scheme="dark")
    assert max(page.evaluate(paper)) < 60
    assert np.array_equal(drawn(page, "grid"), before)


@pytest.mark.parametrize("size", [(390, 844), (820, 1180), (1920, 1080)])
def test_nothing_is_cut_off(page: Any, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.reload()
    quiet(page)
    press(page, "u", "u")
    assert page.evaluate("scrollY") == 0  # the list of layers scrolls, not the page
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    box = page.locator("#grid").bounding_box()
    assert box["width"] > 0.4 * min(size[0], 800) and box["height"] > 150


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_page_goes_on_after_a_crash_of_the_server(browser: Any, tmp_path: Path) -> None:
    """Also with a picture that was dropped on it."""
    asked = [sys.executable, "cli.py", "explore", "models/digits_cnn.onnx", *PICTURES[:1], "--no-browser"]
    run = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    assert run.stdout is not None
    page = browser.new_page()
    page.goto(run.stdout.readline().strip())
    quiet(page)
    write_png(tmp_path / "dropped.png", np.zeros((64, 64, 3), np.uint8))
    page.set_input_files("#files", str(tmp_path / "dropped.png"))
    page.locator("#picture-name", has_text="dropped.png").wait_for()
    quiet(page)
    (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    before = drawn(page, "grid")
    seen = "new MutationObserver(() => { window.seen ||= !gone.hidden; }).observe(gone, { attributes: true })"
    page.evaluate(f"() => {{ const gone = document.getElementById('gone'); {seen}; }}")
    os.kill(int(child), signal.SIGSEGV)
    page.keyboard.press("ArrowUp")
    while not page.evaluate("window.seen"):  # it may be over before we look
        page.wait_for_timeout(100)
    page.locator("#gone").wait_for(state="hidden", timeout=60_000)
    quiet(page)
    assert not np.array_equal(drawn(page, "grid"), before) and page.inner_text("#picture-name") == "dropped.png"
    served = page.evaluate("fetch('api/pictures').then((answer) => answer.json())")["pictures"]
    assert [one["name"] for one in served] == [Path(PICTURES[0]).name, "dropped.png"]
    page.close()
    run.terminate()
    assert run.wait(20) == 0
