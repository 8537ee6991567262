"""Where the corpus of real models lies, beside the checkout; tests that need it are skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
EXPORTS = sorted((CORPUS / "exports").glob("*.onnx"))
MODELS = sorted((CORPUS / "models").glob("*.onnx"))
needs_corpus = pytest.mark.skipif(not EXPORTS, reason="the corpus of real models is not beside this checkout")
