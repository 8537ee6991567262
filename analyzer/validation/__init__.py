"""Two models side by side: drift of outputs and layers, agreement of evidence, and a verdict."""

from analyzer.store import Store
from analyzer.validation.compare import EVIDENCE, Comparison, Pair, compare
from analyzer.validation.side import SAMPLE, Side
from analyzer.validation.verdict import Doubt, Finding, Thresholds, as_data, doubts, judge, read_thresholds
