"""What is built and installed: the archives, their page, the requirements."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="needs the dev extra")
    from hatchling.builders.sdist import SdistBuilder

    return Path(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("sdist")))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="needs the dev extra")
    from hatchling.builders.wheel import WheelBuilder

    return Path(
        next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]))
    )


def test_the_sdist_has_every_file_of_the_repository(sdist):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no repository here")
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    missing = set(listed.stdout.split("\n")) - {""} - names - {".dockerignore"}
    assert not {n for n in missing if (ROOT / n).exists()}


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {n.partition("/")[0] for n in names if ".dist-info/" not in n} == {"analyzer"}
    assert "analyzer/py.typed" in names and any(n.endswith("licenses/LICENSE") for n in names)


def test_an_editable_install_offers_the_package_alone(tmp_path):
    editables = pytest.importorskip("editables", reason="needs the dev extra")
    from hatchling.builders.wheel import WheelBuilder

    built = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"]))
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "installed")
    shutil.copytree(Path(editables.__file__).parent, tmp_path / "alone" / "editables")
    code = (
        f"import site, sys; sys.path.append({str(tmp_path / 'alone')!r})\n"
        f"site.addsitedir({str(tmp_path / 'installed')!r})\n"
        "import importlib.util, analyzer\n"
        "print(analyzer.__file__, [n for n in ('tests', 'models', 'examples', 'docs', 'benchmarks') if "
        f"(s := importlib.util.find_spec(n)) and any({str(ROOT)!r} in p for p in s.submodule_search_locations or ())])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(ROOT / "analyzer" / "__init__.py"), "[]"]


def test_the_package_page_has_no_dead_links(wheel):
    with zipfile.ZipFile(wheel) as archive:
        page = archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()
    assert (
        "## Methods" in page and "[onnxruntime](https://onnxruntime.ai)" in page and "- Gallery: every method" in page
    )
    assert not [t for t in re.findall(r"\]\(([^)]+)\)", page) if not t.startswith(("http", "#"))]


def test_floor_and_cpu_requirements():
    def printed(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, ROOT / ".ci" / "requirements", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    assert printed() == PROJECT["dependencies"]
    plain = printed("--cpu")
    assert len(plain) == len(PROJECT["dependencies"]) - 1 and not [r for r in plain if "gpu" in r or "platform" in r]
    assert any(r.startswith("onnxruntime>=") for r in plain)
    floor = printed("--floor", "--cpu", "test")
    assert all(re.match(r"[\w.-]+==", r) for r in floor) and any(r.startswith("pytest==") for r in floor)


def test_lowest_versions_are_named_and_opencv_has_no_windows():
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement, requirement
    assert not [r for r in PROJECT["dependencies"] if r.startswith("opencv-python>")]
    assert [r for r in PROJECT["dependencies"] if r.startswith("opencv-python-headless>=")]


def test_the_image_is_not_run_as_root():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users and users[-1] != "root"
    assert [line for line in lines if line.startswith("FROM")] == ["FROM debian:bookworm-slim"]
