"""Class names from the files they come in: one a line, WordNet synsets, numbered lines, JSON lists and dictionaries."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from analyzer.errors import InputError
from analyzer.files import opened, protect

MAX_TEXT_BYTES = 16 << 20
MAX_LABELS = 1_000_000

_SYNSET = re.compile(r"n\d{8}[\s,:]+(?=\S)")
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(.+)")


def load_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names in the order of their index.

    - text, one name a line; blank lines at the end are dropped, inside they keep their place
    - `n01440764 tench, Tinca tinca`: the WordNet id is dropped where every line has one
    - `0 background`, `0: background`: where every line has a number and these ascend, the number is the index;
      it may stand right before the name (`0background`) where it counts every line
    - JSON: a list, `{"0": "tench"}`, `{"0": ["n01440764", "tench"]}`, `{"tench": 0}`, or one of these under
      `id2label`, `label2id`, `labels`, `names` or `classes`

    An index that the file skips has the empty name.

    Raises:
        InputError: no such file, not text, no names, an index twice or out of bounds.
    """
    text = read_text(Path(path))
    try:
        names = _from_json(json.loads(text)) if text.lstrip().startswith(("[", "{")) else _from_lines(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}", "write one name per line, in the order of the classes") from error
    if not any(names):
        raise InputError(f"{path}: no class names found")
    return names


def read_text(path: Path) -> str:
    """The UTF-8 text of a small file.

    Raises:
        InputError: no such file, a folder, too large, not text.
    """
    protect(path)
    try:
        with opened(path) as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, not a text file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(f"{path}: over the limit of {MAX_TEXT_BYTES >> 20} MiB for a text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _from_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    written = [line for line in lines if line]
    if all(_SYNSET.match(line) for line in written):
        return tuple(_SYNSET.sub("", line, count=1) for line in lines)
    numbered = [_NUMBERED.fullmatch(line) for line in written]
    indices = [int(match[1]) for match in numbered if match]
    ascend = all(a < b for a, b in itertools.pairwise(indices))
    if len(indices) == len(written) > 1 and ascend and indices[0] <= 1:
        return _by_index((int(match[1]), match[2].strip()) for match in numbered if match)
    if len(lines) > 2 and all(re.match(rf"{index}(?!\d).", line) for index, line in enumerate(lines)):
        return tuple(line[len(str(index)) :].strip() for index, line in enumerate(lines))
    return tuple(lines)


def _from_json(content: Any) -> tuple[str, ...]:
    if isinstance(content, dict):
        for key in ("id2label", "label2id", "labels", "names", "classes"):
            if isinstance(content.get(key), list | dict):
                return _from_json(content[key])
        return _by_index(_index_and_name(key, value) for key, value in content.items())
    return tuple(_name(entry) for entry in content)


def _index_and_name(key: str, value: Any) -> tuple[int, str]:
    if key.isdecimal():
        return int(key), _name(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value, key
    raise ValueError(f"neither {key!r} nor its value is a class index")


def _name(value: Any) -> str:
    """A name, or the last of a pair of WordNet id and name."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = value[-1]
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a class name")
    return value.strip()


def _by_index(pairs: Any) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for index, name in pairs:
        if index in names or not 0 <= index < MAX_LABELS:
            raise ValueError(f"class index {index} appears twice or is out of bounds")
        names[index] = name
    return tuple(names.get(index, "") for index in range(max(names, default=-1) + 1))
