"""Benchmarks. They trust the models they read, and measure without the trial of these; see `benchmarks.trial`."""

import os

os.environ.setdefault("ONNX_ANALYZER_SANDBOX", "0")
