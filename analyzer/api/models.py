"""Models that recent calls used, and how they are fed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import onnx

from analyzer.attribution import Explainer, Model
from analyzer.attribution.cards import picture_card, read_card
from analyzer.attribution.deployed import open_model
from analyzer.errors import InputError
from analyzer.graph.query import picture_inputs
from analyzer.images import ModelCard, Preprocess, load_labels
from analyzer.images.card import PREPROCESS_KEYS
from analyzer.runtime.runners import address_of
from analyzer.tasks import Declared

Preprocessing: TypeAlias = "Preprocess | Mapping[str, Any] | None"
Names: TypeAlias = "Sequence[str] | str | os.PathLike[str] | None"

SESSION = ("threads", "level", "allow_fallback", "memory_limit", "custom_ops", "cache", "sandbox")
THRESHOLDS = ("score_threshold", "iou_threshold")
FLAGS = (*(key.replace("-", "_") for key in PREPROCESS_KEYS), *THRESHOLDS)

_KEPT = 4
_LARGEST = 256 << 20  # bytes of a model in memory that is kept
_models: OrderedDict[Any, Explainer] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Asked:
    """What a call says of the model's session, of its card and of its other inputs, beside the method's options.

    Attributes:
        session, flags: by name, those that are given.
        preprocess: replaces that of the card.
    """

    session: Mapping[str, Any]
    flags: Mapping[str, Any]
    preprocess: Preprocess | None = None
    labels: Names = None
    task: str | None = None
    input: Mapping[str, Any] | None = None
    explain_input: str | None = None

    @classmethod
    def of(cls, options: dict[str, Any], preprocess: Preprocessing, taken: Sequence[str] = (), **more: Any) -> Asked:
        """Takes what it knows out of `options`, but for the names that are `taken` by a method."""
        session = {name: options.pop(name) for name in SESSION if name in options}
        flags = {name: options.pop(name) for name in FLAGS if name in options and name not in taken}
        if isinstance(preprocess, Mapping):
            flags |= preprocess
            preprocess = None
        return cls(session, flags, preprocess, **more)


def kept(model: Any, provider: str, session: Mapping[str, Any]) -> Explainer:
    """A kept one, where `model` is a file that has not changed since, nor its external data, or has the same bytes."""
    if isinstance(model, Model):
        return cast(Explainer, model)
    what = _named(model)
    if what is None:
        return Explainer(model, provider, **session)
    key = (what, provider, tuple(sorted((name, str(value)) for name, value in session.items())))
    with _lock:
        found = _models.pop(key, None)
        if found is None or not found.loaded.current:
            found = Explainer(model, provider, **session)
        _models[key] = found
        if len(_models) > _KEPT:
            _models.popitem(last=False)
    return found


def _named(model: Any) -> str | bytes | None:
    """What tells a model from others: its path or a hash of its bytes; None where it is too large to be kept."""
    if isinstance(model, str | os.PathLike):
        return os.path.abspath(model)
    if isinstance(model, onnx.ModelProto):
        if model.ByteSize() > _LARGEST:
            return None
        model = model.SerializeToString(deterministic=True)
    return hashlib.sha256(model).digest() if isinstance(model, bytes) and len(model) <= _LARGEST else None


def for_pictures(
    model: Any, provider: str, asked: Asked, like: tuple[Explainer, ModelCard] | None = None
) -> tuple[Explainer, ModelCard]:
    """The model, and its card with what the call says instead; `commands.options.Setup.load` in Python.

    Args:
        model: also the address of a runner.
        like: see `open_model`.

    Raises:
        As `read_card`.
    """
    is_runner = address_of(model) is not None
    given = open_model(model, like=like) if is_runner else kept(model, provider, asked.session)
    asked = _with_own_labels(asked, given)
    key = ("card for pictures", repr(asked), _stamps(given.loaded.path, asked.labels))

    def read() -> tuple[Explainer, ModelCard]:
        found = given.copied()
        card = read_card(found, None, _flags(asked), asked.input or {}, asked.explain_input)
        if asked.preprocess is not None:
            main = replace(card.feeds.main, preprocess=asked.preprocess)
            feeding = replace(card.feeds, main=main)
            card = replace(card, preprocess=asked.preprocess, feeding=feeding, source="from the call")
        return found.about(card.feeds.explained), card

    return read() if asked.input else given.remembered(key, read)  # the other inputs may be files or arrays


def for_arrays(model: Any, provider: str, asked: Asked) -> tuple[Explainer, ModelCard | None]:
    """The same for inputs that are given as they are: only labels, task and default layer are read.

    Returns:
        None as card for a model that takes no pictures.
    """
    given = kept(model, provider, asked.session)
    asked = _with_own_labels(asked, given)
    key = ("card for arrays", repr(asked), _stamps(given.loaded.path, asked.labels))

    def read() -> tuple[Explainer, ModelCard | None]:
        found = given.copied()
        if not picture_inputs(found.plain):  # there is no card to read
            found.declared, found.labels = Declared(asked.task), _names(asked.labels) or found.labels
            return found, None
        card = picture_card(found, _flags(asked))
        found.declared, found.labels = Declared.of(card), card.labels or found.labels
        return found, replace(card, labels=tuple(found.labels) if found.labels else None)

    return given.remembered(key, read)


def _with_own_labels(asked: Asked, given: Explainer) -> Asked:
    """The labels that an `Explainer` was made with, where the call has none."""
    own = given.labels if asked.labels is None and given.labels != given.names else asked.labels
    return replace(asked, labels=own)


def _flags(asked: Asked) -> dict[str, Any]:
    """As keys of a card."""
    flags = {key: list(value) if isinstance(value, tuple) else value for key, value in asked.flags.items()}
    if isinstance(asked.labels, str | os.PathLike):
        flags["labels_file"] = os.fspath(asked.labels)
    elif asked.labels is not None:
        flags["labels"] = list(asked.labels)
    return flags if asked.task is None else flags | {"task": asked.task}


def _names(labels: Names) -> tuple[str, ...] | None:
    if isinstance(labels, str | os.PathLike):
        return load_labels(labels)
    return None if labels is None else tuple(labels)


def _stamps(model: Path | None, labels: Names) -> tuple[Any, ...]:
    """What changes when a file that a card is read from does."""
    files = [] if model is None else [model.with_suffix(".toml"), model.parent / "models.toml"]
    files += [Path(labels)] if isinstance(labels, str | os.PathLike) else []
    stats = [file.stat() if file.is_file() else None for file in files]
    return tuple(stat and (stat.st_mtime_ns, stat.st_size) for stat in stats)


def known_options(options: Mapping[str, Any], function: str) -> None:
    """Refuses options that no one has taken.

    Raises:
        InputError: there are some.
    """
    if options:
        raise InputError(f"{function} has no option {', '.join(map(repr, options))}", f"see help(analyzer.{function})")


__all__ = ["Asked", "Names", "Preprocessing", "for_arrays", "for_pictures", "kept", "known_options"]
