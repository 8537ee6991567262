"""What each address of the explorer answers: functions of the bench and of the address.

No address takes a path of a file.
"""

from __future__ import annotations

import io
import json
import math
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import numpy as np
from anyio import CapacityLimiter, from_thread, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from analyzer.errors import AnalyzerError, InputError, NotFoundError
from analyzer.explorer.atlas import atlas
from analyzer.explorer.bench import Bench, Origin, as_data, place_of
from analyzer.explorer.cards import SIDE, Cards
from analyzer.explorer.jobs import ObsoleteError, obsolete
from analyzer.explorer.layers import Layer, ranked
from analyzer.explorer.pair import Pair
from analyzer.explorer.pictures import LARGEST, Picture, Pictures
from analyzer.explorer.selectivity import Selectivity, selectivity
from analyzer.images import encode, encode_gray, encode_plain, signed_view
from analyzer.images.mosaic import tile_square
from analyzer.plain import as_json

SPRITE = 48  # pixels of a unit's pattern in the grid
SHOWN = 1024  # pixels of the longer side of a picture
DIFFERENCE = 2  # the number of a model that stands for candidate − reference

Answer = Callable[[Request], Any]
Endpoint = Callable[[Request], Awaitable[Response]]
UNREADABLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8" stroke="#888"><path d="M2 2l4 4M6 2l-4 4"/></svg>'
)
REFUSED = "X-Explorer-Status"  # asked for by the page: the status of a refusal, which comes with 200


@dataclass(frozen=True)
class Settings:
    """What a copied line repeats of the line that started the explorer.

    Attributes:
        words: options of the command line. keywords: arguments of `analyzer.explain`.
    """

    words: tuple[str, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


NO_SETTINGS = Settings()


class Explorer:
    """What the addresses answer.

    Args:
        benches: the model, and the one it is compared with if there is one.
        cards: of the units of the first.
        settings: how the models were opened, as the command `explain` and the function take it.
        workers: runs at a time.
    """

    def __init__(
        self,
        benches: list[Bench],
        pictures: Pictures,
        cards: Cards,
        settings: Settings = NO_SETTINGS,
        workers: int = 2,
    ) -> None:
        self.benches, self.pictures, self.cards, self.settings = benches, pictures, cards, settings
        self.pair = Pair(benches[0], benches[1], pictures.first) if len(benches) > 1 else None
        self.selectivity = [Selectivity(bench, pictures, cards.jobs) for bench in benches]
        self._newest: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._limiter: CapacityLimiter | None = None
        self._workers = workers

    def answers(self) -> dict[str, Answer]:
        """{address after /api/: what answers it}"""
        return {
            "model": self.model,
            "pictures": self.named,
            "picture/{picture}": self.picture,
            "predictions/{picture}": self.predictions,
            "activations/{picture}/{layer:int}": self.activations,
            "values/{picture}/{layer:int}/{channel:int}": self.values,
            "spans/{picture}/{layer:int}": self.spans,
            "ranking/{picture}/{layer:int}": self.ranking,
            "place/{picture}/{layer:int}": self.place,
            "project/{picture}/{layer:int}/{channel:int}": self.project,
            "explain/{picture}": self.explain,
            "drifts/{picture}": self.drifts,
            "patterns/{layer:int}": self.patterns,
            "unit/{layer:int}/{channel:int}": self.unit,
            "unit/{layer:int}/{channel:int}/{what}": self.drawn_unit,
            "job/{number:int}": self.job,
        }

    @cached_property
    def _asked(self) -> list[Route]:
        """The addresses as `ask` takes them, to be matched only."""
        return [Route(f"/{path}", answer) for path, answer in self.answers().items()]

    def routes(self) -> list[Route]:
        found = [Route(f"/api/{path}", self.endpoint(answer)) for path, answer in self.answers().items()]
        return [*found, Route("/api/pictures", _quiet(self.drop), methods=["POST"])]

    def endpoint(self, answer: Answer) -> Endpoint:
        """The endpoint of an answer, which is worked out in a thread, until a later question of the same view comes."""

        async def endpoint(request: Request) -> Response:
            stale = self._ticket(request)
            if self._limiter is None:
                self._limiter = CapacityLimiter(self._workers)

            def work() -> Response:
                if stale():
                    return Response(status_code=204)
                started = time.perf_counter()
                obsolete.set(lambda: stale() or from_thread.run(request.is_disconnected))  # of this thread's work
                try:
                    found = _work(answer, request)
                except ObsoleteError:
                    return Response(status_code=204)
                found.headers["Server-Timing"] = f"work;dur={1000 * (time.perf_counter() - started):.1f}"
                return found

            return await to_thread.run_sync(work, limiter=self._limiter)

        return _quiet(endpoint)

    def ask(self, path: str, query: Mapping[str, Any]) -> Response:
        """The answer to a question of this process, as the page would get it."""
        scope = {"type": "http", "method": "GET", "path": f"/{path}", "headers": []}
        for route in self._asked:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return _work(route.endpoint, Request(scope | found | {"query_string": urlencode(query).encode()}))
        return Response("not found", 404)

    def _ticket(self, request: Request) -> Callable[[], bool]:
        """Whether the question is obsolete, to be asked when its turn comes.

        A question names its view and counts up with `n`; only the newest of a view is answered.
        """
        view, number = request.query_params.get("view", ""), _integer(request, "n", 0)
        if not view:
            return lambda: False
        key = request.query_params.get("tab", "")[:40], view[:40]
        with self._lock:
            if len(self._newest) > 10_000:
                self._newest.clear()
            self._newest[key] = max(number, self._newest.get(key, 0))
        return lambda: number < self._newest.get(key, 0)

    # ---- Answers ----

    def model(self, request: Request) -> Any:
        return self.known()

    def known(self) -> dict[str, Any]:
        """What the page knows from the start."""
        settings = {"words": list(self.settings.words), "keywords": dict(self.settings.keywords)}
        return {"models": [bench.as_data() for bench in self.benches], "settings": settings}

    def named(self, request: Request) -> Any:
        return {"pictures": self.pictures.as_data()}

    def picture(self, request: Request) -> Any:
        """The picture, or with ?seen=1 as the network sees it; ?side= its longer side at most."""
        side = min(max(_integer(request, "side", SHOWN), 8), SHOWN)
        bench, picture = self._bench(request), self._picture(request)
        if _integer(request, "seen", 0):
            return Response(encode(bench.seen(picture)), media_type="image/png")
        try:
            image = bench.drawn(picture, side)
        except AnalyzerError:
            if request.headers.get("sec-fetch-dest") != "image":
                raise
            return Response(UNREADABLE, media_type="image/svg+xml")  # in the strip, whose pictures cannot say why
        return Response(encode(image, ".jpg", 90), media_type="image/jpeg")

    def predictions(self, request: Request) -> Any:
        bench, picture = self._bench(request), self._picture(request)
        placement = bench.fed(picture).placement
        return {"predictions": [as_data(one, placement) for one in bench.predictions(picture)]}

    def activations(self, request: Request) -> Any:
        maps = self._maps(request)
        if request.query_params.get("format") == "npy":
            return _npy(maps)
        made = atlas(maps)
        return packed(made.as_data(), encode_gray(made.pixels))

    def values(self, request: Request) -> Any:
        """The numbers of one channel, float32."""
        maps = self._maps(request)
        channel = request.path_params["channel"]
        if channel >= len(maps):
            raise NotFoundError(f"there is no channel {channel}", f"the layer has {len(maps)}")
        return packed({"grid": list(maps.shape[1:])}, np.ascontiguousarray(maps[channel], "<f4").tobytes())

    def spans(self, request: Request) -> Any:
        rows, columns = self._bench(request).spans(self._picture(request), self._layer(request))
        return {"rows": rows, "columns": columns}

    def ranking(self, request: Request) -> Any:
        """The channels in order: of activation, of model 2 of the largest difference; or of what they say for ?target=.

        ?by=target: Σ gradient × activation on the picture. ?by=selectivity: see `Selectivity`, over all pictures; how
        far that is while it is worked out.
        """
        bench, picture, layer = self._bench(request), self._picture(request), self._layer(request)
        by, target = request.query_params.get("by"), request.query_params.get("target", "top1")
        if by == "selectivity":
            number = bench.class_of(picture, target)
            job = self.selectivity[self.benches.index(bench)].job(layer, picture.fit)
            if job.state != "done":
                return {"channels": [], "job": job.as_data()}
            positive = job.result.classes == number
            if positive.all() or not positive.any():
                said = f"{np.count_nonzero(positive)} of {len(positive)} pictures are of this class"
                return {"channels": [], "note": f"{said}: give pictures of it and of others"}
            values = selectivity(job.result.means, positive)
        elif by == "target":
            gradient = bench.sensitivity(picture, layer, target, "gradient")
            maps = bench.one(picture, layer)
            values = (gradient.astype(np.float64) * maps).reshape(len(maps), -1).sum(1)
        else:
            maps = self._maps(request)
            maps = np.abs(maps) if _integer(request, "model", 0) == DIFFERENCE else maps
            values = np.nan_to_num(maps.reshape(len(maps), -1).max(1), nan=-np.inf)
        return {"channels": [[int(at), float(values[at])] for at in np.argsort(-values, kind="stable")]}

    def place(self, request: Request) -> Any:
        """The units that answer most strongly at a place of the layer's grid: ?y= and ?x=."""
        maps, layer = self._maps(request), self._layer(request)
        position = place_of(layer, _integer(request, "y", -1), _integer(request, "x", -1))
        here = maps.reshape(len(maps), -1)[:, max(position, 0)]
        return {"units": [[unit, float(here[unit])] for unit in ranked(here[:, None, None])[:5]]}

    def project(self, request: Request) -> Any:
        bench, picture, layer = self._bench(request), self._picture(request), self._layer(request)
        position = place_of(layer, _integer(request, "y", -1), _integer(request, "x", -1))
        asked = request.query_params
        policy = asked.get("policy", "deconvnet")
        found = bench.project(picture, layer, request.path_params["channel"], position, policy)
        pixels = bench.pixels(found)
        if asked.get("format") == "npy":
            return _npy(pixels)
        drawn = signed_view(pixels, "signed" if asked.get("draw") == "signed" else "normalised")
        about = {
            "position": int(found.position[0]),
            "activation": float(found.activation[0]),
            "largest": float(np.abs(pixels).max(initial=0)),
        }
        return packed(about, encode_plain(drawn) if asked.get("plain") else encode(drawn))

    def explain(self, request: Request) -> Any:
        bench, picture = self._bench(request), self._picture(request)
        asked = request.query_params
        number, options = _integer(request, "layer", -1), _options(request)
        found = bench.evidence(
            picture, asked.get("method"), asked.get("target", "top1"), None if number < 0 else number, options
        )
        if asked.get("format") == "npy":
            return _npy(found.values)
        known = found.values[np.isfinite(found.values)]
        about = {"low": float(known.min(initial=0)), "high": float(known.max(initial=0)), "title": found.title}
        return packed(about | {"diagnosis": found.diagnosis, "layer": found.layer}, encode(found.drawn))

    async def drop(self, request: Request) -> Response:
        """A picture in the body of the request; its key. One that is too large is not read to its end."""
        data, promised = bytearray(), request.headers.get("content-length", "")
        too_large = _error(InputError(f"a picture may have {LARGEST >> 20} MiB at most"), 413)
        too_large.headers["Connection"] = "close"
        if promised.isdecimal() and int(promised[:12]) > LARGEST:
            return too_large
        async for part in request.stream():
            data += part
            if len(data) > LARGEST:
                return too_large
        name, frame = request.query_params.get("name", "dropped"), "frame" in request.query_params
        try:
            picture = await to_thread.run_sync(lambda: self.pictures.add(bytes(data), name, frame))
        except AnalyzerError as error:
            return _error(error, 422)
        return JSONResponse({"key": picture.key, "name": picture.name, "path": ""})

    def unit(self, request: Request) -> Any:
        """What is known of a unit's card; with ?start=1 its optimum is worked out."""
        layer, channel = self._unit(request)
        ranking, found = self.cards.ranking(layer), list[dict[str, Any]]()
        if ranking.state == "done":
            names = self.pictures.as_data()
            for patch in self.cards.patches(layer, channel):
                about = {"picture": str(patch.picture), "name": names[patch.picture]["name"]}
                found.append(about | {"value": patch.value, "place": list(patch.place)})
        optimum = self.cards.optimum(layer, channel, bool(_integer(request, "start", 0)))
        return {
            "mining": ranking.as_data(),
            "patches": found,
            "optimum": None if optimum is None else optimum.as_data(),
        }

    def job(self, request: Request) -> Any:
        """Stops a piece of work in the background; with ?start=1 it starts again."""
        on = bool(_integer(request, "start", 0))
        return self.cards.jobs.set_running(request.path_params["number"], on).as_data()

    def drawn_unit(self, request: Request) -> Any:
        """Its nine patches, their projections, or its optimum, as a picture."""
        layer, channel = self._unit(request)
        what = request.path_params["what"]
        if what == "optimum":
            job = self.cards.optimum(layer, channel, False)
            if job is None or job.state != "done":
                raise NotFoundError("it is not worked out yet")
            return Response(encode(job.result), media_type="image/png")
        ranking = self.cards.ranking(layer)
        patches = self.cards.patches(layer, channel) if ranking.state == "done" else []
        tiles = [p.pixels if what == "patches" else p.projection for p in patches]
        known = [tile for tile in tiles if tile is not None]
        if what not in ("patches", "projections") or not known:
            raise NotFoundError(f"the unit has no {what[:40]}")
        return Response(encode(tile_square(known, 3, SIDE)), media_type="image/png")

    def _unit(self, request: Request) -> tuple[Layer, int]:
        layer, channel = self.benches[0].layer(request.path_params["layer"]), request.path_params["channel"]
        if channel >= layer.channels:
            raise NotFoundError(f"{layer.name} has no channel {channel}", f"it has {layer.channels}")
        return layer, channel

    def _bench(self, request: Request) -> Bench:
        number = _integer(request, "model", 0)
        number = 1 if number == DIFFERENCE else number
        if not 0 <= number < len(self.benches):
            raise NotFoundError(f"there is no model {number}")
        return self.benches[number]

    def _layer(self, request: Request) -> Layer:
        """The layer of the address: of the candidate the one that corresponds to it; of heads, those of ?query=."""
        number = request.path_params["layer"]
        theirs = self.pair is not None and self._bench(request) is self.pair.candidate
        found = self.pair.twin(number) if self.pair is not None and theirs else self.benches[0].layer(number)
        return found.of_query(_integer(request, "query", -1))

    def _maps(self, request: Request) -> np.ndarray:
        """The activations of the layer of the address; of model 2, candidate − reference."""
        picture = self._picture(request)
        if "origin" in request.query_params:
            return self._backward(request, picture)
        if second := request.query_params.get("minus"):
            bench, layer = self._bench(request), self._layer(request)
            return bench.one(picture, layer) - bench.one(self.pictures[second], layer)
        if self.pair is not None and _integer(request, "model", 0) == DIFFERENCE:
            ours, theirs = self.pair.maps(picture, request.path_params["layer"], _integer(request, "query", -1))
            return theirs - ours
        return self._bench(request).one(picture, self._layer(request))

    def _backward(self, request: Request, picture: Picture) -> np.ndarray:
        """Gradients of ?origin=LAYER/UNIT/Y/X, or of ?origin=target with ?target=, by the rules of ?policy=."""
        bench, layer = self._bench(request), self._layer(request)
        asked = request.query_params
        policy = asked.get("policy") or "gradient"
        if asked["origin"] == "target":
            return bench.sensitivity(picture, layer, asked.get("target", "top1"), policy)
        numbers = asked["origin"].split("/")
        if len(numbers) != 4 or not all(n.lstrip("-").isdecimal() and len(n) < 12 for n in numbers):
            raise InputError(f"origin={asked['origin'][:40]!r} is not LAYER/UNIT/Y/X")
        number, channel, y, x = map(int, numbers)
        whence = self.benches[0].layer(number)
        if self.pair is not None and bench is self.pair.candidate:
            whence = self.pair.twin(number)
        return bench.backward(picture, layer, Origin(whence.name, channel, place_of(whence, y, x)), policy)

    def patterns(self, request: Request) -> Any:
        """What every unit of a layer responds to, a tile each: ?what=patches, the strongest; or known optima."""
        layer, what = self.benches[0].layer(request.path_params["layer"]), request.query_params.get("what", "patches")
        if what == "optima":
            return _tiles(self.cards.optima(layer), layer.channels)
        job = self.cards.patterns(layer)
        if job.state == "done":
            return _tiles(job.result, layer.channels)
        return packed(job.as_data(), b"")

    def drifts(self, request: Request) -> Any:
        if self.pair is None:
            raise NotFoundError("there is one model only", "start with --against MODEL")
        return self.pair.drifts(self._picture(request))

    def _picture(self, request: Request) -> Picture:
        return self.pictures[request.path_params["picture"]]


def _integer(request: Request, name: str, default: int) -> int:
    """A number of the query.

    Raises:
        InputError: it is none.
    """
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if len(text) > 12 or not text.lstrip("-").isdecimal():
        raise InputError(f"{name}={text[:40]!r} is not a whole number")
    return int(text)


def _options(request: Request) -> dict[str, Any]:
    """The options of a method: a JSON object in the query.

    Raises:
        InputError: it is none.
    """
    text = request.query_params.get("options", "{}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(isinstance(value, dict | list) for value in found.values()):
        raise InputError(f"options={text[:40]!r} is not a JSON object of plain values")
    return found


def _tiles(known: Mapping[int, np.ndarray], count: int) -> Response:
    """Pictures of units on squares, in one picture; gray where there is none."""
    empty = np.full((SPRITE, SPRITE, 3), 128, np.uint8)
    columns = math.ceil(math.sqrt(count))
    drawn = tile_square([known.get(unit, empty) for unit in range(count)], columns, SPRITE, 0)
    about = {"state": "done", "columns": columns, "tile": [SPRITE, SPRITE], "known": sorted(known)}
    return packed(about, encode(drawn, ".webp", 85))


def _work(answer: Answer, request: Request) -> Response:
    try:
        found = answer(request)
    except NotFoundError as error:
        return _error(error, 404)
    except AnalyzerError as error:
        return _error(error, 422)
    return found if isinstance(found, Response) else JSONResponse(found)


def _quiet(endpoint: Endpoint) -> Endpoint:
    """The endpoint, whose refusals come with status 200 where the page asks for that, and with their own status in a
    header: browsers write every other status on their console."""

    async def quiet(request: Request) -> Response:
        found = await endpoint(request)
        if REFUSED in request.headers and found.status_code in (404, 413, 422):
            found.headers[REFUSED], found.status_code = str(found.status_code), 200
        return found

    return quiet


def _error(error: AnalyzerError, status: int) -> Response:
    return JSONResponse({"error": error.message, "hint": error.hint}, status)


def packed(about: Mapping[str, Any], data: bytes) -> Response:
    """Four bytes of length, that much JSON, then the data."""
    head = as_json(about).encode()
    return Response(struct.pack("<I", len(head)) + head + data, media_type="application/octet-stream")


def unpacked(body: bytes) -> tuple[Any, bytes]:
    """What `packed` put together."""
    (length,) = struct.unpack("<I", body[:4])
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def _npy(array: np.ndarray) -> Response:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return Response(file.getvalue(), media_type="application/octet-stream")
