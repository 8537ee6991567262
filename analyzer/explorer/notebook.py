"""`explore` as a function: the explorer in a cell of a notebook."""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analyzer.api.data import File, Pictures, opened_samples, samples_of
from analyzer.api.models import Asked, Preprocessing, for_pictures, known_options
from analyzer.errors import AnalyzerError, InputError
from analyzer.store import user_cache

# Who may show the page in a frame: notebooks of this machine, in a browser or in VS Code.
NOTEBOOKS = "http://localhost:* http://127.0.0.1:* vscode-webview:"
INSTALL = "install it: pip install 'onnx-analyzer[explore]'"


@dataclass(repr=False)
class Exploration:
    """An explorer that is running. In a notebook it shows itself.

    Attributes:
        url: opens it in a browser; whoever has it can see the pictures.
        height: pixels of its frame in a notebook.
    """

    url: str
    height: int = 800
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def __repr__(self) -> str:
        return f"<Exploration {self.url}>"

    def _repr_html_(self) -> str:
        allowed = "camera; clipboard-write"
        return (
            f'<iframe src="{html.escape(self.url)}" width="100%" height="{self.height}" allow="{allowed}" '
            'title="onnx-analyzer explorer" style="border:1px solid #8884"></iframe>'
        )


def explore(
    model: Any,
    pictures: Pictures,
    against: Any = None,
    preprocess: Preprocessing = None,
    *,
    mined: File | None = None,
    provider: str = "cpu",
    limit: int | None = None,
    every: int = 1,
    input: Mapping[str, Any] | None = None,
    explain_input: str | None = None,
    layer: str | None = None,
    port: int = 0,
    height: int = 800,
    ancestors: str = NOTEBOOKS,
    **options: Any,
) -> Exploration:
    """Explore a model live, in a frame of a notebook or in a browser; see docs/explorer.md.

    Returns at once; the explorer runs in threads of this process until `.stop()` or its end.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        pictures: as for `analyzer.compare`.
        against: another build of the model, shown side by side.
        preprocess: as for `analyzer.explain`.
        mined: folder that `mine` wrote: its layers need not be mined again.
        layer: name or glob of the layers to show. Default: all.
        port: port of 127.0.0.1 to listen on; 0 for any free one.
        height: pixels of its frame.
        ancestors: origins of the notebooks that may show it in a frame, as in a Content-Security-Policy. Default:
            notebooks of this machine.
        provider, limit, every, input, explain_input, options: as for `analyzer.explain` and `analyzer.compare`.

    Raises:
        InputError: the extra `explore` is not installed; the model, a picture or the port cannot be used.
    """
    try:
        from analyzer.explorer.answers import Explorer
        from analyzer.explorer.serve import serve
    except ImportError:
        raise InputError("explore needs the extra `explore`", INSTALL) from None
    from analyzer.explorer.bench import Bench, first_readable
    from analyzer.explorer.cards import Cards
    from analyzer.explorer.pictures import Pictures as Shown

    asked = Asked.of(options, preprocess, input=input, explain_input=explain_input)
    known_options(options, "explore")
    explainer, card = for_pictures(model, provider, asked)
    samples = opened_samples(samples_of(pictures, limit), pictures, card.feeds, every)
    shown, wanted = Shown(samples), [layer] if layer else []
    first = first_readable(shown, card.feeds)
    benches = [Bench(explainer, card, first, wanted)]
    if against is not None:
        benches.append(Bench(*for_pictures(against, provider, asked), first))
    cards = Cards(benches[0], samples, None if mined is None else str(mined), user_cache())
    explorer, stop = Explorer(benches, shown, cards), threading.Event()
    ready, urls, failed = threading.Event(), list[str](), list[AnalyzerError]()

    def note(url: str) -> None:
        urls.append(url)
        ready.set()

    def run() -> None:
        try:
            serve(explorer, port=port, ready=note, ancestors=ancestors, stop=stop)
        except AnalyzerError as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="explorer", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    return Exploration(urls[0], height, stop, thread)
