"""`http://host/v2/models/NAME`: a model behind the Open Inference Protocol, version 2, over REST.

Triton, KServe, OpenVINO Model Server and MLServer speak it. Options: `timeout` (60 seconds), `retries` of requests that
failed (3), and `batch` (16 pictures per request). The environment variable ONNX_ANALYZER_AUTHORIZATION is what
authorizes requests, as in `Bearer …`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from email.message import Message
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from analyzer.errors import InputError, ProviderError
from analyzer.plain import as_json
from analyzer.runtime.runners.base import Address, Port, Runner

TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
BINARY, LENGTH = "binary_tensor_data", "Inference-Header-Content-Length"
AUTHORIZATION = "ONNX_ANALYZER_AUTHORIZATION"
BUSY = (408, 425, 429, 502, 503, 504)  # what a server says that will answer later
PAUSE = 0.5  # seconds before the second try; twice as long before each later one


def open_model(address: Address, like: Sequence[Port]) -> Runner:
    return Served(address)


class RefusedError(ProviderError):
    """The server answers, but not with a result."""


class Served(Runner):
    """A model on a server; each thread has a connection of its own, which is opened anew where it breaks."""

    def __init__(self, address: Address) -> None:
        address.check_options("timeout", "retries", "batch")
        self.address = address
        place = urlsplit(address.target)
        head, found, _ = place.path.rpartition("/v2/models/")
        if not found or not place.hostname:
            raise InputError(
                f"{address.text} is not http://host/v2/models/NAME",
                "for example http://localhost:8000/v2/models/resnet",
            )
        if place.username is not None:
            raise InputError(
                "the address of a server must not contain a password", f"set {AUTHORIZATION}, as in 'Basic …'"
            )
        self._place, self._path, self._root = place, place.path.rstrip("/"), f"{head}/v2"
        self._timeout = address.option("timeout", 60.0, float)
        self._retries = address.option("retries", 3, int)
        self.batch = max(1, address.option("batch", 16, int))
        self._mine, self._lock = threading.local(), threading.Lock()
        self._about = self._asked("GET", self._path)
        server = self._server()
        self._binary = BINARY in server.get("extensions", ())
        self.inputs, self.outputs = self._ports("inputs"), self._ports("outputs")
        named = " ".join(filter(None, (server.get("name"), server.get("version"))))
        self.where = {"runtime": f"{named or 'a server'} at {place.netloc}"}

    @cached_property
    def identity(self) -> str:
        """Of the address and of what the server says of the model: which weights it has, it does not say."""
        return hashlib.sha256(as_json([self.address.target, self._about], sort_keys=True).encode()).hexdigest()

    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        count = len(feeds[self.inputs[0].name])
        parts: list[dict[str, np.ndarray]] = []
        start = 0
        while start < count:
            size = min(self.batch or 1, count - start)
            rows = {n: a[start : start + size] if len(a) == count else a for n, a in feeds.items()}
            try:
                parts.append(self._inferred(rows))
            except RefusedError:
                if size == 1:
                    raise
                with self._lock:  # more than it takes at once
                    self.batch = min(self.batch or 1, size // 2)
                continue
            start += size
        return parts[0] if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    # ---- The protocol ----

    def _ports(self, which: str) -> tuple[Port, ...]:
        try:
            return tuple(
                Port(t["name"], tuple(None if d < 0 else int(d) for d in t["shape"]), TYPES[t["datatype"]])
                for t in self._about[which]
            )
        except KeyError as error:
            raise InputError(
                f"{self.address.text}: the server's description of the model's {which} lacks or does not know {error}",
                f"types of tensors that are known: {', '.join(TYPES)}",
            ) from None

    def _server(self) -> dict[str, Any]:
        """What it says of itself; {} where it does not."""
        try:
            return self._asked("GET", self._root)
        except RefusedError:
            return {}

    def _inferred(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of one request."""
        inputs: list[dict[str, Any]] = []
        data = b""
        for port in self.inputs:
            array = np.ascontiguousarray(feeds[port.name])
            given = {"name": port.name, "shape": list(array.shape), "datatype": NAMES[str(array.dtype)]}
            if self._binary:
                inputs.append(given | {"parameters": {"binary_data_size": array.nbytes}})
                data += array.tobytes()
            else:
                inputs.append(given | {"data": array.ravel().tolist()})
        asked: dict[str, Any] = {"inputs": inputs}
        if self._binary:
            asked["parameters"] = {"binary_data_output": True}
        found, rest = self._request("POST", f"{self._path}/infer", json.dumps(asked).encode(), data)
        return self._outputs(found, rest)

    def _outputs(self, found: dict[str, Any], data: bytes) -> dict[str, np.ndarray]:
        arrays, at = {}, 0
        try:
            for output in found["outputs"]:
                size, dtype = output.get("parameters", {}).get("binary_data_size"), TYPES[output["datatype"]]
                if size is None:
                    values = np.array(output["data"], dtype)
                else:
                    values, at = np.frombuffer(data[at : at + size], dtype), at + size
                arrays[output["name"]] = values.reshape(output["shape"])
            return {port.name: arrays[port.name] for port in self.outputs}
        except (KeyError, TypeError, ValueError) as error:
            words = f"{type(error).__name__}: {error}"
            raise RefusedError(f"{self.address.text}: the server's answer is not of the protocol: {words}") from error

    # ---- Requests ----

    def _asked(self, method: str, path: str) -> dict[str, Any]:
        return self._request(method, path)[0]

    def _request(self, method: str, path: str, head: bytes = b"", data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """(the document, what follows it), tried again where the server is gone or busy for a while.

        Raises:
            RefusedError: it answers with an error. ProviderError: it does not answer.
        """
        for tried in range(self._retries + 1):
            if tried:
                time.sleep(PAUSE * 2 ** (tried - 1))
            try:
                status, headers, body = self._sent(method, path, head, data)
            except (OSError, http.client.HTTPException) as error:
                self._close()
                why = f"is gone: {' '.join(str(error).split())[:200] or type(error).__name__}"
                if isinstance(error, TimeoutError):
                    why = f"does not answer within {self._timeout:g} s"
                continue
            if status not in BUSY:
                return self._document(status, headers, body, path)
            why = f"is busy: HTTP {status}"
        raise ProviderError(
            f"{self.address.text}: the server at {self._place.netloc} {why} (tried {self._retries + 1} times)",
            "start it and run the same command again; with --store, finished pictures are not run again",
        )

    def _sent(self, method: str, path: str, head: bytes, data: bytes) -> tuple[int, Message, bytes]:
        headers = {"Accept": "application/json"}
        if head:
            headers["Content-Type"] = "application/octet-stream" if data else "application/json"
            headers |= {LENGTH: str(len(head))} if data else {}
        if AUTHORIZATION in os.environ:
            headers["Authorization"] = os.environ[AUTHORIZATION]
        connection = self._connection()
        connection.request(method, path, head + data or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def _document(self, status: int, headers: Message, body: bytes, path: str) -> tuple[dict[str, Any], bytes]:
        """The JSON of an answer, and the tensors after it."""
        size = int(headers.get(LENGTH) or len(body))
        try:
            found = json.loads(body[:size]) if body else {}
        except ValueError:
            found = body[:200].decode(errors="replace")
        if status == 200 and isinstance(found, dict):
            return found, body[size:]
        message = found.get("error") or found.get("detail") or "" if isinstance(found, dict) else found
        words = f"HTTP {status}: {' '.join(str(message).split())[:300]}".rstrip(": ")
        raise RefusedError(f"{self.address.text}: the server responds to {path} with {words}")

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's."""
        if getattr(self._mine, "connection", None) is None:
            kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
            self._mine.connection = kind(self._place.hostname or "", self._place.port, timeout=self._timeout)
        found: http.client.HTTPConnection = self._mine.connection
        return found

    def _close(self) -> None:
        if getattr(self._mine, "connection", None) is not None:
            self._mine.connection.close()
            self._mine.connection = None
