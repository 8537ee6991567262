"""Passes over many samples: what is done to each, how it adds up, and the engine that runs it."""

from analyzer.passes.base import InputPass, Loaded, Pass
from analyzer.passes.journal import merge, states
from analyzer.passes.processes import Processes
from analyzer.passes.ray import Ray
from analyzer.passes.running import Outcome, Workers, run

__all__ = ["InputPass", "Loaded", "Outcome", "Pass", "Processes", "Ray", "Workers", "merge", "run", "states"]
