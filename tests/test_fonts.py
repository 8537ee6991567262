"""Labels in any script: drawn with the fonts of the machine, written as escapes where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analyzer.images import fonts, text
from analyzer.images.text import SEMIBOLD, clean, draw_text, shorten, text_width, wrap

ROOT = Path(__file__).resolve().parents[1]
LABELS = {"Chinese": "家猫", "Arabic": "قطة منزلية", "Devanagari": "हिन्दी बिल्ली", "emoji": "🐱👩🏽‍🚀", "Hebrew": "חתול"}


def needs(label: str) -> str:
    if not all(fonts.has(c) or fonts.joins(c) or c == " " for c in label):
        pytest.skip(f"no font of this machine has {label}")
    return label


def drawn(label: str, size: int = 24) -> np.ndarray:
    canvas = np.full((60, 400, 3), 255, np.uint8)
    draw_text(canvas, clean(label), 10, 40, size)
    return canvas


def ink(canvas: np.ndarray) -> np.ndarray:
    return np.asarray((canvas < 200).any(axis=2))


@pytest.mark.parametrize("script", LABELS)
def test_labels_are_drawn_in_their_script(script: str) -> None:
    label = needs(LABELS[script])
    assert clean(label) == label
    width = text_width(label, 24)
    columns = np.flatnonzero(ink(drawn(label)).any(axis=0))
    assert columns[0] >= 8 and abs(columns[-1] - 10 - width) <= 6
    assert np.array_equal(ink(drawn(f"{label} b"))[:, : 10 + width - 2], ink(drawn(label))[:, : 10 + width - 2])
    assert text_width(f"a{label} 0.91", 24, SEMIBOLD) > width


def test_arabic_letters_join_and_run_from_right_to_left() -> None:
    word = needs("قطة")
    assert text_width(word, 48) < sum(text_width(letter, 48) for letter in word)
    first = ink(drawn(word[0], 48)).any(axis=0).sum()
    columns = ink(drawn(word, 48))
    # the dots of the first letter, qaf, are above its right end
    ys, xs = np.nonzero(columns)
    right, left = ys[xs > xs.max() - first // 2], ys[xs < xs.min() + first // 2]
    assert len(right) and len(left) and not np.array_equal(columns, columns[:, ::-1])
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(fonts._file_of(word[0])), 48)
    page = Image.new("L", (400, 60), 255)
    ImageDraw.Draw(page).text((10, 40), word, 0, font, anchor="ls", direction="rtl", language="ar")
    assert (ink(np.asarray(page)[..., None]) != columns).mean() < 0.01


def test_emoji_keep_their_colors() -> None:
    canvas = drawn(needs("🐱"), 40).astype(int)
    assert np.ptp(canvas, axis=2).max() > 80


def test_text_of_several_scripts_is_wrapped_and_shortened() -> None:
    label = needs("家猫" * 20 + " cat")
    lines = wrap(label, 120, 14, lines=9)
    assert "".join(lines).replace(" ", "") == label.replace(" ", "")
    assert all(text_width(line, 14) <= 120 for line in lines)
    assert text_width(shorten(label, 100, 14), 14) <= 100


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def forget() -> None:
        for cached in (fonts._file_of, fonts._files, text._drawable, text._parts):
            cached.cache_clear()
        fonts.missing.clear()

    forget()
    with monkeypatch.context() as patch:
        patch.setattr(fonts, "_FOLDERS", ())
        yield
    forget()


def test_without_a_font_characters_are_escaped(no_fonts: None) -> None:
    assert clean("🐱 قط cat") == "\\U0001f431 \\u0642\\u0637 cat"
    assert clean("naïve ﬁn") in ("naïve ﬁn", "naïve fin", "naive fin") and fonts.missing == {"🐱", "ق", "ط"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def test_the_command_says_once_what_could_not_be_drawn(no_fonts: None, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("🐱🐶🐦🐟🐴🐮🐑🐯🐰🐘"), encoding="utf-8")
    code, out, err = run(
        "explain", str(ROOT / "models/digits_cnn.onnx"), str(ROOT / "examples/digits_coffee.png"),
        "--labels", str(labels), "-o", str(tmp_path / "o.png"),
    )  # fmt: skip
    assert code == 0 and (tmp_path / "o.png").exists()
    assert err.count("no font") == 1 and "Noto" in err
    assert any(c in out for c in "🐱🐶🐦🐟🐴🐮🐑🐯🐰🐘")
