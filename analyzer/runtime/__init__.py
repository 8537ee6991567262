"""Execution: sessions of stock onnxruntime on the provider that was asked for. The only importer of onnxruntime."""

from analyzer.runtime.host import environment
from analyzer.runtime.plan import kernels, plan_difference
from analyzer.runtime.providers import Report, diagnose, resolve, runtime_version
from analyzer.runtime.receipt import Plain, random_feeds, receipt, relative
from analyzer.runtime.session import Session

__all__ = [
    "Plain",
    "Report",
    "Session",
    "diagnose",
    "environment",
    "kernels",
    "plan_difference",
    "random_feeds",
    "receipt",
    "relative",
    "resolve",
    "runtime_version",
]
