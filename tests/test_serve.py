"""`tinydiff serve`: it answers its own page and nobody else, shares the machine, and leaves when it is told to."""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import launched, opened
from test_page import filled, shown, state_of

from tinydiff import Transformer, decoders
from tinydiff.tensor import Tensor

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tinydiff.cli import serve as server
from tinydiff.views.page import Shown, read_both

ROOT = Path(__file__).parents[1]
LENGTH = 16


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for this module."""
    with launched() as browser:
        yield browser


@contextmanager
def serving(masked: Shown, rival: Shown | None = None) -> Iterator[int]:
    """A server in this process, in a thread; its port."""
    import uvicorn

    made: list[uvicorn.Server] = []
    addresses: list[str] = []
    original = uvicorn.Server.__init__

    def kept(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        made.append(self)

    uvicorn.Server.__init__ = kept
    thread = threading.Thread(target=server.serve, args=(masked, rival, 0, addresses.append))
    thread.start()
    try:
        while not (made and made[0].started):
            time.sleep(0.01)
        yield int(re.search(r":(\d+)/", addresses[0])[1])
    finally:
        uvicorn.Server.__init__ = original
        made[0].should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def both(trained: Path, autoregressive: Path) -> tuple[Shown, Shown]:
    """A masked run and its rival."""
    return read_both(trained, autoregressive)


@pytest.fixture(scope="module")
def port(both: tuple[Shown, Shown]) -> Iterator[int]:
    """Of a server for this module."""
    with serving(*both) as port:
        yield port


def ask(port: int, path: str, body: Any, **headers: str) -> tuple[int, list[dict[str, Any]]]:
    """The status and the lines of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, content, sent)
    response = connection.getresponse()
    lines = [json.loads(line) for line in response.read().splitlines()]
    connection.close()
    return response.status, lines


def wish(both: tuple[Shown, Shown], **changes: Any) -> dict[str, Any]:
    """A request to fill a text of all masks."""
    mask = both[0].codec.vocab_size
    return {
        "start": [mask] * LENGTH,
        "order": "low_confidence",
        "steps": 4,
        "temperature": 0,
        "noise": 0,
        "rounds": 0,
        "seed": 3,
    } | changes


# --- what it answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("order", server.DECODERS)
def test_every_decoder_is_that_of_python(port: int, both: tuple[Shown, Shown], order: str, rounds: int) -> None:
    """An option that does not arrive, another decoder, frames that lack something."""
    body = wish(both, order=order, temperature=0.7, steps=LENGTH - 2, rounds=rounds)
    body["start"][:2] = both[0].codec.encode("th").tolist()
    status, lines = ask(port, "/fill", body)
    assert status == 200
    kind, draw = server.DECODERS[order], decoders.Draw(0.7)
    known = kind.__dataclass_fields__
    made = kind(**{k: v for k, v in {"steps": LENGTH - 2, "draw": draw, "choice_temperature": 0}.items() if k in known})
    made = decoders.Gibbs(made, rounds) if rounds else made
    start = np.array(body["start"])
    given = np.arange(LENGTH) < 2
    frames = list(
        both[0].process.sample(
            both[0].model, LENGTH, decoder=made, x0=np.where(given, start, 0), given=given, rng=np.random.default_rng(3)
        )
    )
    assert [line["state"] for line in lines] == [frame.state[0].tolist() for frame in frames]
    assert [line["fresh"] for line in lines] == [np.flatnonzero(frame.committed[0]).tolist() for frame in frames]
    assert [line["again"] for line in lines] == [np.flatnonzero(frame.remasked[0]).tolist() for frame in frames]
    np.testing.assert_allclose([line["sure"] for line in lines], [frame.confidence[0] for frame in frames], atol=1e-4)
    assert [line["step"] for line in lines] == [frame.step for frame in frames]
    times = [line["ms"] for line in lines]
    assert times == sorted(times)
    if "choice_temperature" in known:
        assert ask(port, "/fill", {**body, "noise": 50})[1][-1]["state"] != lines[-1]["state"]
    assert ask(port, "/fill", {**body, "seed": 4})[1] != lines


def test_left_to_right_sees_its_prompt_only(port: int, both: tuple[Shown, Shown]) -> None:
    """What is given behind the first mask kept, or an error of it."""
    body = wish(both)
    body["start"][:4] = body["start"][8:12] = both[0].codec.encode("the ").tolist()
    status, lines = ask(port, "/write", body)
    assert status == 200
    assert [line["step"] for line in lines] == list(range(LENGTH - 4 + 1))
    given = np.arange(LENGTH) < 4
    *_, last = both[1].process.sample(
        both[1].model, LENGTH, decoder=decoders.NextToken(decoders.Draw(0)), x0=np.where(given, body["start"], 0),
        given=given, rng=np.random.default_rng(3),
    )  # fmt: skip
    assert lines[-1]["state"] == last.state[0].tolist()
    with serving(both[0]) as alone:
        assert ask(alone, "/write", body) == (
            404,
            [{"error": "there is no autoregressive model here; name one with --rival"}],
        )


def test_the_likeliest_tokens(port: int, both: tuple[Shown, Shown]) -> None:
    """Those of another position, or the unlikeliest."""
    state = wish(both)["start"]
    (answer,) = ask(port, "/look", {"state": state, "position": 5})[1]
    p = decoders.draws.untempered(both[0].model(np.array([state])).data[0])[5]
    assert [token for token, _ in answer["top"]] == np.argsort(-p)[:5].tolist()
    np.testing.assert_allclose([share for _, share in answer["top"]], np.sort(p)[::-1][:5], atol=1e-5)


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": [0] * LENGTH}, "nothing is masked"),
        ({"start": [13] * (LENGTH + 1)}, "start is of length 17; expected a list of 1 to 16 token ids"),
        ({"start": []}, "start is of length 0"),
        ({"start": None}, "start is missing"),
        ({"start": [0, 99]}, "whole numbers from 0 to"),
        ({"start": [-1, 13]}, "whole numbers from 0 to"),
        ({"start": [True, 13]}, "whole numbers from 0 to"),
        ({"start": [0.5, 13]}, "whole numbers from 0 to"),
        ({"steps": LENGTH + 1}, "steps is 17, but 16 positions are masked; use at most 16"),
        ({"steps": 0}, "steps is 0; expected a whole number"),
        ({"steps": 1.5}, "steps is 1.5; expected a whole number"),
        ({"temperature": -1}, "temperature is -1; expected a number, 0 to 100"),
        ({"temperature": "x" * 200}, "temperature is xxxxxxxxxx"),
        ({"noise": None}, "noise is None"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"rounds": -1}, "rounds is -1; expected a whole number, 0 to 100"),
        ({"rounds": 10**6}, "rounds is 1000000; expected a whole number, 0 to 100"),
        ({"rounds": None}, "rounds is None"),
        ({"order": "best"}, "order is 'best'; expected one of low_confidence"),
        ({"order": ["entropy"]}, "order is"),
    ],
)
def test_impossible_wishes(port: int, both: tuple[Shown, Shown], changes: dict[str, Any], words: str) -> None:
    """A traceback, a run of a million steps, a text that the model cannot read."""
    mask = both[0].codec.vocab_size
    if isinstance(changes.get("start"), list):
        changes = {"start": [mask if each == 13 else each for each in changes["start"]]}
    status, (answer,) = ask(port, "/fill", wish(both, **changes))
    assert status == 400
    assert words in answer["error"]
    assert len(answer["error"]) < 400


def test_other_pages_get_nothing(port: int, both: tuple[Shown, Shown]) -> None:
    """A page of somebody else that runs the model, or reads what it says, by way of the reader's browser."""
    body = wish(both)
    here = f"127.0.0.1:{port}"
    for headers, status in (
        ({"Origin": f"http://{here}"}, 200),
        ({"Origin": f"http://localhost:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"https://{here}"}, 403),
        ({"Origin": f"http://{here}.evil.example"}, 403),
        ({"Host": f"localhost:{port}"}, 200),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": f"127.0.0.1:{port + 1}"}, 403),
        ({"Host": f"evil.example:{port}"}, 403),
        ({"Host": f"127.0.0.1.evil.example:{port}"}, 403),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
    ):
        assert ask(port, "/fill", body, **headers)[0] == status, headers
    for content, status in ((b"{", 400), (b"[]", 400), (b"[" * 60_000, 400), (b" " * 65_537, 413), (b"\xff", 400)):
        assert ask(port, "/fill", content)[0] == status
    for headers in ({"Host": "evil.example"}, {"Host": here, "Origin": "http://evil.example"}):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/", headers=headers)
        assert connection.getresponse().status == 403
        connection.close()
    for request, status in (
        (b"POST /fill HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", b"400"),  # no host
        (b"POST /fill HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", b"403"),
        (b"GET /fill HTTP/1.1\r\nHost: " + here.encode() + b"\r\nConnection: close\r\n\r\n", b"405"),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: " + here.encode() + b"\r\nConnection: close\r\n\r\n", b"404"),
    ):
        with socket.create_connection(("127.0.0.1", port), 20) as raw:
            raw.sendall(request)
            assert raw.recv(100).split(b" ")[1] in (status, b"403"), request


def test_the_page_is_told_to_be_careful(port: int) -> None:
    """A page in a frame of another, or kept in a cache."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    response = connection.getresponse()
    html = response.read().decode()
    connection.close()
    for name, value in server.HEADERS.items():
        assert response.headers[name] == value
    assert "connect-src 'self'" in html
    assert "weights-masked" not in html
    assert not re.search(r"https?:", html)


# --- sharing ----------------------------------------------------------------------------------------------------------


class Slow(Transformer):
    """A network that takes its time, and keeps count."""

    calls = 0
    lock = threading.Lock()
    at_once = most = 0

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        """As the network that it is, 40 ms later."""
        cls = type(self)
        with cls.lock:
            cls.calls += 1
            cls.at_once += 1
            cls.most = max(cls.most, cls.at_once)
        time.sleep(0.04)
        with cls.lock:
            cls.at_once -= 1
        return super().__call__(*arguments, **options)


@pytest.fixture
def slow() -> Iterator[tuple[Shown, int]]:
    """A slow model and the port where it is served."""
    made = shown()
    made.model.__class__ = Slow
    Slow.calls = Slow.most = 0
    with serving(made) as port:
        yield made, port


@contextmanager
def filling(port: int, made: Shown) -> Iterator[http.client.HTTPResponse]:
    """The answer, as it comes, of a text that is filled in as many steps as it has positions."""
    body = {
        "start": [made.codec.vocab_size] * 20,
        "order": "random",
        "steps": 20,
        "temperature": 1,
        "noise": 0,
        "rounds": 0,
        "seed": 0,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/fill", json.dumps(body), {"Content-Type": "application/json"})
    with closing(connection), closing(connection.getresponse()) as response:
        yield response


def test_a_closed_page_ends_its_run(slow: tuple[Shown, int]) -> None:
    """A run that goes on for nobody."""
    made, port = slow
    with filling(port, made) as response:
        assert json.loads(response.readline())["step"] == 0
        response.readline()
    before = -1
    while Slow.calls != before:  # until nothing happens any more
        before = Slow.calls
        time.sleep(0.4)
    assert Slow.calls < 20


def test_two_pages_take_turns(slow: tuple[Shown, int]) -> None:
    """One that waits until the other is done; two networks at work at once; a clock that counts waiting."""
    made, port = slow
    answers: dict[str, list[tuple[float, dict[str, Any]]]] = {"a": [], "b": []}

    def read(name: str) -> None:
        with filling(port, made) as response:
            for line in response:
                answers[name].append((time.monotonic(), json.loads(line)))

    threads = [threading.Thread(target=read, args=(name,)) for name in answers]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (a, b) = answers.values()
    assert len(a) == len(b) == 21
    both = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])  # the time in which both are at work
    shares = [sum(both[0] <= at <= both[1] for at, _ in lines) for lines in (a, b)]
    assert min(shares) > 5
    assert abs(shares[0] - shares[1]) <= 3
    assert Slow.most == 1
    wall = 1000 * (max(a[-1][0], b[-1][0]) - began)
    assert 1600 <= a[-1][1]["ms"] + b[-1][1]["ms"] <= wall


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_the_page_works(browser: Any, port: int) -> None:
    """The page from the server is not the page from a file: something is asked for and not answered."""
    from playwright.sync_api import expect

    address = f"http://127.0.0.1:{port}/"
    with opened(browser, address, address) as tab:
        assert state_of(tab) == "_" * LENGTH
        tab.fill("#own", "the cat ________")
        tab.click("#use")
        tab.select_option("#order", "remask_cap")
        filled(tab)
        tab.select_option("#order", "entropy")
        tab.locator("#rounds").fill("1")
        filled(tab)
        tab.locator("#film").fill("9")
        assert tab.locator("#text .cell.again").count() == 3
        tab.locator("#film").fill("12")
        assert state_of(tab).startswith("the cat ")
        assert "_" not in state_of(tab)
        tab.hover("#text-9")
        expect(tab.locator("#top li")).to_have_count(5)
        expect(tab.locator("#painting")).to_be_hidden()
        expect(tab.locator("#legend")).to_contain_text("masked again")
        tab.click("#mask-all")
        tab.click("#race-start")
        expect(tab.locator("#tracks h3")).to_have_count(2)
        tab.locator("#race-film").fill(tab.locator("#race-film").get_attribute("max"))
        assert tab.locator("#tracks .cell.mask").count() == 0
        assert len(tab.locator("#order option").all()) == len(server.DECODERS)


def test_a_server_that_is_gone(browser: Any) -> None:
    """An error in the words of the browser, "Failed to fetch", which do not say what to do."""
    from playwright.sync_api import expect

    context = browser.new_context()
    with serving(shown()) as port:
        tab = context.new_page()
        tab.goto(f"http://127.0.0.1:{port}/")
    tab.click("#fill")
    expect(tab.locator("#error")).to_contain_text("The server does not answer: start tinydiff serve again")
    context.close()


# --- coming and going -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("busy", [False, True])
def test_the_command_says_where_and_leaves(trained: Path, busy: bool) -> None:
    """An address nobody knows, a traceback at Ctrl-C, a run that keeps the server alive."""
    command = [sys.executable, "-m", "tinydiff", "serve", str(trained), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    patience = threading.Timer(60, process.kill)  # a line that never comes ends here, not never
    patience.start()
    try:
        line = process.stdout.readline()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", line)[1])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/")
            assert connection.getresponse().read().startswith(b"<!DOCTYPE html>")
        again = subprocess.run([*command[:-1], str(port)], capture_output=True, text=True, check=False, timeout=60)
        assert (again.returncode, again.stdout) == (2, "")
        assert again.stderr == f"error: --port is {port}, which is in use; choose another, or 0 for any that is free\n"
        if busy:
            with socket.create_connection(("127.0.0.1", port), 20) as raw:
                raw.sendall(b"POST /fill HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 9\r\n" % port)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
        else:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == "Stopped.\n"
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


def test_no_sampler_yields_with_gradients_switched_off() -> None:
    """The switch is of a context, and steps may run in different ones."""
    for path in (ROOT / "tinydiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.With) and any("no_grad" in ast.unparse(item) for item in node.items):
                assert not [inner for inner in ast.walk(node) if isinstance(inner, ast.Yield | ast.YieldFrom)], path
