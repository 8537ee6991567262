"""The documentation site: the pages of this folder as HTML, with the README in front.

    pip install '.[docs]' && sphinx-build -W docs site

Nothing in it is loaded from a network. A page is a Markdown file here and a line of docs/index.md.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

project = "onnx-analyzer"
author = "the onnx-analyzer authors"
copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["images"]
myst_heading_anchors = 3  # links to headings as on a repository's page
html_theme = "furo"
html_title = "onnx-analyzer"
html_copy_source = False
html_show_sourcelink = False


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """The README on the first page; links to files that are no pages (a model card, a Dockerfile) as their words."""
    text = source[0]
    if name == "index":
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        text = readme.replace("](docs/", "](") + "\n" + text
    here = (Path(app.srcdir) / name).parent

    def link(match: re.Match[str]) -> str:
        file = match[2].partition("#")[0]
        target = (here / file).resolve()
        kept = not file or "://" in file or (target.exists() and Path(app.srcdir).resolve() in target.parents)
        return match[0] if kept else match[1]

    if name == "figures":  # its own pages lie below it, in the order of its links
        text += "\n".join(["", "```{toctree}", ":hidden:", "", *re.findall(r"\((figures/\w+)\.md\)", text), "```", ""])
    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, text)


def setup(app: Sphinx) -> None:
    app.connect("source-read", read)
