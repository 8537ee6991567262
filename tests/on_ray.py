"""A Ray cluster does what one machine does, to the byte: a head and two nodes, each a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer import InputError, Ray
from analyzer.attribution import Explainer, Job, Question
from analyzer.data import find_pictures
from analyzer.images import decode, model_card, write_png
from analyzer.passes import run
from analyzer.passes.codec import encode
from analyzer.passes.explaining import Explaining
from analyzer.plain import as_json
from tests.numbered import Deadly, numbered, pictures_in

ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
pytest.importorskip("ray.data", reason="ray[data] is not installed (extra ray)")
from ray.cluster_utils import Cluster  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CNN, INT8 = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_cnn_int8.onnx"
COUNT = 24


TAKES = 0.02  # seconds of a step


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("pictures"), COUNT)


def test_mining_is_that_of_one_machine(cluster: Cluster, pictures: Path, tmp_path: Path) -> None:
    analyzer.mine(CNN, pictures, out=tmp_path / "local", policy=None, draw=0, workers=1)
    for count in (1, 2, 4):
        found = analyzer.mine(
            CNN, pictures, out=tmp_path / str(count), policy=None, draw=0, workers=Ray(cluster.address, count)
        )
        assert list(found.failed) == [str(pictures / "broken.png")]
        assert (tmp_path / str(count) / "top.json").read_bytes() == (tmp_path / "local" / "top.json").read_bytes()


def test_what_is_explained_compared_and_audited_is_that_of_one_machine(cluster: Cluster, pictures: Path) -> None:
    model = Explainer(CNN, threads=1)
    card = model_card(CNN, None, model.plain.inputs[0].shape)
    work = Explaining(model, Question((Job("grad-cam"),), labels=card.labels), card)
    samples = find_pictures([pictures])
    here, there = run(work, samples, workers=1), run(work, samples, workers=Ray(cluster.address, 2))
    assert encode(here.result) == encode(there.result)
    assert {name: str(error) for name, error in here.failed.items()} == {
        name: str(error) for name, error in there.failed.items()
    }
    for measured in (
        lambda how: analyzer.compare(CNN, INT8, pictures, workers=how),
        lambda how: analyzer.audit(CNN, pictures, workers=how),
    ):
        local, far = (measured(how).report for how in (1, Ray(cluster.address, 2)))
        assert as_json(local) == as_json(far)


def test_a_killed_actor_and_a_lost_node_change_nothing(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2)
    lost = []

    def lose(partial: Any, failed: Any) -> None:
        if not lost:
            lost.append(cluster.remove_node(node, allow_graceful=False))

    done = run(Deadly(str(tmp_path / "grave"), takes=TAKES), numbered(96), workers=Ray(cluster.address, 6), each=lose)
    assert done.result == list(range(96))
    assert (tmp_path / "grave").exists() and lost


def test_an_interrupted_run_resumes(cluster: Cluster, tmp_path: Path) -> None:
    seen = []

    def stop(partial: Any, failed: Any) -> None:
        seen.append(partial)
        if len(seen) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Deadly(takes=TAKES), numbered(60), tmp_path, Ray(cluster.address, 2), each=stop)
    done = run(Deadly(takes=TAKES), numbered(60), tmp_path, workers=1)
    assert done.result == list(range(60)) and done.resumed >= 20


def test_an_error_of_an_actor_is_one_of_ours(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="sample 3 is refused\\n  hint: leave it out"):
        run(Deadly(refused=3, takes=TAKES), numbered(10), workers=Ray(cluster.address, 2))


def test_no_cluster_is_one_sentence(tmp_path: Path) -> None:
    script = "from tests.on_ray import *; run(Deadly(), numbered(3), workers=Ray('127.0.0.1:1'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "UnsupportedError: no Ray cluster at 127.0.0.1:1" in done.stderr


def test_the_command_starts_and_stops_a_cluster_of_its_own(pictures: Path, tmp_path: Path) -> None:
    words = [sys.executable, "cli.py", "explain", str(CNN), str(pictures), "--format", "jsonl"]
    here, there = (
        subprocess.run([*words, *engine], cwd=ROOT, capture_output=True, text=True, timeout=120)
        for engine in (["--workers", "1"], ["--engine", "ray", "--workers", "2"])
    )
    assert (there.stdout, there.returncode) == (here.stdout, here.returncode)
    assert "ray" not in there.stderr.lower()


def test_a_terminated_command_says_how_to_go_on(tmp_path: Path) -> None:
    """Ray's own handler would end it with a stack."""
    (tmp_path / "many").mkdir()
    whole = decode(ROOT / "examples" / "digits_chelsea.png")
    for number in range(400):
        write_png(tmp_path / "many" / f"{number:03}.png", whole)
    words = ["mine", str(CNN), str(tmp_path / "many"), "-o", str(tmp_path / "out"), "--engine", "ray", "--workers", "2"]
    started = subprocess.Popen([sys.executable, "cli.py", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not any(p.stat().st_size > 4096 for p in (tmp_path / "out").glob("*")) and time.monotonic() < until:
        time.sleep(0.1)  # nothing is done yet
    started.terminate()
    _, said = started.communicate(timeout=60)
    assert started.returncode == 143 and "stack" not in said.lower() and "SIGTERM received" not in said
    assert "again to continue" in said
