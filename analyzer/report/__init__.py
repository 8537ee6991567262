"""Reports of results that are already computed: HTML, Markdown, JUnit, SARIF. No computation here."""

from analyzer.report import audit
from analyzer.report.comparison import junit, markdown, sarif
from analyzer.report.comparison_page import html

__all__ = ["audit", "html", "junit", "markdown", "sarif"]
