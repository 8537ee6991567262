"""A pass gives the same whatever is killed, divided or done at once."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer.attribution import Explainer
from analyzer.data import Sample, find_pictures
from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.images import Preprocess, write_png
from analyzer.mining import mine
from analyzer.mining.described import describe
from analyzer.passes import Loaded, Pass, merge, run
from analyzer.passes.codec import decode, encode
from analyzer.passes.journal import Journal
from analyzer.passes.tree import Block, Tree
from analyzer.plain import as_json
from analyzer.store import Store
from analyzer.validation.audit import Auditing
from analyzer.validation.checks import findings
from analyzer.validation.compare import Comparing
from analyzer.validation.recording import Recording
from analyzer.validation.side import Side
from analyzer.validation.verdict import Thresholds, judge
from tests.mean_activations import MeanActivations
from tests.models import small_cnn

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits_cnn.onnx"
COUNT = 100


class Sums(Pass[dict[str, Any]]):
    """Sums that round, names in order; `stop` steps are done before something breaks."""

    name, batch = "sums", 3

    def __init__(self, stop: int = COUNT, about: str = "") -> None:
        self.stop, self.about, self.steps, self.set_up = stop, about, 0, 0

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"about": self.about}

    def setup(self, first: Loaded | None) -> None:
        self.set_up += 1

    def load(self, sample: Sample) -> Any:
        if sample.source == b"bad":
            raise InputError("it is bad", "mend it")
        return np.float32(sample.number / 7)

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        self.steps += 1
        if self.steps > self.stop:
            raise RuntimeError("cut off")
        time.sleep(random.random() * 0.003)
        return {"sum": sum(float(item) for _, item in batch), "names": [sample.id for sample, _ in batch]}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return {name: left[name] + right[name] for name in left}


def samples(count: int = COUNT, bad: Sequence[int] = ()) -> list[Sample]:
    return [Sample(str(i), i, b"bad" if i in bad else bytes([i])) for i in range(count)]


WHOLE = run(Sums(), samples(), workers=1).result


def test_no_workers_are_as_many_as_there_are_cpus() -> None:
    assert run(Sums(), samples(), workers=0).result == WHOLE


class Far:
    """Bytes that take a while to come."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def content(self) -> str:
        time.sleep(0.03)
        return str(self.number)


def test_what_is_far_away_is_read_together_to_see_whether_it_changed(tmp_path: Path) -> None:
    far = [Sample(str(i), i, Far(i)) for i in range(COUNT)]
    done = run(Sums(), far, tmp_path, workers=4)
    started = time.perf_counter()
    again = run(Sums(), far, tmp_path)
    assert again.result == done.result and again.resumed == COUNT
    assert time.perf_counter() - started < 0.5 * 0.03 * COUNT


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("stop", [1, 7, 16, 33])
def test_what_is_cut_off_goes_on(tmp_path: Path, stop: int, workers: int) -> None:
    for _ in range(2):
        try:
            run(Sums(stop), samples(), tmp_path, workers)
        except RuntimeError:
            continue
    work = Sums()
    done = run(work, samples(), tmp_path, workers)
    assert done.result == WHOLE and done.resumed >= min(COUNT, 3 * (2 * stop - 2 * workers))
    assert work.steps == 34 - -(-done.resumed // 3)
    again = Sums()
    assert run(again, samples(), tmp_path).result == WHOLE and (again.steps, again.set_up) == (0, 0)
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_any_order_are_the_whole(tmp_path: Path, order: Sequence[int]) -> None:
    for shard in order:
        assert run(Sums(), samples(), tmp_path, shard=(shard, 3)).result is None
    work = Sums()
    assert run(work, samples(), tmp_path).result == WHOLE and not work.steps
    with pytest.raises(InputError, match="shard 4 of 3"):
        run(Sums(), samples(), shard=(4, 3))


def test_a_folder_that_a_shard_works_in_is_not_merged(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "sums", {"about": ""}, (2, 3))
    with pytest.raises(InputError, match="another process"):
        Journal(tmp_path, "sums", {"about": ""}, (2, 3))
    with pytest.raises(InputError, match="this shard"):
        run(Sums(), samples(), tmp_path)
    journal.close()
    assert run(Sums(), samples(), tmp_path).result == WHOLE


def test_shards_of_several_folders_are_brought_together(tmp_path: Path) -> None:
    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    run(Sums(), samples(), first, shard=(1, 3))
    run(Sums(), samples(), first, shard=(2, 3))
    assert merge([first], whole) == {"sums": ["3/3"]}
    journal = Journal(second, "sums", Sums().identity, (3, 3))
    with pytest.raises(InputError, match="working on this shard"):
        merge([first, second], whole)
    journal.close()
    run(Sums(), samples(), second, shard=(3, 3))
    assert merge([first, second], whole) == {"sums": []} == merge([whole, first], whole)
    work = Sums()
    assert run(work, samples(), whole).result == WHOLE and not work.steps
    with pytest.raises(InputError, match="no shard"):
        merge([first, tmp_path], whole)
    run(Sums(about="something else"), samples(), tmp_path / "other", shard=(1, 3))
    with pytest.raises(InputError, match="different runs"):
        merge([first, tmp_path / "other"], whole)


def test_what_cannot_be_loaded_is_left_out_and_told(tmp_path: Path) -> None:
    done = run(Sums(), samples(bad=(4, 5, 6, 7, 8, 50)), tmp_path)
    assert [str(error) for error in done.failed.values()] == ["it is bad\n  hint: mend it"] * 6
    assert list(done.failed) == ["4", "5", "6", "7", "8", "50"]
    assert done.result["names"] == [str(i) for i in range(COUNT) if i not in (4, 5, 6, 7, 8, 50)]
    assert run(Sums(), samples(), tmp_path).result == WHOLE, "a sample that was mended is loaded again"
    assert run(Sums(), samples(3, bad=range(3))).result is None
    with pytest.raises(InputError, match="it is bad"):
        run(Sums(), samples(1, bad=[0]))


def test_a_tolerant_pass_goes_on_behind_an_error(tmp_path: Path) -> None:
    class Tolerant(Sums):
        tolerant, batch = True, 1

        def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
            if batch[0].sample.number == 2:
                raise UnsupportedError("not this one")
            return super().step(batch)

    assert list(run(Tolerant(), samples(5)).failed) == ["2"]
    Tolerant.tolerant = False
    with pytest.raises(UnsupportedError):
        run(Tolerant(), samples(5))


class Grouped(Sums):
    """Steps are quick, and many are done at once; `refused` samples break theirs."""

    batch, tolerant, together = 1, True, 8
    refused: Sequence[int] = ()

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        if batch[0].sample.number in self.refused:
            raise UnsupportedError("not this one")
        return {"sum": float(batch[0].item), "names": [batch[0].sample.id]}

    def step_all(self, batches: Sequence[Sequence[Loaded]]) -> list[dict[str, Any]]:
        self.groups.append(len(batches))
        return super().step_all(batches)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_that_are_done_at_once_give_the_same(tmp_path: Path, workers: int) -> None:
    work, alone = Grouped(), Grouped()
    alone.together = 1
    expected = run(alone, samples(), workers=1).result
    done = run(work, samples(), tmp_path, workers)
    assert done.result == expected and not alone.groups
    assert 2 <= max(work.groups) <= 8
    assert run(alone, samples(), tmp_path).resumed == COUNT, "what is kept does not depend on it"


def test_an_error_among_batches_that_are_done_at_once_is_of_one_sample() -> None:
    work = Grouped()
    work.refused = range(20, 60, 7)
    done = run(work, samples(bad=[5]), workers=1)
    assert list(done.failed) == [str(n) for n in [5, *work.refused]] and max(work.groups) > 1
    assert done.result["names"] == [str(n) for n in range(COUNT) if str(n) not in done.failed]
    work.tolerant = False
    with pytest.raises(UnsupportedError):
        run(work, samples(), workers=1)


def test_slow_batches_are_not_done_at_once() -> None:
    class Slow(Grouped):
        def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
            time.sleep(0.06)
            return super().step(batch)

    work = Slow()
    run(work, samples(6), workers=1)
    assert not work.groups


def test_an_anchored_pass_starts_anew_behind_another_first_sample(tmp_path: Path) -> None:
    class Anchored(Sums):
        anchored = True
        seen = ""

        def setup(self, first: Loaded | None) -> None:
            self.seen = first.sample.id if first else ""

    work, given = Anchored(), samples(bad=[0])
    run(work, given, tmp_path)
    assert work.seen == "1"
    assert run(Anchored(), given, tmp_path).resumed == COUNT
    given[1] = Sample("1", 1, b"other")
    assert run(Anchored(), given, tmp_path).resumed == 0


def test_files_that_are_damaged_count_as_absent(tmp_path: Path) -> None:
    run(Sums(), samples(), tmp_path)
    (state,) = tmp_path.glob("*.state")
    data = state.read_bytes()
    endless = data[:8] + b"\xff" * 8 + data[16:]  # the length of a record
    bad = data[:40] + b"\x00" + data[41:]
    for damaged in (b"", data[:50], data[: len(data) // 2], data[:-1], bad, endless, b"x" * 500):
        state.write_bytes(damaged)
        assert run(Sums(), samples(), tmp_path).result == WHOLE


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "ä", (1, (2,))], 3: {"b": float("inf")}, "c": []},
        {"x": np.arange(6).reshape(2, 3).T, "s": np.float32(0.1), "z": np.zeros((0, 3)), "0-d": np.array(3)},
    ],
)
def test_what_is_kept_is_read_exactly(value: Any) -> None:
    assert repr(decode(encode(value))) == repr(value)


def test_what_cannot_be_kept_is_refused() -> None:
    for value in ({1, 2}, object(), np.array([object()])):
        with pytest.raises((TypeError, ValueError)):
            encode(value)


def test_few_blocks_are_kept() -> None:
    tree, order = Tree(lambda a, b: a + b), random.Random(0).sample(range(1000), 1000)
    for index in range(1000):
        tree.add(Block(0, index, [index], {}, ""))
        assert len(list(tree)) <= 10
    shuffled = Tree(lambda a, b: a + b)
    for index in order:
        shuffled.add(Block(0, index, [index], {}, ""))
    assert tree.total() == shuffled.total() == list(range(1000))


def test_pictures_are_files_folders_patterns_and_lists(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.jpg", "sub/d.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.txt").write_text("b.png\n# not this\na.png # yes\n")
    names = lambda *given, **how: [Path(s.id).name for s in find_pictures(given, **how)]  # noqa: E731
    assert names(tmp_path / "list.txt", tmp_path) == ["b.png", "a.png", "c.jpg", "d.png"]
    assert names(tmp_path / "*.png") == ["a.png", "b.png"] and names(tmp_path, limit=2) == ["a.png", "c.jpg"]
    assert find_pictures([tmp_path / "a.png"], annotations={"a.png": {"label": 3}})[0].annotations["label"] == 3
    for given, words in (
        (tmp_path / "nowhere", "no such"),
        (tmp_path / "*.gif", "no file matches"),
        (tmp_path / "sub2", "no"),
    ):
        with pytest.raises(AnalyzerError, match=words):
            find_pictures([given])


# ---- Over a model ----


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(24):
        colours = rng.integers(0, 256, (6, 6, 3), np.uint8)
        write_png(folder / f"{number:02}.png", np.kron(colours, np.ones((16, 16, 1), np.uint8)))
    return folder


def test_a_pass_in_one_short_file(photographs: Path, tmp_path: Path) -> None:
    layer = "/network/stage1/stage1.0/Relu_output_0"
    mean = lambda total: total["sum"] / total["count"]  # noqa: E731
    given = find_pictures([photographs])
    whole = mean(run(MeanActivations(MODEL, layer), given, workers=1).result)
    work = MeanActivations(MODEL, layer)
    work.setup(None)
    taps = np.concatenate([work.step([Loaded(s, work.load(s))])["sum"][None] for s in given])
    np.testing.assert_allclose(whole, taps.mean(axis=0), rtol=1e-6)
    run(MeanActivations(MODEL, layer), given, tmp_path, shard=(1, 2))
    done = run(MeanActivations(MODEL, layer), given, tmp_path, workers=2)
    assert done.resumed == 12 and np.array_equal(mean(done.result), whole)
    source = (ROOT / "tests" / "mean_activations.py").read_text()
    assert len(source.splitlines()) < 30
    assert source.split("\n\n", 1)[1] in (ROOT / "docs" / "add-a-pass.md").read_text()


def test_a_pass_travels_to_another_process(photographs: Path) -> None:
    """By the model's path: what is sent is small."""
    work = MeanActivations(MODEL, "/network/stage1/stage1.0/Relu_output_0")
    sent = pickle.dumps(work)
    assert len(sent) < 10_000
    (first, *_) = find_pictures([photographs])
    sums = []
    for each in (work, pickle.loads(sent)):
        each.setup(None)
        sums.append(each.step([Loaded(first, each.load(first))])["sum"])
    assert np.array_equal(*sums)


COMMANDS = {
    "mine": "mine {model} {pictures} -o {out} --draw 0 --batch 2",
    "explain": "explain {model} {pictures} -m grad-cam -m occlusion -o {out} --format json",
    "compare": "compare {model} {int8} -d {pictures} --store {out} --format json",
    "audit": "audit {model} -d {pictures} --probes 4 --store {out} --format json",
}


def call(command: str, out: Path, photographs: Path, workers: int) -> list[str]:
    given = {"model": MODEL, "int8": MODEL.with_name("digits_cnn_int8.onnx"), "pictures": photographs, "out": out}
    words = COMMANDS[command].format(**given).split()
    return [sys.executable, str(ROOT / "cli.py"), *words, "--workers", str(workers)]


def outcome(command: str, out: Path, printed: str) -> Any:
    """What the command gave, without where it was written."""
    if command == "mine":
        return (out / "top.json").read_bytes()
    files = {p.name: p.read_bytes() for p in sorted(out.glob("*.png"))}
    document = json.loads(printed.replace(str(out), "OUT"))
    return json.dumps(document, sort_keys=True), files


@pytest.fixture(scope="module")
def straight(photographs: Path, tmp_path_factory) -> dict[str, Any]:
    """Every command without interruption, by one worker."""
    found = {}
    for command in COMMANDS:
        out = tmp_path_factory.mktemp(command)
        done = subprocess.run(call(command, out, photographs, 1), capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        found[command] = outcome(command, out, done.stdout)
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments_and_resumed(
    photographs: Path, tmp_path: Path, straight: dict[str, Any], command: str, workers: int
) -> None:
    random_moment = random.Random(f"{command} {workers}")
    words = call(command, tmp_path, photographs, workers)
    for kills in range(2):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not any(p.stat().st_size for p in tmp_path.glob("*.journal")):
                time.sleep(0.005)
            time.sleep(random_moment.random() * 0.2 * (1 + kills))
            process.send_signal(signal.SIGKILL)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert outcome(command, tmp_path, done.stdout) == straight[command]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file locks")
def test_shards_of_a_command_in_any_order(photographs: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for shard, folder in (("2/3", folders[0]), ("3/3", folders[1]), ("1/3", folders[0])):
        words = [*call("mine", folder, photographs, 2), "--shard", shard]
        subprocess.run(words, check=True, capture_output=True)
    words = [sys.executable, str(ROOT / "cli.py"), "merge", *map(str, folders), "-o", str(tmp_path)]
    said = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "mine: all shards" in said.stdout
    done = subprocess.run(call("mine", tmp_path, photographs, 4), check=True, capture_output=True, text=True)
    assert outcome("mine", tmp_path, done.stdout) == straight["mine"]


# ---- The passes of the commands: results do not depend on how the work was divided ----

HOW = Preprocess(scale=1 / 255, size=(12, 12))
DIVISIONS = [(1, ()), (2, ()), (4, ()), (2, (3, 1, 2)), (1, (2, 3, 1))]  # workers; shards of three, as they are done


def found_by(kind: str, given: Sequence[Sample], folder: Path, workers: int, shards: Sequence[int]) -> str:
    """What a command stores or judges: rankings, records, or a report with its findings."""
    explainer = Explainer(small_cnn(), threads=1)
    side = Side(explainer, (1, 3, 12, 12), store=Store(folder / "store"))
    other = Side(Explainer(small_cnn(seed=1), threads=1), (1, 3, 12, 12))
    work: dict[str, Callable[[], Pass[Any]]] = {
        "audit": lambda: Auditing(explainer, HOW, probes=3),
        "compare": lambda: Comparing(side, other, keep=2, preprocess=(HOW, HOW)),
        "record": lambda: Recording(side, HOW),
    }
    for shard in [*((i, 3) for i in shards), (1, 1)]:
        if kind == "mine":
            mined = mine(explainer, given, ["r1", "r2"], HOW, 3, folder, 2, shard, workers)
            resumed = mined.resumed
        else:
            done = run(work[kind](), given, folder, workers, shard)
            resumed = done.resumed
    assert resumed == (len(given) if shards else 0)
    if kind == "mine":
        return json.dumps(describe(mined))
    if kind == "record":
        kept = sorted((folder / "store").glob("*.npz"))
        return json.dumps({p.name: {n: a.tolist() for n, a in np.load(p).items()} for p in kept})
    report = done.result.report
    found = judge(report, Thresholds()) if kind == "compare" else findings(report)
    assert found or kind == "audit"  # noise, and nothing is wrong with it
    return json.dumps([as_json(report), [asdict(each) for each in found]])


@pytest.mark.parametrize("kind", ["mine", "record", "compare", "audit"])
def test_workers_and_shards_in_any_order_give_the_same_verdicts(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    for number in range(9):
        write_png(tmp_path / f"{number}.png", rng.integers(0, 256, (12, 12, 3), np.uint8))
    given = find_pictures([tmp_path])
    first, *others = (found_by(kind, given, tmp_path / str(i), *each) for i, each in enumerate(DIVISIONS))
    assert len(first) > 1000 and all(each == first for each in others)
