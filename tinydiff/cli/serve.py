"""The page with its model left in Python: `tinydiff serve`, for models too large for a browser, and for every decoder.

One process, one loop, loopback only. Steps of the network are taken one at a time, in a thread, in the order in which
they were asked for: two pages that fill masks take turns, and the clock of a race counts its own steps only. A page
that is closed ends its run with the step that it is at.

Other pages that are open in the same browser can send requests to loopback, too. Whatever does not come from the page
itself is refused: by `Host`, against names that are made to lead here (DNS rebinding); by `Origin` and content type,
against forms and scripts of other pages.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import decoders
from ..arrays import Ints
from ..decoders import Draw, Frame
from ..tensor import no_grad
from ..views.page import NOISY, Shown, describe, front
from .decoding import CHOICES

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST = 64 * 1024
"""Bytes of a request."""
DECODERS: dict[str, Any] = (
    CHOICES["remasking"]
    | {"threshold": decoders.Threshold}
    | {f"remask_{name}": kind for name, kind in CHOICES["remask"].items()}
)
MOST_ROUNDS = 100
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """A request that is not answered: a status and why."""


def application(masked: Shown, rival: Shown | None, port: int, stopping: Callable[[], bool]) -> Starlette:
    """What is served: the page, and three questions that it asks.

    Parameters
    ----------
    port : by which it is reached; requests that name another host are refused
    stopping : whether runs should come to an end

    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    turn = asyncio.Lock()  # whoever has waited longest is next
    data = describe(masked, rival) | {"orders": list(DECODERS), "noisy": NOISY, "attention": None}
    html = front(masked.folder.name, data)

    async def in_turn(step: Callable[[], Any]) -> tuple[Any, float]:
        """What a step gives, and the milliseconds that it took, waiting not counted."""
        async with turn:
            start = time.perf_counter()
            result = await asyncio.get_running_loop().run_in_executor(None, step)
            return result, 1000 * (time.perf_counter() - start)

    async def lines(frames: Iterator[Frame]) -> AsyncIterator[str]:
        ms = 0.0
        while not stopping():
            try:
                frame, took = await in_turn(lambda: next(frames, None))
            except (ValueError, FloatingPointError) as error:
                yield json.dumps({"error": str(error)}) + "\n"
                return
            if frame is None:
                return
            ms += took
            yield json.dumps(message(frame, ms)) + "\n"

    def guarded(answer: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def answered(request: Request) -> Response:
            try:
                body = await checked_body(request, port)
                answered = await answer(body)
            except Refused as refused:
                return JSONResponse({"error": refused.args[1]}, refused.args[0], HEADERS)
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400, HEADERS)
            return StreamingResponse(answered, media_type="application/x-ndjson", headers=HEADERS)

        return answered

    async def page(request: Request) -> Response:
        try:
            check_source(request, port)
        except Refused as refused:
            return JSONResponse({"error": refused.args[1]}, refused.args[0], HEADERS)
        return HTMLResponse(html, headers=HEADERS)

    async def fill(body: dict[str, Any]) -> AsyncIterator[str]:
        start = canvas(body, "start", masked)
        return lines(run(masked, start, decoder_for(body), body))

    async def write(body: dict[str, Any]) -> AsyncIterator[str]:
        if rival is None:
            raise Refused(404, "there is no autoregressive model here; name one with --rival")
        start = canvas(body, "start", masked)
        first = int((start == masked.codec.vocab_size).argmax())
        start[first:] = masked.codec.vocab_size
        draw = Draw(number(body, "temperature", 0, 100))
        return lines(run(rival, start, decoders.NextToken(draw), body))

    async def look(body: dict[str, Any]) -> AsyncIterator[str]:
        state = canvas(body, "state", masked)
        position = number(body, "position", 0, len(state) - 1, whole=True)
        best, _ = await in_turn(lambda: likeliest(masked, state, int(position)))

        async def answer() -> AsyncIterator[str]:
            yield json.dumps({"top": best, "attention": None}) + "\n"

        return answer()

    asked = [("/fill", fill), ("/write", write), ("/look", look)]
    return Starlette(
        routes=[Route("/", page), *(Route(path, guarded(answer), methods=["POST"]) for path, answer in asked)]
    )


def check_source(request: Request, port: int) -> None:
    """Refuse what does not come from the page itself."""
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host not in hosts:
        raise Refused(403, f"the host is {host!r}; expected one of {', '.join(hosts)}")
    if origin is not None and origin not in [f"http://{name}" for name in hosts]:
        raise Refused(403, f"the origin is {origin!r}; only the page from here may ask")


async def checked_body(request: Request, port: int) -> dict[str, Any]:
    """The JSON object that was sent, if it may be."""
    check_source(request, port)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"the content type is {kind!r}; expected application/json")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise Refused(413, f"the request is larger than {LARGEST} bytes")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is no JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "the request is no JSON object")
    return body


def number(body: dict[str, Any], name: str, least: float, most: float, whole: bool = False) -> Any:
    """A number of the request between the two."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not least <= value <= most:
        raise ValueError(
            f"{name} is {str(value)[:40]}; expected {'a whole' if whole else 'a'} number, {least} to {most}"
        )
    return value


def canvas(body: dict[str, Any], name: str, shown: Shown) -> Ints:
    """Token ids and masks of the request, (L,), as the model can read them."""
    ids, mask, longest = body.get(name), shown.codec.vocab_size, shown.model.length
    if not isinstance(ids, list) or not 1 <= len(ids) <= longest:
        what = f"of length {len(ids)}" if isinstance(ids, list) else "missing"
        raise ValueError(f"{name} is {what}; expected a list of 1 to {longest} token ids")
    if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= mask for each in ids):
        raise ValueError(f"{name} has something else than token ids; expected whole numbers from 0 to {mask}")
    return np.array(ids, np.int64)


def decoder_for(body: dict[str, Any]) -> Any:
    """The decoder that a request describes: each takes of its options what it has."""
    name = body.get("order")
    if not isinstance(name, str) or name not in DECODERS:
        raise ValueError(f"order is {str(name)[:40]!r}; expected one of {', '.join(DECODERS)}")
    kind = DECODERS[name]
    options = {
        "steps": number(body, "steps", 1, 1 << 20, whole=True),
        "draw": Draw(number(body, "temperature", 0, 100)),
        "choice_temperature": number(body, "noise", 0, 1000),
    }
    known = {field.name for field in fields(kind)}
    made = kind(**{option: value for option, value in options.items() if option in known})
    rounds = number(body, "rounds", 0, MOST_ROUNDS, whole=True)
    return decoders.Gibbs(made, rounds) if rounds else made


def run(shown: Shown, start: Ints, decoder: Any, body: dict[str, Any]) -> Iterator[Frame]:
    """Frames of a decoder on one text; ValueError, before the first, if it cannot be filled that way."""
    rng = np.random.default_rng(number(body, "seed", 0, 2**32 - 1, whole=True))
    free = start == shown.codec.vocab_size
    if not free.any():
        raise ValueError("nothing is masked: there is nothing to fill")
    if "steps" in body and body["steps"] > free.sum():
        raise ValueError(f"steps is {body['steps']}, but {free.sum()} positions are masked; use at most {free.sum()}")
    process: Any = shown.process
    frames: Iterator[Frame] = process.sample(
        shown.model, len(start), decoder=decoder, x0=np.where(free, 0, start), given=~free, rng=rng
    )
    return frames


def message(frame: Frame, ms: float) -> dict[str, Any]:
    """A frame as the page reads it, see `front/decoders.js`."""
    return {
        "step": frame.step,
        "steps": max(frame.steps, frame.step),
        "state": frame.state[0].tolist(),
        "fresh": np.flatnonzero(frame.committed[0]).tolist(),
        "again": np.flatnonzero(frame.remasked[0]).tolist(),
        "sure": np.round(frame.confidence[0], 4).tolist(),
        "ms": round(ms, 3),
    }


def likeliest(shown: Shown, state: Ints, position: int) -> list[tuple[int, float]]:
    """The five likeliest tokens of a position, with their probabilities."""
    where = (np.arange(len(state)) == position)[None]
    with no_grad():
        t = np.array([(state == shown.codec.vocab_size).mean()])
        p = decoders.draws.untempered(shown.model(state[None], t, select=where).data)[0]
    return [(int(token), round(float(p[token]), 6)) for token in np.argsort(-p, kind="stable")[:5]]


def listen(port: int) -> socket.socket:
    """A socket on loopback; ValueError if the port is taken."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; expected 0 to 65535, where 0 takes any that is free")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows would share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "in use" if error.errno == errno.EADDRINUSE else "not allowed"
            raise ValueError(f"--port is {port}, which is {why}; choose another, or 0 for any that is free") from None
        raise
    return listening


def serve(masked: Shown, rival: Shown | None, port: int, ready: Callable[[str], None]) -> None:
    """Serve until it is stopped.

    Parameters
    ----------
    ready : is told the address once the server listens

    """
    import uvicorn

    listening = listen(port)
    port = listening.getsockname()[1]
    listening.listen(64)
    holder: list[uvicorn.Server] = []
    app = application(masked, rival, port, lambda: holder[0].should_exit)
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, log_config=None, timeout_graceful_shutdown=2, lifespan="off",
        server_header=False, ws="none",
    )  # fmt: skip
    holder.append(uvicorn.Server(config))
    ready(f"http://127.0.0.1:{port}/")
    with listening:
        holder[0].run(sockets=[listening])
