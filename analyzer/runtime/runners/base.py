"""The interface of a runner: a model with named inputs and outputs, arrays in, arrays out."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np

from analyzer.errors import AnalyzerError, InputError, ProviderError, suggest
from analyzer.files import content_hash, protect

T = TypeVar("T")


@dataclass(frozen=True)
class Port:
    """An input, output or layer.

    Attributes:
        name: as the runtime calls it.
        shape: its sizes, None where open.
        dtype: NumPy's name of its type.
        zero, scale: an integer q stands for (q − zero) · scale; 0 and 1 for plain numbers.
        squashed: the operator that makes it, if that is Softmax or Sigmoid and the runtime says so; "" if not.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    zero: float = 0.0
    scale: float = 1.0
    squashed: str = ""


@dataclass(frozen=True)
class Address:
    """Which model is run by what: `scheme:target?option=value`.

    Attributes:
        text: all of it, as it was given.
        scheme: a key of `runners.SCHEMES`.
        target: a file, `module:function` or a URL, without options.
        options: those after the question mark.
    """

    text: str
    scheme: str
    target: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, scheme: str, target: str) -> Address:
        target, _, query = target.partition("?")
        return cls(text, scheme, target, dict(parse_qsl(query, keep_blank_values=True)))

    def option(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        """The value of an option.

        Raises:
            InputError: it cannot be parsed.
        """
        if name not in self.options:
            return default
        try:
            return parse(self.options[name])
        except ValueError:
            raise InputError(f"{self.text}: {name}={self.options[name]} is not a number") from None

    def check_options(self, *known: str) -> None:
        """InputError where there are others."""
        for name in self.options:
            if name not in known:
                hint = suggest(name, known) or (f"known are {', '.join(known)}" if known else "there are none")
                raise InputError(f"{self.text}: no option {name!r}", hint)

    @property
    def file(self) -> Path:
        """The target as a file, which is no output from now on.

        Raises:
            InputError: there is no such file.
        """
        path = Path(self.target)
        if not path.is_file():
            near = suggest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
            raise InputError(f"{self.text}: no such file: {path}", near)
        protect(path)
        return path


class Runner(ABC):
    """A model in another runtime. Threads may share it.

    Attributes:
        address: where it is.
        inputs, outputs: its ports; outputs that are known only after a run are ().
        layers: other floating-point tensors that it can give, in the order in which they are computed.
        channels_last: whether tensors of four axes are NHWC.
        where: the runtime, its version and device, on which results depend.
        batch: pictures per run at most; None where only the inputs' shapes say.
        file: beside which a TOML file with the model's preprocessing is searched; None where there is none.
    """

    address: Address
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Port, ...] = ()
    channels_last: bool = False
    where: Mapping[str, str]
    batch: int | None = None
    file: Path | None = None

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """{output or layer: array}: all outputs, and those of `layers`; integers as they are.

        Raises:
            ProviderError: the runtime fails.
        """

    @property
    @abstractmethod
    def identity(self) -> str:
        """A hash of all that results depend on beside `where` and the inputs."""

    def guarded(self, call: Callable[[], T], what: str = "cannot run the model") -> T:
        """What `call` gives; errors of the runtime as one sentence."""
        try:
            return call()
        except AnalyzerError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:300] or type(error).__name__
            raise ProviderError(f"{self.address.text}: {what}: {words}") from error


class FileRunner(Runner):
    """A runner of a file."""

    file: Path

    @functools.cached_property
    def identity(self) -> str:
        return content_hash(self.file)


class Local(threading.local):
    """A value of its own for every thread, made when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    @functools.cached_property
    def value(self) -> Any:
        return self._make()


def required(address: Address, module: str, extra: str) -> ProviderError:
    """What to raise where a runner's package is not installed."""
    return ProviderError(
        f"{address.text} needs the package {module}, which is not installed", f"pip install 'onnx-analyzer[{extra}]'"
    )
