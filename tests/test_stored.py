"""Pictures in archives, tables and at addresses are those in files, with what is said of them."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analyzer.commands import cli
from analyzer.data import Sample, as_said, find_pictures
from analyzer.errors import InputError
from analyzer.images import decode, write_png
from analyzer.passes import Loaded, Pass, run

ROOT = Path(__file__).resolve().parents[1]
CNN = ROOT / "models" / "digits_cnn.onnx"
NAMES = ["a", "b", "c"]


class Means(Pass[list[float]]):
    """The mean of every picture."""

    name, identity = "means", {}  # type: ignore[assignment]

    def step(self, batch: list[Loaded]) -> list[float]:
        return [float(item.mean()) for _, item in batch]

    def merge(self, left: list[float], right: list[float]) -> list[float]:
        return left + right


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_png(made / f"{name}.png", rng.integers(0, 255, (96, 96, 3), np.uint8))
    return made


@pytest.fixture(scope="module")
def means(folder: Path) -> list[float]:
    found = run(Means(), find_pictures([folder])).result
    assert len(set(found)) == len(NAMES)
    return found


def packed(folder: Path, path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for number, name in enumerate(NAMES):
            boxes = {"boxes": [[1, 2, 3, 4]], "label": "ignored" if number else "seven"}
            for ending, data in (
                ("png", (folder / f"{name}.png").read_bytes()), ("json", json.dumps(boxes).encode()),
                *([("cls", b"7\n")] if number else []), ("txt", b"a caption"),
            ):  # fmt: skip
                entry = tarfile.TarInfo(f"{name}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def test_an_archive(folder: Path, means: list[float], tmp_path: Path) -> None:
    samples = find_pictures([packed(folder, tmp_path / "shard-0.tar")])
    assert [s.id for s in samples] == [f"{tmp_path}/shard-0.tar/{name}.png" for name in NAMES]
    assert [s.annotations["dataset"]["label"] for s in samples] == ["seven", 7, 7]
    assert samples[0].annotations["dataset"]["boxes"] == [[1, 2, 3, 4]]
    assert run(Means(), samples).result == means
    assert find_pictures([tmp_path]) == samples
    here = find_pictures([folder])
    assert [s.content for s in samples] == [s.content for s in here]


def test_an_archive_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "shard.tar.gz", "w:gz")
    with pytest.raises(InputError, match=r"compressed archive\n  hint: unpack it to a .tar"):
        find_pictures([tmp_path / "shard.tar.gz"])
    (tmp_path / "no.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(InputError, match=r"no\.tar: not a tar archive"):
        find_pictures([tmp_path / "no.tar"])


def test_what_an_archive_lost_since_is_one_picture_less(folder: Path, means: list[float], tmp_path: Path) -> None:
    path = packed(folder, tmp_path / "shard.tar")
    samples = find_pictures([path])
    data = path.read_bytes()
    start = samples[1].source.start
    path.write_bytes(data[:start] + bytes(samples[1].source.size) + data[start + samples[1].source.size :])
    done = run(Means(), samples)
    assert done.result == [means[0], means[2]] and list(done.failed) == [samples[1].id]


def test_an_archive_that_is_damaged_is_one_picture_less(folder: Path, means: list[float], tmp_path: Path) -> None:
    whole, cut, empty = (tmp_path / f"{name}.tar" for name in ("a", "b", "c"))
    packed(folder, whole)
    cut.write_bytes(whole.read_bytes()[: find_pictures([whole])[2].source.start + 100])
    empty.touch()
    done = run(Means(), find_pictures([tmp_path]))
    assert done.result == [*means, *means[:2]]
    assert list(done.failed) == [f"{cut}/c.png", str(cut), str(empty)] and "unexpected end of data" in str(
        done.failed[str(cut)]
    )
    with pytest.raises(InputError, match=r"c\.tar: not a tar archive, or a damaged one"):
        find_pictures([empty])


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream", "paths"])
def test_a_table(kind: str, folder: Path, means: list[float], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": (folder / f"{name}.png").read_bytes(), "path": f"{name}.png"} for name in NAMES]
    paths = [str(folder / f"{name}.png") for name in NAMES]
    table = pyarrow.table({"image": paths if kind == "paths" else images, "label": [3, 4, 5], "split": ["x", "y", "x"]})
    new = {"arrow": pyarrow.ipc.new_file, "stream": pyarrow.ipc.new_stream}.get(kind)
    path = tmp_path / ("t.arrow" if new else "t.parquet")
    if new:
        with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        parquet.write_table(table, path, row_group_size=2)
    samples = find_pictures([path])
    assert [s.annotations["dataset"]["label"] for s in samples] == [3, 4, 5]
    assert run(Means(), samples).result == means
    assert [s.annotations["dataset"]["label"] for s in find_pictures([path], where="split=x")] == [3, 5]
    assert [s.annotations["dataset"]["label"] for s in find_pictures([path], where="label>=4")] == [4, 5]
    with pytest.raises(InputError, match="no column 'splt'\n  hint: did you mean"):
        find_pictures([path], where="splt=x")


def test_a_table_without_pictures(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column of images\n  hint: it has n"):
        find_pictures([tmp_path / "t.parquet"])
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no\.parquet: not a Parquet or Arrow file"):
        find_pictures([tmp_path / "no.parquet"])


def test_a_row_without_an_image_and_a_damaged_group_are_pictures_less(folder: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    parquet = pytest.importorskip("pyarrow.parquet")
    data, path = [(folder / f"{name}.png").read_bytes() for name in NAMES], tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"image": [data[0], None, *data, *data]}), path, 3, compression="none")
    group = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    written, start = bytearray(path.read_bytes()), group.dictionary_page_offset or group.data_page_offset
    written[start : start + 40] = bytes(40)
    path.write_bytes(written)
    done = run(Means(), find_pictures([path]))
    assert len(done.result) == 4
    assert list(done.failed) == [f"{path}:{row}" for row in ("0.1", "1.0", "1.1", "1.2")]
    assert "no image in the column 'image'" in str(done.failed[f"{path}:0.1"])


def test_paths_of_a_table_that_has_images_too(folder: Path, means: list[float], tmp_path: Path) -> None:
    """Hugging Face's images: of each row bytes, or a path, relative to the table."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = {name: (folder / f"{name}.png").read_bytes() for name in NAMES}
    (tmp_path / "b.png").write_bytes(data["b"])
    rows = [{"bytes": None if name == "b" else data[name], "path": f"{name}.png"} for name in NAMES]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    parquet.write_table(pyarrow.table({"image": pyarrow.array(rows, kind)}), tmp_path / "t.parquet")
    assert run(Means(), find_pictures([tmp_path / "t.parquet"])).result == means
    parquet.write_table(pyarrow.table({"image": pyarrow.array(rows[1:2], kind)}), tmp_path / "t.parquet")
    assert [s.id for s in find_pictures([tmp_path / "t.parquet"])] == [str(tmp_path / "b.png")]


def labels_of(samples: list[Sample]) -> list[int | str | None]:
    return [sample.annotations.get("dataset", {}).get("label") for sample in samples]


def test_the_metadata_of_a_folder(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    (tmp_path / "metadata.csv").write_text("file_name,label,split\na.png,3,x\nb.png,cat,y\nd/e.png,5,x\n")
    assert labels_of(find_pictures([tmp_path])) == [3, "cat", None]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.png").touch()
    assert labels_of(find_pictures([tmp_path])) == [3, "cat", None, 5]
    assert labels_of(find_pictures([tmp_path], where="split=x")) == [3, 5]
    with pytest.raises(InputError, match=r"no picture in .* has split=z"):
        find_pictures([tmp_path], where="split=z")
    with pytest.raises(InputError, match=r"no column 'splt'\n  hint: did you mean 'split'"):
        find_pictures([tmp_path], where="splt=x")
    with pytest.raises(InputError, match=r"no column 'split'\n  hint: rows are those of tables"):
        find_pictures([folder], where="split=x")
    (tmp_path / "d" / "metadata.jsonl").write_text('{"file_name"\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl: cannot be read"):
        find_pictures([tmp_path])


def test_what_is_said_twice_of_a_picture_counts(folder: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    rows = {"path": [str(folder / f"{name}.png") for name in NAMES], "label": [1, 2, 3]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    assert labels_of(find_pictures([folder, tmp_path / "t.parquet"])) == [1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"), [("label", 2.5), ("label", [1]), ("label", True), ("boxes", [[1, 2, 3]]), ("boxes", "cat")]
)
def test_what_a_data_set_says_is_checked(key: str, value: object) -> None:
    sample = Sample("a.png", 0, b"", {"dataset": {key: value}})
    with pytest.raises(InputError, match=rf"a\.png: cannot use its {key}"):
        as_said([sample], "dataset", "dataset")
    missing = Sample("a.png", 0, b"", {"dataset": {"label": float("nan")}})
    assert "label" not in as_said([missing], "dataset", None)[0].annotations


def test_a_random_sample_keeps_its_order_and_its_seed(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.png").touch()
    first, again, other = ([s.id for s in find_pictures([tmp_path], sample=(10, seed))] for seed in (1, 1, 2))
    assert first == again == sorted(first) and len(first) == 10 and first != other


@pytest.mark.parametrize(("command", "options"), [("explain", []), ("localize", []), ("features", ["-l", "*Relu*"])])
def test_a_command_about_pictures_chooses_rows(folder: Path, tmp_path: Path, command: str, options: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    rows = {"path": [str(folder / f"{name}.png") for name in NAMES], "split": ["x", "y", "x"]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    words = [command, str(CNN), str(tmp_path / "t.parquet"), *options, "--format", "json"]
    found = {}
    for chosen in ("--where split=x", "--sample 2:5", "--sample 2:5 --where split=y"):
        document = json.loads(CliRunner().invoke(cli, [*words, *chosen.split()]).stdout)
        found[chosen] = [result["picture"] for result in document["results"]]
    assert [len(pictures) for pictures in found.values()] == [2, 2, 1]
    assert found["--where split=x"] == [s.id for s in find_pictures([tmp_path / "t.parquet"], where="split=x")]


def test_what_a_data_set_says_counts_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    samples = find_pictures([packed(folder, tmp_path / "shard.tar")])
    assert [set(s.annotations) for s in as_said(samples, None, "boxes.json")] == [{"dataset"}] * 3
    said = as_said(samples, "dataset", "dataset")[1].annotations
    assert said["label"] == 7 and said["boxes"].tolist() == [[1, 2, 3, 4]]
    for asked, known in ((["--classes", "dataset"], True), ([], False)):
        words = ["audit", str(CNN), str(tmp_path / "shard.tar"), "--limit", "2", "--exit-zero", "--format", "json"]
        names = tmp_path / "names.txt"
        names.write_text("\n".join([*map(str, range(7)), "seven", "8", "9"]))
        report = json.loads(CliRunner().invoke(cli, [*words, *asked, "--labels", str(names)]).output)["audit"]
        assert ("accuracy" in report["summary"]) == known


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_an_address_of_the_web(web: str, means: list[float], tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra remote)")
    pytest.importorskip("aiohttp")
    (tmp_path / "list.txt").write_text(f"{web}/a.png\n{web}/none.png\n{web}/c.png\n")
    done = run(Means(), find_pictures([tmp_path / "list.txt"]))
    assert done.result == [means[0], means[2]]
    assert str(done.failed[f"{web}/none.png"]) == f"{web}/none.png: no such file"
    said = CliRunner().invoke(cli, ["explain", str(CNN), f"{web}/b.png", "-o", str(tmp_path / "b.png")])
    assert said.exit_code == 0 and decode(tmp_path / "b.png").ndim == 3


def test_a_list_at_an_address(web: str, folder: Path, means: list[float], tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra remote)")
    pytest.importorskip("aiohttp")
    (folder / "list.txt").write_text("c.png\na.png  # first\n")
    try:
        assert run(Means(), find_pictures([f"{web}/list.txt"])).result == [means[2], means[0]]
    finally:
        (folder / "list.txt").unlink()


def test_a_video_at_an_address_is_refused(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed (extra remote)").filesystem("memory")
    memory.pipe("/clips/a.mp4", b"")
    (tmp_path / "list.txt").write_text("memory://clips/a.mp4")
    for source in ("memory://clips", "memory://clips/a.mp4", tmp_path / "list.txt"):
        with pytest.raises(InputError, match=r"clips/a\.mp4: videos and arrays are not read from addresses"):
            find_pictures([source])
    memory.pipe("/clips/b.png", b"")
    assert [s.id for s in find_pictures(["memory://clips"])] == ["memory:///clips/b.png"]


def test_a_server_that_is_not_there_is_named() -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra remote)")
    pytest.importorskip("aiohttp")
    with pytest.raises(InputError, match=r"cannot be read .*Cannot connect to host 127\.0\.0\.1:1"):
        find_pictures(["http://127.0.0.1:1/a.png"])[0].fetched()


def test_mining_pictures_none_of_which_can_be_read(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.png").touch()
    said = CliRunner().invoke(cli, ["mine", str(CNN), str(tmp_path), "-o", str(tmp_path / "mined")])
    assert isinstance(said.exception, InputError) and "no pictures to mine" in str(said.exception)
    assert f"{tmp_path}/c.png: empty file" in said.stderr and not (tmp_path / "mined" / "top.json").exists()


def test_a_server_that_sends_no_parts(web: str, folder: Path, means: list[float], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    pytest.importorskip("aiohttp")
    rows = {"image": [(folder / f"{name}.png").read_bytes() for name in NAMES]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(rows), folder / "t.parquet")
    packed(folder, folder / "t.tar")
    try:
        assert run(Means(), find_pictures([f"{web}/t.parquet"])).result == means
        failed = run(Means(), find_pictures([f"{web}/t.tar"])).failed.values()
        assert {str(error) for error in failed} == {
            f"{web}/t.tar: its server sends no parts of files\n  hint: download the file"
        }
    finally:
        (folder / "t.parquet").unlink()
        (folder / "t.tar").unlink()


def test_only_what_is_read_is_transferred(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an archive a picture's bytes, of a Parquet file its footer and the columns that are asked for."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    memory = pytest.importorskip("fsspec").filesystem("memory")
    data = [(folder / f"{name}.png").read_bytes() for name in NAMES] * 20
    table = pyarrow.table({"image": data, "label": range(len(data))})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "t.parquet", 10, use_dictionary=False)
    memory.put_file(str(tmp_path / "t.parquet"), "/t.parquet")
    memory.put_file(str(packed(folder, tmp_path / "t.tar")), "/t.tar")
    sent = list[int]()

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sent.append(len(found := super().read(size)))
            return found

    def cat(path: str, start: int, end: int) -> bytes:
        sent.append(end - start)
        return found(path, start=start, end=end)

    found, opened = memory.cat_file, memory.open
    monkeypatch.setattr(memory, "open", lambda path, *args, **options: Counted(opened(path).read()))
    samples = find_pictures(["memory://t.parquet"])
    assert len(samples) == 60 and sum(sent) < 4 * len(data[0])
    sent.clear()
    assert samples[25].fetched().source.data == data[25] and sum(sent) < 14 * max(map(len, data))
    samples = find_pictures(["memory://t.tar"])
    sent.clear()
    monkeypatch.setattr(memory, "cat_file", cat)
    assert samples[1].fetched().source.data == data[1] and sum(sent) == len(data[1])


@pytest.fixture(scope="module")
def bucket(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed (extra dev)")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (extra remote)")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        store = s3fs.S3FileSystem()
        store.mkdir("pictures")
        for name in NAMES:
            store.put_file(str(folder / f"{name}.png"), f"pictures/cats/{name}.png")
        store.pipe("pictures/cats/metadata.jsonl", b'{"file_name": "a.png", "label": 4}')
        shard = packed(folder, tmp_path_factory.mktemp("shards") / "shard.tar")
        store.put_file(str(shard), "pictures/shards/shard.tar")
        yield "s3://pictures"
    server.stop()


def test_a_bucket(bucket: str, means: list[float], tmp_path: Path) -> None:
    samples = find_pictures([f"{bucket}/cats"])
    assert [s.id for s in samples] == [f"{bucket}/cats/{name}.png" for name in NAMES]
    assert run(Means(), samples).result == means
    assert [s.id for s in find_pictures([f"{bucket}/cats/[ab].png"])] == [s.id for s in samples[:2]]
    assert run(Means(), find_pictures([f"{bucket}/shards/shard.tar"])).result == means
    assert labels_of(samples) == [4, None, None]
    with pytest.raises(InputError, match="no pictures found in s3://pictures/none"):
        find_pictures([f"{bucket}/none"])
    journal = tmp_path / "kept"
    assert run(Means(), samples, journal).result == means
    assert run(Means(), samples, journal).resumed == len(NAMES)


def test_results_in_a_bucket(bucket: str, folder: Path, tmp_path: Path) -> None:
    """What a command writes to an address is what it writes to a folder; nothing stays here."""
    import s3fs

    store = s3fs.S3FileSystem()
    words = [
        sys.executable,
        str(ROOT / "cli.py"),
        "mine",
        str(CNN),
        f"{bucket}/cats",
        "--policy",
        "none",
        "--draw",
        "0",
    ]
    said = functools.partial(
        subprocess.run,
        capture_output=True,
        text=True,
        env={**os.environ, "ONNX_ANALYZER_CACHE": str(tmp_path / "kept")},
    )
    here, there = (said([*words, "-o", out]) for out in (str(tmp_path / "mined"), f"{bucket}/results/mined"))
    assert here.returncode == there.returncode == 0, there.stderr
    assert there.stdout.replace(f"{bucket}/results/mined", "X") == here.stdout.replace(str(tmp_path / "mined"), "X")
    names = [p.name for p in sorted((tmp_path / "mined").iterdir())]
    assert [name.rpartition("/")[2] for name in sorted(store.find("pictures/results/mined"))] == names
    assert store.cat("pictures/results/mined/top.json") == (tmp_path / "mined" / "top.json").read_bytes()
    assert not list((tmp_path / "kept").glob("uploads/*"))
    shown = said([*words[:2], "explain", str(CNN), f"{bucket}/cats/a.png", "-o", f"{bucket}/a.png", "--format", "json"])
    assert json.loads(shown.stdout)["results"][0]["written"] == f"{bucket}/a.png"
    assert decode(store.cat("pictures/a.png")).ndim == 3
    refused = said([*words, "-o", "s3://no-such-bucket/mined"])
    assert (
        refused.returncode == 2
        and "s3://no-such-bucket/mined/" in refused.stderr
        and "results are in" in refused.stderr
    )
    assert list((tmp_path / "kept" / "uploads").rglob("top.json"))


def test_shards_in_a_bucket_are_merged(bucket: str, folder: Path, tmp_path: Path) -> None:
    """Each by a machine of its own: they share the address and nothing else."""
    count = 0

    def said(*words: str) -> str:
        nonlocal count
        count += 1
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "ONNX_ANALYZER_CACHE": str(tmp_path / f"machine {count}")},
        )
        return done.stdout + done.stderr

    words = ["mine", str(CNN), str(folder), "--policy", "none", "--draw", "0", "--batch", "1", "--format", "json"]
    out = f"{bucket}/shards/mined"
    for shard in ("2/2", "1/2"):
        said(*words, "-o", out, "--shard", shard)
    runs = json.loads(said("status", out, "--format", "json"))
    assert runs["folder"] == out
    assert {run["shard"]: (run["state"], run["done"]) for run in runs["runs"]} == {
        "1/2": ("finished", 1),
        "2/2": ("finished", 2),
    }
    assert "all shards in s3://pictures/shards/merged/;" in said("merge", out, "-o", f"{bucket}/shards/merged/")
    for place in (out, f"{bucket}/shards/merged"):
        assert json.loads(said(*words, "-o", place))["resumed"] == len(NAMES)
    assert f"{bucket}/none has no run" in said("status", f"{bucket}/none")
    assert f"{bucket}/none has no shard" in said("merge", f"{bucket}/none", "-o", str(tmp_path / "merged"))


def test_what_a_command_kept_is_uploaded_where_it_is_cut_off(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    from analyzer.commands import boundary, uploads

    def cut_off(**how: object) -> None:
        place = Path(uploads.staged(f"{bucket}/cut", is_folder=True))
        (place / "mine-0123456789abcdef.1-of-1.state").write_bytes(b"kept")
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", cut_off)
    with pytest.raises(KeyboardInterrupt):
        boundary._guarded()
    store = s3fs.S3FileSystem()
    store.invalidate_cache()
    assert store.find("pictures/cut") == ["pictures/cut/mine-0123456789abcdef.1-of-1.state"]
    uploads._places.clear()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs fsspec\n  hint: .*onnx-analyzer\[remote\]"):
        find_pictures(["s3://bucket/cats"])
    assert Sample("a", 0, b"").fetched().source == b""


def test_a_list_and_metadata_are_texts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not a text file"):
        find_pictures([tmp_path / "bad.txt"])
    (tmp_path / "a.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "metadata.csv").write_bytes(b"file_name\n\xff\x81")
    with pytest.raises(InputError, match="mend it, or give it another name"):
        find_pictures([tmp_path / "a.png"])
