"""How quickly the explorer answers: from a key to the painted pixels, in Chromium.

python -m benchmarks.explorer MODEL… --data PICTURES

Medians over presses, in milliseconds: another unit of a layer whose activations are kept; the same with its projection
painted, and how much of it the server took; a hovered unit's outline; the first screen after the page is asked for, and
frames of the webcam in a second. Once the browser, which paints on the same cores, is closed: the server's work for a
projection and a bare run of its graph, in turn, after a pause as long as that between two presses.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.attribution.model import sizes_of
from analyzer.attribution.projection import Projector
from analyzer.data import find_pictures

ROOT = Path(__file__).parent.parent
PRESSES = 15
PAUSE = 400  # milliseconds between them

# Milliseconds from a key to the frame in which the canvas of a name has been drawn again.
PAINTED = """([key, name]) => new Promise((done) => {
    const canvas = document.getElementById(name), started = performance.now();
    const watch = new MutationObserver(() => {
        watch.disconnect();
        requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)));
    });
    watch.observe(canvas, { attributes: true });
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
})"""

# Milliseconds that the server took for each projection.
SERVED = """() => performance.getEntriesByType("resource").filter((one) => one.name.includes("api/project/"))
    .flatMap((one) => one.serverTiming.map((timing) => timing.duration))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    given = parser.parse_args()
    names = "first screen, s", "unit, ms", "projection, ms", "server, ms", "outline, ms", "frames/s"
    print(f"| model | {' | '.join([*names, 'alone: server, ms', 'bare run, ms', 'ratio'])} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in given.models:
        print(f"| {Path(model).stem} | {' | '.join(f'{v:.3g}' for v in measured(model, given.data))} |", flush=True)


def measured(model: str, data: str) -> list[float]:
    asked = [sys.executable, "cli.py", "explore", model, "--data", data, "--limit", "4", "--no-browser"]
    run = subprocess.Popen(asked, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert run.stdout is not None
    url = run.stdout.readline().strip()
    try:
        with sync_playwright() as playwright:
            camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", *camera]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            started = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#grid[data-shown]", timeout=120_000)
            first = time.perf_counter() - started
            page.wait_for_selector("body[data-idle=true]", timeout=120_000)
            page.wait_for_timeout(3000)
            page.evaluate("location.hash = location.hash + '&card=false'")
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            page.wait_for_timeout(1000)
            units = [press(page, "tile", at) for at in range(PRESSES)]
            projections = [press(page, "projection", at) for at in range(PRESSES)]
            served = page.evaluate(SERVED)[-PRESSES:]
            outlines = [hovered(page, at) for at in range(PRESSES)]
            frames = filmed(page)
            browser.close()
        alone = projected(url, model, find_pictures([data])[0].source)
    finally:
        run.terminate()
        run.wait(20)
    numbers = [statistics.median(rows) for rows in (units, projections, served, outlines)]
    return [first, *numbers, frames, *alone, alone[0] / alone[1]]


def press(page: Any, name: str, at: int) -> float:
    """To the unit at the right or back, in turn."""
    took = page.evaluate(PAINTED, ["ArrowLeft" if at % 2 else "ArrowRight", name])
    page.wait_for_timeout(PAUSE)
    return float(took)


def hovered(page: Any, at: int) -> float:
    """From the pointer's move to the next frame."""
    script = """(at) => new Promise((done) => {
        const canvas = document.getElementById("grid"), box = canvas.getBoundingClientRect();
        const started = performance.now();
        const place = { clientX: box.x + 20 + 9 * at, clientY: box.y + 30, bubbles: true };
        canvas.dispatchEvent(new PointerEvent("pointermove", place));
        done(performance.now() - started);
    })"""
    return float(page.evaluate(script, at))


def filmed(page: Any, seconds: float = 6) -> float:
    """Different pictures of the webcam whose units were drawn, in a second."""
    page.evaluate("location.hash = location.hash + '&policy=&labels=false'")
    page.keyboard.press("c")
    page.wait_for_timeout(1500)
    script = """(seconds) => new Promise((done) => {
        const canvas = document.getElementById("grid"), seen = new Set();
        const watch = new MutationObserver(() => seen.add(canvas.dataset.shown));
        watch.observe(canvas, { attributes: true, attributeFilter: ["data-shown"] });
        setTimeout(() => { watch.disconnect(); done(seen.size / seconds); }, 1000 * seconds);
    })"""
    found = float(page.evaluate(script, seconds))
    page.keyboard.press("c")
    return found


def projected(url: str, model: str, picture: Any) -> tuple[float, float]:
    """The server's milliseconds for a projection, and those of its graph alone: medians of runs in turn."""
    where, token = url.split("/?token=")
    client = HTTPConnection(where.removeprefix("http://"))

    def ask(path: str) -> tuple[Any, float]:
        client.request("GET", f"/api/{path}", headers={"X-Explorer-Token": token})
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body, float((answer.headers["Server-Timing"] or "=0").partition("=")[2])

    known = json.loads(ask("model")[0])["models"][0]
    layer = known["layers"][known["first"]]
    explainer = Explainer(model)
    feeds = explainer.feeds(read_card(explainer, None, {}).feeds.feed(picture).feeds)
    projector = Projector(explainer, sizes_of(feeds), layer["name"], "deconvnet")
    found: list[tuple[float, float]] = []
    for press in range(PRESSES + 3):
        channel = press % layer["channels"]
        time.sleep(PAUSE / 1000)
        _, served = ask(f"project/0/{known['first']}/{channel}?policy=deconvnet&plain=1")
        time.sleep(PAUSE / 1000)
        started = time.perf_counter()
        projector.run(feeds, channel)
        found.append((served, 1000 * (time.perf_counter() - started)))
    served, bare = zip(*found[3:], strict=True)
    return statistics.median(served), statistics.median(bare)


if __name__ == "__main__":
    main()
