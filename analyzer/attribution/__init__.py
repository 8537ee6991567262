"""Recipes over the gradient compiler: which pixels, channels and positions a score rests on."""

from analyzer.attribution.engine import Attribution, Explainer, Job
from analyzer.attribution.methods import METHODS, Method, find_method

__all__ = ["METHODS", "Attribution", "Explainer", "Job", "Method", "find_method"]
