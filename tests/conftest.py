"""Every test run has a cache of its own, and models are not tried in another process; `run` calls the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analyzer.commands import main


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNX_ANALYZER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ONNX_ANALYZER_SANDBOX", "0")
        yield


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> Callable[..., tuple[int, str, str]]:
    """run(*arguments) → (exit code, stdout, stderr), in `place`, a folder that the test's module makes."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
