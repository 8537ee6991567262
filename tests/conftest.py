"""Every test run has a cache of its own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNX_ANALYZER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
