"""A loaded model: its graphs, its sessions and its inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import onnx

from analyzer.analysis.scores import is_quantised
from analyzer.attribution.cache import GraphCache
from analyzer.attribution.custom import measured
from analyzer.attribution.trial import check
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient import inlined_operators
from analyzer.gradient.reverse import is_float
from analyzer.graph import Graph, Source, Value, load, normalize
from analyzer.graph.metadata import class_names
from analyzer.graph.passes.inputs import pictures_without_batch
from analyzer.graph.query import image_input
from analyzer.runtime import Session, environment
from analyzer.runtime.custom_ops import Libraries, libraries
from analyzer.runtime.pool import LIVE
from analyzer.runtime.session import Runnable
from analyzer.store import Cache
from analyzer.tasks.base import Labels
from analyzer.tasks.recognise import NOTHING, Declared

T = TypeVar("T")


class Model:
    """A model file, loaded once and normalised for each input size in use. Immutable.

    Threads can share it. `runtime.pool.LIVE` limits the total size of the sessions and normalised graphs of all models.
    `declared` and `labels` are what its card says of its task: whoever reads the card sets them before the first
    question.

    Args:
        model: path, bytes or ModelProto.
        provider: "cpu", "cuda", "cuda:1" or "auto".
        cache: cache of rewritten graphs on disk; None for no cache.
        custom_ops: libraries with custom operators of the model: paths, or "onnxruntime-extensions". None are loaded
            unless they are given here.
        sandbox: try a model that is not known yet in a process of its own first, so that one which crashes native code
            is an error; a number: for at most so many seconds. False for files that you trust; for all of them, set
            the environment variable ONNX_ANALYZER_SANDBOX=0.
        options: passed on to `runtime.Session` (threads, level, allow_fallback, memory_limit).

    Raises:
        As `graph.load`. UnsupportedError: native code crashes on the model, or takes too much memory or time.

    Attributes:
        chosen: the input that is explained, if another one than `image_input` takes by itself; see `about`.
        usual: whose preprocessing it has unless its card says otherwise, and the keys; None for that of its task.
    """

    _whole: Model | None = None

    def __init__(
        self,
        model: Any,
        provider: str = "cpu",
        cache: Cache | None = None,
        custom_ops: Libraries | None = None,
        sandbox: bool | float = True,
        **options: Any,
    ) -> None:
        self.loaded = load(model)
        self.provider = provider
        if custom_ops:
            options["custom_ops"] = libraries(custom_ops)
        check(self.loaded, sandbox, cache, options)
        self.session_options = options
        # Of a model with custom operators nothing is kept: its graphs depend on the libraries as well.
        self.cache = GraphCache(cache, self.loaded) if cache is not None and not custom_ops else None
        self.chosen: str | None = None
        self._stamp = _stamp_of(self.loaded.path)
        self._remembered: dict[Hashable, Any] = {}
        self.declared: Declared = NOTHING
        self.usual: tuple[str, Mapping[str, Any]] | None = None
        self.labels: Labels = None
        self._owner, self._sources = object(), object()  # of sessions, and of normal forms, in the pool
        for owner in (self._owner, self._sources):
            weakref.finalize(self, LIVE.drop, owner)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads it from its path, and does not try it again.

        Raises:
            InputError: it has none.
        """
        if self.loaded.path is None:
            raise InputError("a model without a path cannot be sent to another process", "save it as a file first")
        return _loaded_again, (type(self), self.loaded.path, self.provider, self.session_options, self.chosen)

    def about(self, name: str | None) -> Self:
        """The same model with input `name` explained: maps and gradients are with respect to it; None changes nothing.

        Raises:
            InputError: it has no such input.
        """
        if name is None or name == self.image:
            return self
        if name not in (names := [i.name for i in self.plain.inputs]):
            raise InputError(f"no input {name!r}; the model's inputs are {', '.join(map(repr, names))}")
        other = self.copied()
        for kept in ("plain", "fixed_batch", "image"):
            other.__dict__.pop(kept, None)
        other.chosen = name
        return other

    def copied(self) -> Self:
        """The same model, for another card: sessions and graphs are shared, what its card says of it is not."""
        other: Self = object.__new__(type(self))  # copy.copy would load it again, see `__reduce__`
        vars(other).update(vars(self))
        other._remembered = {}
        other._whole = self  # its sessions and graphs live as long as either does
        return other

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Where it runs; see `runtime.environment`."""
        return environment(self.provider, **self.session_options)

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Paths of the libraries with its custom operators."""
        return tuple(self.session_options.get("custom_ops", ()))

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes that the file itself carries; None if there are none."""
        return class_names(self.loaded.proto)

    # ---- Graphs ----

    def source(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Source:
        """The normalised model, its inputs fixed to `shapes`."""
        self.loaded.check_unchanged()
        key = tuple(sorted((shapes or {}).items()))

        def made() -> Source:
            found = self.cache.source(key) if self.cache else None
            if found is None:
                sizes = dict(shapes or {})
                found = normalize(self.loaded, inlined_operators(), sizes, self._types(sizes), batch=True)
                if self.cache:
                    self.cache.keep_source(key, found)
            return found

        return LIVE.get(self._sources, key, made)

    def _types(self, sizes: dict[str, tuple[int, ...]]) -> tuple[onnx.ValueInfoProto, ...]:
        """Types and sizes of tensors that inference cannot know."""
        return measured(self.loaded, sizes, self.provider, **self.session_options) if self.custom_ops else ()

    def graph(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
        """A fresh graph to append to."""
        return Graph(self.source(shapes), self.chosen)

    def graph_of(self, feeds: Mapping[str, np.ndarray]) -> Graph:
        """The same for the sizes of these inputs."""
        return self.graph(sizes_of(feeds))

    @cached_property
    def plain(self) -> Graph:
        """The graph with the shapes of the file."""
        return self.graph()

    @cached_property
    def fixed_batch(self) -> int | None:
        """How many images the file takes at once; None where that is free."""
        shape = image_input(self.plain).shape
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    @cached_property
    def image(self) -> str:
        """Name of the input that holds the image."""
        return str(image_input(self.plain).name)

    @cached_property
    def without_batch(self) -> frozenset[str]:
        """The input that has no batch axis in the file, and one of size 1 here; see `batch_axis_pass`."""
        return frozenset(v.name for v in pictures_without_batch(self.loaded.proto))

    # ---- Sessions ----

    def session(self, graph: Runnable, outputs: Sequence[str] | None = None, **options: Any) -> Session:
        """A session over `graph` with the model's provider and options, of which `options` replace some."""
        session = Session(graph, self.provider, outputs=outputs, **{**self.session_options, **options})
        self.loaded.check_unchanged()  # the session has mapped the weights by the names of their files
        return session

    def run(self, graph: Graph, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """The outputs of one run of `graph`; what it does not take is left out of `feeds`."""
        session = self.session(graph, outputs)
        found = session.run({n: a for n, a in feeds.items() if n in session.inputs}, outputs)
        return [found[name] for name in outputs]

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, kept for this model and the input it explains under `key` as long as there is room."""
        return LIVE.get(self._owner, key if self.chosen is None else (self.chosen, key), make)

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, kept for this model under `key`; for small things, of which the latest are kept."""
        if key not in self._remembered:
            if len(self._remembered) >= 64:
                self._remembered.clear()
            self._remembered[key] = make()
        found: T = self._remembered[key]
        return found

    def drop_sessions(self) -> None:
        """Forgets the sessions that are kept, and their memory."""
        LIVE.drop(self._owner)

    @cached_property
    def quantised(self) -> bool:
        """Whether the file computes with quantised numbers, so that another plan of kernels can round otherwise."""
        return is_quantised(self.loaded.proto)

    @property
    def deployed(self) -> Session | None:
        """The file as it is in stock onnxruntime, every optimizer on; None where that does not load it, or where
        it takes a picture without a batch axis."""
        return self.kept("deployed", self._deployed)

    def _deployed(self) -> Session | None:
        if self.without_batch:
            return None
        path = self.loaded.path
        try:
            unchanged = path is not None and self._stamp is not None and _stamp_of(path) == self._stamp
            file = str(path) if unchanged else self.loaded.serialized()
            size = sum(w.nbytes for w in self.loaded.detached.values())
            return Session(file, self.provider, weight_bytes=size, **self.session_options)
        except (UnsupportedError, ValueError):  # ValueError: more than protobuf holds in one piece
            return None

    # ---- Inputs ----

    def feeds(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{input: array}, each checked against the file and in its type.

        Raises:
            InputError: an input is missing, unknown, or does not fit.
        """
        names = [i.name for i in self.plain.inputs]
        if not isinstance(inputs, Mapping):
            if len(names) > 1:
                raise InputError(
                    f"the model has {len(names)} inputs: {', '.join(names)}",
                    "give all of them: {name: array} in Python, --input NAME=FILE on the command line",
                )
            inputs = {names[0]: inputs}
        feeds = {}
        for name, array in inputs.items():
            if name not in names:
                raise InputError(f"no input {name!r}; the model's inputs are {', '.join(map(repr, names))}")
            array = np.asarray(array)
            alone = name in self.without_batch and array.ndim == 3
            feeds[name] = self._checked(self.plain[name], array[None] if alone else array)
        missing = [n for n in names if n not in feeds]
        if missing:
            raise InputError(f"missing input {', '.join(map(repr, missing))}")
        return feeds

    def counts_images(self, name: str) -> bool:
        """Whether the first axis of an input counts images: it is open, or as long as the batch that the file fixes."""
        shape = self.plain[name].shape
        if not shape:
            return False
        return shape[0] == self.fixed_batch if isinstance(shape[0], int) else True

    def batches(self, count: int) -> list[np.ndarray]:
        """Indices of `count` images per run: all at once where the batch is free, else by the batch that the file
        fixes, of which the last is filled up with the last image."""
        fixed = self.fixed_batch or count
        return [np.minimum(np.arange(start, start + fixed), count - 1) for start in range(0, count, fixed)]

    def rows(self, feeds: Mapping[str, np.ndarray], indices: np.ndarray | Sequence[int]) -> dict[str, np.ndarray]:
        """The feeds of some of the images."""
        image = feeds[self.image]
        count = len(image) if image.ndim else 1
        return {n: a[indices] if self.counts_images(n) and len(a) == count else a for n, a in feeds.items()}

    def batch(self, parts: Sequence[Mapping[str, np.ndarray]], size: int | None = None) -> dict[str, np.ndarray]:
        """The feeds of several images as one batch of `size`, filled up by repeating the last one.

        Args:
            size: the batch that the file fixes unless given, else the number of images.
        """
        size = size or self.fixed_batch or len(parts)
        rows = [min(at, len(parts) - 1) for at in range(size)]

        def whole(name: str) -> np.ndarray:
            arrays = [part[name] for part in parts]
            if not self.counts_images(name) or len(arrays[0]) != 1 or size == 1:
                return arrays[0]
            return np.concatenate([arrays[row] for row in rows])

        return {name: whole(name) for name in parts[0]}

    def _checked(self, given: Value, array: np.ndarray) -> np.ndarray:
        """The array if it fits, a floating-point one in the input's type."""
        if array.dtype != given.dtype:
            if array.dtype.kind != "f" or not is_float(given):
                raise InputError(f"input {given.name!r} takes {given.dtype} [{_sizes(given)}], not {array.dtype}")
            array = array.astype(given.dtype)
        if not array.size:
            raise InputError(f"input {given.name!r} is empty: {list(array.shape)}")
        if given.shape is not None and given.shape != array.shape:
            fits = len(given.shape) == array.ndim and all(
                not isinstance(d, int) or d == size or axis == 0
                for axis, (d, size) in enumerate(zip(given.shape, array.shape, strict=True))
            )
            if not fits:
                raise InputError(f"input {given.name!r} takes the shape [{_sizes(given)}], not {list(array.shape)}")
        if is_float(given) and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise InputError(f"input {given.name!r} has NaN or infinite values")
        return array

    def reading(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> Callable[[Value], np.ndarray]:
        """What any tensor of the file holds for these inputs, as a function of the tensor."""
        feeds = self.feeds(inputs)

        def of(value: Value) -> np.ndarray:
            graph = self.graph_of(feeds)
            return self.run(graph, feeds, [graph.add_output(graph[value.name], "reference").name])[0]

        return of


def _loaded_again(
    kind: type[Model], path: Path, provider: str, options: dict[str, Any], chosen: str | None = None
) -> Model:
    return kind(path, provider, sandbox=False, **options).about(chosen)


def _sizes(given: Value) -> str:
    return ", ".join(str(d) for d in given.shape) if given.shape is not None else "any"


def sizes_of(feeds: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """{input: its sizes}"""
    return {name: tuple(array.shape) for name, array in feeds.items()}


def _stamp_of(path: Path | None) -> tuple[int, int] | None:
    """What changes when a file is written anew; None where there is no file (bytes, a pipe)."""
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size
