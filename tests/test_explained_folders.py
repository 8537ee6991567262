"""`explain` over a folder: what it prints picture by picture, what it warns of, and the pictures that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer.attribution import Job, Model, Question
from analyzer.commands import common
from analyzer.commands.common import Warnings, draw_bar, note
from analyzer.data import Sample, find_pictures
from analyzer.images import decode, encode, model_card, write_png
from analyzer.passes import run as run_pass
from analyzer.passes.base import Pass
from analyzer.passes.explaining import Explaining
from analyzer.plain import as_json

MODEL = str(Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    for at in range(3):
        picture = np.random.default_rng(at).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        write_png(tmp_path / "p" / f"{at}.png", picture)
    return tmp_path


def test_a_line_of_json_per_picture_and_one_for_what_failed(run, place) -> None:
    (place / "p" / "1.png").write_bytes(b"no picture")
    code, out, err = run("explain", MODEL, "p/0.png", "p/1.png", "p/2.png", "--format", "jsonl", "-q")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 5
    assert [[r["picture"] for r in line["results"] + line["failed"]] for line in lines] == [
        ["p/0.png"], ["p/1.png"], ["p/2.png"]
    ]  # fmt: skip
    assert {line["kind"] for line in lines} == {"explain"} and "remark" not in lines[0]["results"][0]
    assert "1.png" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_results_come_out_while_later_pictures_are_awaited(form: str, place) -> None:
    """The second picture is a pipe, the end of which is written only after the first result was read."""
    whole, late = (place / "p" / "1.png").read_bytes(), place / "p" / "late.png"
    os.mkfifo(late)
    end = os.open(late, os.O_RDWR)
    os.write(end, whole[:100])
    root = Path(MODEL).parents[1]
    command = [sys.executable, str(root / "cli.py"), "explain", MODEL, "p/0.png", "p/late.png", "--format", form, "-q"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        out = b""
        while b'"maximum"' not in out and b"maximum at" not in out:
            ready, _, _ = select.select([process.stdout], [], [], 60)
            part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                process.kill()
                pytest.fail("nothing was printed before the last picture")
            out += part
        assert b"0.png" in out and b"late.png" not in out
        os.write(end, whole[100:])
        os.close(end)
        rest = process.stdout.read()
    assert process.returncode == 0 and b"late.png" in rest


@pytest.mark.parametrize(("form", "suffix"), [(None, ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_pictures_of_a_folder_are_small_and_of_the_format_that_is_asked_for(run, place, form, suffix) -> None:
    code, _, _ = run("explain", MODEL, "p", "-o", "o", *(["--image-format", form] if form else []))
    written = sorted((place / "o").iterdir())
    assert code == 0 and [w.name for w in written] == [f"{at}{suffix}" for at in range(3)]
    assert max(decode(written[0]).shape) < 300


def test_size_out_is_the_long_side_of_the_picture(run, place) -> None:
    sizes = []
    write_png(place / "p" / "0.png", np.zeros((200, 300, 3), np.uint8))
    for side in (400, 500):
        assert run("explain", MODEL, "p/0.png", "-o", f"{side}.png", "--size-out", str(side))[0] == 0
        sizes.append(decode(place / f"{side}.png").shape)
    assert sizes[1][1] - sizes[0][1] == pytest.approx(100, abs=8)


def test_a_named_file_has_the_format_of_its_name(run, place) -> None:
    code, _, err = run("explain", MODEL, "p/0.png", "-o", "a.png", "--image-format", "jpeg")
    assert code == 2 and ".jpg" in err and not (place / "a.png").exists()


class Numbered(Pass[list[int]]):
    """Slower for earlier samples, so that later ones are done first."""

    identity = {}  # noqa: RUF012

    def load(self, sample: Sample) -> int:
        return sample.number

    def step(self, batch):
        import time

        time.sleep(0.02 * (8 - batch[0].item))
        return [batch[0].item]

    def merge(self, left: list[int], right: list[int]) -> list[int]:
        return left + right


@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_the_order_of_the_samples(workers: int) -> None:
    told: list[int] = []
    samples = [Sample(str(at), at, b"") for at in range(8)]
    done = run_pass(Numbered(), samples, workers=workers, each=lambda found, _: told.extend(found))
    assert told == done.result == list(range(8))


@pytest.mark.filterwarnings("ignore:invalid value")  # the picture of the array that has NaN
def test_pictures_that_are_explained_at_once_are_explained_as_alone(tmp_path: Path) -> None:
    """To the byte, also where one map is empty, and where one picture cannot be explained."""
    rng = np.random.default_rng(0)
    for at in range(40):
        picture = rng.integers(0, 256, (40, 60, 3)) if at != 7 else np.zeros((40, 60, 3))
        write_png(tmp_path / f"{at:02}.png", picture.astype(np.uint8))
    np.save(tmp_path / "30.npy", np.full((1, 3, 96, 96), np.nan, np.float32))
    model = Model(MODEL, threads=1)
    card = model_card(Path(MODEL), None, model.plain.inputs[0].shape)
    question = Question((Job("grad-cam"), Job("gradient")), labels=card.labels)
    work, alone = Explaining(model, question, card), Explaining(model, question, card, raws={"-": tmp_path / "-.npz"})
    assert work.together > 1 == alone.together
    samples = find_pictures([tmp_path / "*"])
    groups: list[int] = []
    step_all = work.step_all
    work.step_all = lambda batches: (groups.append(len(batches)), step_all(batches))[1]  # type: ignore[method-assign]
    expected = run_pass(alone, samples, workers=1)
    for workers in (1, 2, 4):
        done = run_pass(work, samples, workers=workers)
        assert as_json(done.result) == as_json(expected.result) and max(groups) > 1
        assert list(done.failed) == [str(tmp_path / "30.npy")] == list(expected.failed)
    assert [len(expected.result), sum(bool(m["diagnosis"]) for m in expected.result[7]["maps"])] == [40, 1]


def test_a_warning_about_many_pictures_is_said_once_and_counted(capsys) -> None:
    warnings = Warnings()
    for picture, share in (("a", 3), ("b", 4), ("c", 12)):
        warnings.tell("warning", picture, f"{share} values are off")
    warnings.tell("warning", "a", "something else")
    warnings.sum_up()
    assert capsys.readouterr().err.splitlines() == [
        "warning: a: 3 values are off",
        "warning: a: something else",
        "warning: 2 more pictures, the same: 3 values are off",
    ]


def test_a_note_has_a_line_of_its_own(capsys) -> None:
    draw_bar("explain", 1, 4)
    note("note: here")
    err = capsys.readouterr().err
    bar = err.split("\r")[1]
    assert err == f"\r{bar}\r{' ' * len(bar)}\rnote: here\n" and common._bar == 0


def screen(written: str) -> list[str]:
    """The lines of a terminal after this was written to it."""
    lines, column = [""], 0
    for character in written:
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_warnings_do_not_land_on_the_progress_bar(place) -> None:
    """On a terminal of its own, stdout elsewhere: an unreadable picture and doubts between the steps of the bar."""
    import pty

    (place / "p" / "1.png").write_bytes(b"no picture")
    for at in (2, 3, 4):
        np.save(place / "p" / f"{at}.npy", np.full((40, 60, 3), 300 + at, np.float32))
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminals: {error}")
    root = Path(MODEL).parents[1]
    command = [sys.executable, str(root / "cli.py"), "explain", MODEL, "p/*", "--format", "jsonl", "--workers", "1"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        written = bytearray()
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 4096):
                written += part
        out = process.stdout.read() if process.stdout else b""
    os.close(ours)
    assert process.returncode == 5 and len(out.splitlines()) == 6
    lines = [line for line in screen(written.decode()) if line]
    bars = [line for line in lines if "█" in line or "·" in line]
    assert bars == [f"explain {'█' * 24} 6/6"]
    odd = [
        line for line in lines if line not in bars and line.split(":")[0] not in ("error", "  hint", "note", "warning")
    ]
    assert not odd
    assert any("1.png" in line for line in lines)


def test_png_is_lossless() -> None:

    ramp = np.linspace(0, 255, 400)
    picture = np.stack([np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 2 + 128, np.full((400, 400), 9)], 2)
    picture = picture.astype(np.uint8)
    assert np.array_equal(decode(encode(picture)), picture)
