"""Pages of reports: self-contained, sized, and quiet in a browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import analyzer
from analyzer.images import Feeding, Preprocess
from analyzer.images.showing import LARGEST
from analyzer.report import comparison_page, plots
from analyzer.report.files import evidence_figure, flattest, layer_figure, shares_of_error
from analyzer.report.page import breakable, figure, picture, sentence

ROOT = Path(__file__).resolve().parents[1]
CNN, INT8 = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_cnn_int8.onnx"
PICTURES = sorted(map(str, (ROOT / "examples").glob("digits_*.png")))
NAMES = "compare", "audit", "mine"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """{command: its page}"""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("compare", "audit")}
    analyzer.compare(CNN, INT8, PICTURES, report=found["compare"])
    analyzer.audit(CNN, PICTURES, probes=2, report=found["audit"])
    analyzer.mine(CNN, PICTURES, ["*stage2.0/Relu*", "*stage3/Relu*"], out=folder / "mined", draw=3)
    return found | {"mine": folder / "mined" / "index.html"}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_for_nothing_outside_and_allows_only_its_own_style_and_script(pages, name):
    page = pages[name].read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.findall(r'\s(?:style|on\w+)="', page)  # the policy would block them
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page and "url(" not in page


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_page_are_small_and_have_names(pages, name):
    page = pages[name].read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*>", page)
    assert images
    for image in images:
        (data,) = re.findall(r'src="data:image/webp;base64,([^"]*)"', image)
        assert len(base64.b64decode(data)) <= LARGEST and re.search(r'alt="[^"]+"', image)


@pytest.mark.parametrize("name", [*NAMES, "explore"])
def test_every_figure_of_a_page_has_a_text_for_screen_readers(pages, name):
    page = ROOT / "analyzer" / "explorer" / "static" / "index.html" if name == "explore" else pages[name]
    figures = re.findall(r"<(?:img|svg|canvas)\b[^>]*>", page.read_text(encoding="utf-8"))
    assert figures
    for each in figures:
        assert re.search(r'(?:alt|aria-label)="[^"]+"|aria-hidden="true"', each), each


class Structure(HTMLParser):
    """Whether every link within the page leads somewhere, and tags are closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known["href"][1:]] if known.get("href", "").startswith("#") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_of_the_contents_leads_somewhere(pages, name):
    found = Structure(pages[name].read_text(encoding="utf-8"))
    assert not found.open and len(found.ids) == len(set(found.ids))
    assert set(found.links) <= set(found.ids) and len(found.links) > 4


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.parametrize("name", NAMES)
def test_a_browser_shows_a_page_without_a_message_and_sorts_its_tables(pages, name, tmp_path):
    """A second script would be against the policy, so the tables are pressed in a copy with another one's hash."""
    page = pages[name].read_text(encoding="utf-8")
    pressed = (
        'const heading = document.querySelector("table.sortable th");'
        'heading.querySelector("button").click(); document.title = heading.getAttribute("aria-sort");'
    )
    digest = base64.b64encode(hashlib.sha256(pressed.encode()).digest()).decode()
    tried = page.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{pressed}</script></body>"
    )
    copy = tmp_path / "page.html"
    copy.write_text(tried, encoding="utf-8")
    network = tmp_path / "network.json"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    flags += ["--enable-logging=stderr", f"--log-net-log={network}", "--dump-dom", copy.as_uri()]
    done = subprocess.run([BROWSER, *flags], capture_output=True, text=True, timeout=120, check=True)
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not messages, messages
    assert re.search(r"<title>ascending</title>", done.stdout), done.stdout[:400]
    text = network.read_text(encoding="utf-8", errors="replace")
    # The browser's own requests, for updates and dictionaries, are not the page's.
    asked = {url for url in re.findall(r'"url":"(https?://[^"]*)"', text) if "google" not in url and "gvt1" not in url}
    assert not asked, asked


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_pages_are_no_wider_than_a_telephone(pages, tmp_path):
    """In frames, because a window of Chromium has a least width; wide tables scroll by themselves."""
    said = "const e = document.documentElement; onload = () => parent.postMessage(e.scrollWidth - e.clientWidth, '*');"
    for name in NAMES:
        page = pages[name].read_text(encoding="utf-8")
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        (tmp_path / f"{name}.html").write_text(page.replace("</body>", f"<script>{said}</script></body>"), "utf-8")
    frames = "".join(f'<iframe src="{name}.html" width="390" height="800" frameborder="0"></iframe>' for name in NAMES)
    script = "const w = []; onmessage = (e) => { w.push(e.data); document.title = w.join(); };"
    (tmp_path / "all.html").write_text(f"<script>{script}</script>{frames}", "utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    flags += ["--virtual-time-budget=20000", "--dump-dom", (tmp_path / "all.html").as_uri()]
    done = subprocess.run([BROWSER, *flags], capture_output=True, text=True, timeout=120, check=True)
    assert "<title>0,0,0</title>" in done.stdout


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(pages, name, scheme, tmp_path):
    """Contrast, names, roles, order of headings, keyboard: https://github.com/dequelabs/axe-core."""
    package = importlib.util.find_spec("axe_core_python")
    if package is None or package.origin is None:
        pytest.skip("axe-core-python is not installed")
    axe = Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    page = pages[name].read_text(encoding="utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it forbids scripts of others
    if scheme == "dark":
        page = page.replace("(prefers-color-scheme: dark)", "all", 1)
    run = "axe.run().then((found) => { document.title = JSON.stringify(found.violations); });"
    copy = tmp_path / "page.html"
    copy.write_text(page.replace("</body>", f"<script>{axe}\n{run}</script></body>"), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    flags += ["--window-size=1400,900", "--virtual-time-budget=20000", "--dump-dom", copy.as_uri()]
    done = subprocess.run([BROWSER, *flags], capture_output=True, text=True, timeout=120, check=True)
    title = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0]
    found = json.loads(unescape(title))
    assert not found, "\n".join(f"{v['id']}: {v['help']}: {[n['html'] for n in v['nodes'][:3]]}" for v in found)


# ---- Folders ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("report")
    analyzer.compare(CNN, INT8, PICTURES, report=f"{found}/compare/", draw=3)
    analyzer.audit(CNN, PICTURES, probes=2, report=f"{found}/audit/", draw=1, threshold={"border": 0.4})
    return found


@pytest.mark.parametrize(("name", "count"), [("compare", 3), ("audit", 1 + 1 + 3)])
def test_pictures_of_a_folder_are_files_beside_its_page(folder, name, count):
    page = (folder / name / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'<img [^>]*src="([^"]*)"', page)
    assert len(sources) == count and set(sources) == {
        f"pictures/{p.name}" for p in (folder / name / "pictures").iterdir()
    }
    for source in sources:
        assert 0 < (folder / name / source).stat().st_size <= LARGEST
    figures = json.loads((folder / name / "metrics.json").read_text())
    assert figures["pictures"] == 4 and all(isinstance(value, int | float) for value in figures.values())


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_browser_shows_the_pictures_of_a_folder(folder, tmp_path):
    page = (folder / "compare" / "index.html").read_text(encoding="utf-8").replace(' loading="lazy"', "")
    script = "onload = () => { document.title = [...document.images].map((i) => i.naturalWidth > 0).join(); };"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{script}</script></body>"
    )
    copy = folder / "compare" / "copy.html"
    copy.write_text(page, encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "<title>true,true,true</title>" in done.stdout


def test_a_picture_that_was_not_kept_is_drawn_again(folder):
    done = analyzer.compare(CNN, INT8, PICTURES)
    name, kept = done.least(1)[0], done.figure()
    done.maps.clear()
    assert np.array_equal(done.figure(name), kept)


def test_both_maps_of_a_comparison_have_one_scale():
    fed = Feeding.of(Preprocess(size=(32, 32)), "x").feed(np.full((32, 32, 3), 255, np.uint8))
    heat = np.ones((32, 32), np.float32)
    drawn = evidence_figure(dict.fromkeys(("grad-cam", "occlusion"), (heat, heat / 2)), fed)
    _, counts = np.unique(drawn.reshape(-1, 3), axis=0, return_counts=True)
    # White, and for each method what is 1 and what is ½; their difference is the same for both.
    assert (counts > drawn.size / 3 / 20).sum() == 6


def test_node_data_has_every_layer_under_the_name_of_its_tensor(folder):
    found = json.loads((folder / "compare" / "node-data.json").read_text())
    layers = json.loads((folder / "compare" / "result.json").read_text())["comparison"]["layers"]
    assert set(found["results"]) == {row["layer"] for row in layers}
    assert all(0 <= result["value"] <= 60 for result in found["results"].values())


# ---- Parts ----


def test_a_large_picture_is_compressed_until_it_is_small():
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    found = picture("noise", noise, 60_000)
    assert (found.width, found.height) == (450, 350)
    assert len(base64.b64decode(found.source.partition(",")[2])) <= 60_000


def test_a_histogram_counts_every_value_and_colors_what_is_beyond_the_threshold():
    values = np.random.default_rng(0).uniform(-0.2, 1.2, 500)
    found = plots.histogram("h", values.tolist(), (0, 1), "unit", limit=0.25, bins=20)
    counts = [int(bar["words"].split()[0]) for bar in found.bars]
    assert sum(counts) == 500 and counts[0] == np.sum(values < 0.05) and counts[-1] == np.sum(values >= 0.95)
    assert [bar["out"] for bar in found.bars] == [True] * 5 + [False] * 15
    highest = max(found.bars, key=lambda bar: bar["height"])
    assert highest["y"] == found.top and highest["y"] + highest["height"] == found.bottom
    (limit,) = found.limits
    assert limit["path"].startswith(f"M{found.left + (found.right - found.left) / 4:g} ")


def test_a_line_goes_from_edge_to_edge_and_its_mark_is_on_it():
    found = plots.lines("l", {"a": [0.0, 1.0, 0.5], "b": [0.5, None, 2.0]}, (0, 1), "unit", mark=(1, "here"))
    first, second = ([tuple(map(float, p.split(","))) for p in line["points"].split()] for line in found.lines)
    assert first == [(found.left, found.bottom), (found.x(0.5), found.top), (found.right, found.y(0.5))]
    assert second == [(found.left, found.y(0.5)), (found.right, found.top)]  # None is left out, 2 is drawn at the top
    assert (found.marks[0]["x"], found.marks[0]["y"]) == first[1] and found.lines[0]["style"] != found.lines[1]["style"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (True, "yes"), (3, "3"), (0.123456, "0.1235"), ("x", "x"), (np.inf, "–")],
)
def test_figures(value, text):
    assert figure(value) == text


def test_long_names_may_be_broken_and_are_escaped():
    assert breakable("<b> short/name") == "&lt;b&gt; short/name"
    broken = breakable("at /network/stem/stem.0/Relu_output_0&")
    assert broken == "at /<wbr>network/<wbr>stem/<wbr>stem.<wbr>0/<wbr>Relu_<wbr>output_<wbr>0&amp;"


def test_sentences():
    assert sentence("labels differ") == "Labels differ." and sentence("Why?") == "Why?"


def test_the_pictures_that_speak_most_for_a_finding():
    rows = [
        {
            "picture": f"{n}.png",
            "agree": n != 2,
            "score_drift": n / 10,
            "evidence": {"grad-cam": {"rank_correlation": 1 - n / 4}},
        }
        for n in range(5)
    ]
    rows.append({"picture": "none.png", "agree": False, "score_drift": 0.9, "evidence": {}})
    report = {"rows": rows}

    def names(code, where=""):
        return comparison_page.worst({"code": code, "where": where}, report)

    assert names("labels-differ") == ["2.png"] and names("scores-drift") == ["4.png", "3.png", "2.png"]
    assert names("evidence-moves", "grad-cam") == ["4.png", "3.png", "2.png"] and names("features-diverge") == []


def test_a_comparison_shows_pictures_beside_its_findings(tmp_path):
    file = tmp_path / "page.html"
    model, other = (ROOT / "models" / f"digits_{kind}.onnx" for kind in ("cnn", "vit"))
    analyzer.compare(model, other, ROOT / "examples" / "digits_coffee.png", method="grad-cam", report=file, draw=0)
    page = file.read_text(encoding="utf-8")
    reasons = page.partition('class="reasons finding"')[2].partition("</ul>")[0]
    assert re.search(r'alt="[^"]*digits_coffee.png: [^"]*" src="data:image/webp', reasons)
    assert "threshold at least 0.8" in reasons and "threshold at most 0" in reasons
    listed = page.partition('class="listed"')[2].partition("</ul>")[0]  # in the verdict, each leading to its reasons
    assert re.findall(r'href="#([^"]*)"', listed) == re.findall(r'<li id="([^"]*)"', reasons) != []


def test_findings_of_layers_show_their_channels(tmp_path):
    model, dead, layer = onnx.load(CNN), tmp_path / "dead.onnx", "/network/stem/stem.1/stem.1.2/Relu_output_0"
    weights = {t.name: t for t in model.graph.initializer}
    for name in [n for n in model.graph.node if n.op_type == "Conv"][1].input[1:]:
        array = numpy_helper.to_array(weights[name]).copy()
        array[: len(array) // 2] = 0
        weights[name].CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, dead)
    pages = {name: tmp_path / f"{name}.html" for name in ("compare", "audit")}
    given = {"preset": "imagenet", "draw": 0}
    analyzer.compare(CNN, dead, PICTURES[:1], method="grad-cam", report=pages["compare"], **given)
    analyzer.audit(dead, PICTURES[:1], probes=1, report=pages["audit"], **given)
    for name, code in (("compare", "features-diverge"), ("audit", "dead-channels")):
        found = pages[name].read_text(encoding="utf-8").partition('class="reasons finding"')[2].partition("</ul>")[0]
        (reason,) = [each for each in found.split("<li ") if code in each and "Relu" in each]
        assert re.search(rf'<img alt="{re.escape(layer)} on [^"]*" src="data:image/webp', reason)


def test_channels_that_differ_most_come_first():
    ours = np.random.default_rng(0).random((8, 5, 4)).astype(np.float32)
    theirs = ours.copy()
    theirs[5] += 2
    theirs[2, 0] += 1
    assert list(shares_of_error(ours, theirs).items())[:2] == [(5, pytest.approx(80 / 84)), (2, pytest.approx(4 / 84))]
    with pytest.raises(analyzer.InputError):
        layer_figure(ours, theirs[:7])


def test_constant_and_saturated_channels_come_first():
    maps = np.random.default_rng(0).random((40, 6, 6)).astype(np.float32)
    maps[33], maps[7, :3] = 0.0, 1.0
    assert flattest(maps)[:3] == [33, 7, 0] and len(flattest(maps)) == 32
