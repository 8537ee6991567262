"""Attribution: recipes over the gradient compiler, and what asks them.

A `Model` and a `Question` are compiled to one graph (`compiler`), run (`runner`), and give an `Attribution`.
"""

from analyzer.attribution.explainer import Explainer
from analyzer.attribution.methods import METHODS, Method, find_method
from analyzer.attribution.model import Model
from analyzer.attribution.question import Job, Question
from analyzer.attribution.result import Attribution
from analyzer.attribution.runner import answer

__all__ = ["METHODS", "Attribution", "Explainer", "Job", "Method", "Model", "Question", "answer", "find_method"]
