"""Execution: sessions of stock onnxruntime on the provider that was asked for. The only importer of onnxruntime."""

from analyzer.runtime.host import environment
from analyzer.runtime.optimised import kernel_difference, kernels
from analyzer.runtime.providers import Report, diagnose, resolve, runtime_version
from analyzer.runtime.receipt import Plain, random_feeds, receipt, relative
from analyzer.runtime.session import Session
from analyzer.runtime.threads import share_threads
