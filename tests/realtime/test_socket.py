"""The realtime wire against a real server process: every rule fal's clients rely on."""

import asyncio
import json
import struct
import time

import msgpack
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.pictures import data_uri, picture, png
from tests.realtime.talk import LCM, ask, eventually, masked, opened, raw, receive, send
from tests.realtime.test_wire import HOSTILE
from tests.servers import Server, serve

pytestmark = [pytest.mark.net, pytest.mark.proc]

PATHS = [
    "/fal-ai/lcm/realtime",
    "/fal-ai/lcm/ws",
    "/fal-ai/lcm/text-to-image/realtime",
    "/110602490/lcm-sd15-i2i/realtime",
    "/110602490-lcm-sd15-i2i/ws",
    "/fal-ai/lcm-sd15-i2i/realtime",
    "/fal-ai/fast-lcm-diffusion/realtime",
    "/fal-ai/fast-lcm-diffusion/image-to-image/realtime",
    "/__h/fal.run/fal-ai/lcm/realtime",
    "/__h/110602490-lcm-sd15-i2i.gateway.alpha.fal.ai/ws",
]


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_of_every_client_generation_is_served(server: Server, path: str):
    async with opened(server, path) as ws:
        # Answered by the app: it knows what a prompt is, and some want a picture besides.
        answer = await ask(ws, {"prompt": ["not a text"], "request_id": "r"})
        assert answer["error"] == "VALIDATION_ERROR"
        assert answer["request_id"] == "r"


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("fal.run", "/fal-ai/lcm/realtime"),
        ("fal.run:443", "/fal-ai/lcm/ws"),
        ("110602490-lcm.gateway.alpha.fal.ai", "/ws"),
    ],
)
async def test_the_host_header_says_what_is_meant(server: Server, host: str, path: str):
    async with opened(server, path, name=host) as ws:
        assert "images" in await ask(ws, {"prompt": "a", "seed": 1})


async def test_a_binary_request_is_answered_in_binary_and_a_text_one_in_text(server: Server):
    async with opened(server) as ws:
        await send(ws, {"prompt": "a", "seed": 1})
        assert isinstance(await ws.recv(), bytes)
        await send(ws, {"prompt": "a", "seed": 1}, text=True)
        assert isinstance(await ws.recv(), str)


@pytest.mark.parametrize("identity", ["mine", "", '💡 / \\ "', "0" * 5000])
async def test_a_request_id_comes_back_verbatim(server: Server, identity: str):
    async with opened(server) as ws:
        assert (await ask(ws, {"prompt": "a", "request_id": identity}))["request_id"] == identity


async def test_a_missing_request_id_comes_back_empty(server: Server):
    async with opened(server) as ws:
        assert (await ask(ws, {"prompt": "a"}))["request_id"] == ""


async def test_the_answer_says_where_its_time_went(server: Server):
    async with opened(server) as ws:
        timings = (await ask(ws, {"prompt": "a", "num_inference_steps": 3}))["timings"]
    assert {"receive", "decode", "queue", "text", "vae", "encode", "send", "inference"} <= timings.keys()
    assert len(timings["steps"]) == 3
    for name, seconds in timings.items():
        if name != "steps":
            assert 0 <= seconds < 5, name


async def test_results_come_in_the_order_of_their_frames(server: Server):
    async with opened(server, max_buffering=60) as ws:
        for number in range(40):
            # The later ones need fewer steps and would overtake.
            await send(
                ws, {"prompt": "a", "num_inference_steps": 12 - number % 12, "request_id": str(number)}
            )
        assert [(await receive(ws))["request_id"] for _ in range(40)] == [str(n) for n in range(40)]


async def test_one_prompt_and_seed_is_one_picture(server: Server):
    async with opened(server) as first, opened(server) as second:
        wish = {"prompt": "a", "seed": 3}
        assert (await ask(first, wish))["images"] == (await ask(second, wish))["images"]


async def test_newest_frames_win_and_the_others_are_counted(server: Server):
    before = server.metric("realtime_frames_total", outcome="superseded")
    async with opened(server, max_buffering=1) as ws:
        for number in range(50):
            await send(ws, {"prompt": "!slow 0.05", "request_id": str(number)})
        answered = []
        while not answered or answered[-1] != 49:
            answered.append(int((await receive(ws))["request_id"]))
    assert answered == sorted(set(answered))
    assert len(answered) < 50
    dropped = 50 - len(answered)
    assert server.metric("realtime_frames_total", outcome="superseded") - before == dropped


async def test_nothing_is_dropped_that_fits_the_buffering_asked_for(server: Server):
    async with opened(server, max_buffering=60) as ws:
        for number in range(60):
            await send(ws, {"prompt": "a", "request_id": str(number)})
        assert [(await receive(ws))["request_id"] for _ in range(60)] == [str(n) for n in range(60)]


@pytest.mark.parametrize("odd", ["0", "-1", "61", "x", "", "1e9", "٣"])
async def test_an_odd_max_buffering_is_no_reason_to_fail(server: Server, odd: str):
    async with opened(server, max_buffering=odd) as ws:
        assert "images" in await ask(ws, {"prompt": "a"})


# ---- bad input ----


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_frame_is_one_error_and_the_session_lives(server: Server, name: str):
    async with opened(server) as ws:
        await ws.send(HOSTILE[name])
        error = json.loads(await ws.recv())
        assert error["type"] == "x-fal-error"
        assert error["error"] == "BAD_REQUEST"
        assert "images" in await ask(ws, {"prompt": "a"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", 13),
        ("num_inference_steps", "many"),
        ("prompt", {}),
        ("prompt", ["a"]),
        ("seed", "x"),
        ("strength", 2),
        ("image_size", "enormous"),
        ("image_url", "data:image/png;base64,????"),
        ("image_url", "data:image/png;base64,aGVsbG8="),
        ("image_url", {}),
    ],
)
async def test_an_invalid_field_is_named_and_the_session_lives(server: Server, field: str, value: object):
    async with opened(server) as ws:
        await send(ws, {"prompt": "a", field: value, "request_id": "r"})
        frame = await ws.recv()
        assert isinstance(frame, str), "errors are text, even in a msgpack session"
        error = json.loads(frame)
        assert error["type"] == "x-fal-error"
        assert error["request_id"] == "r"
        assert error["detail"][0]["loc"][:2] == ["body", field]
        assert "images" in await ask(ws, {"prompt": "a"})


PICTURE = data_uri(picture(64, 64))
UNDRAWABLE = {
    "9000x9000 pixels": ({"image_url": data_uri(png(9000, 9000))}, "IMAGE_ERROR", "image_too_large"),
    "a mask of another size": (
        {"image_url": PICTURE, "mask_url": data_uri(picture(32, 64))},
        "IMAGE_ERROR",
        "image_size_mismatch",
    ),
    "an empty prompt": ({"prompt": ""}, "VALIDATION_ERROR", "string_too_short"),
    "a prompt of spaces": ({"prompt": " \n"}, "VALIDATION_ERROR", "string_too_short"),
}


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("name", UNDRAWABLE)
async def test_what_cannot_be_drawn_is_one_typed_error_and_the_session_draws_on(
    server: Server, name: str, text: bool
):
    given, code, kind = UNDRAWABLE[name]
    async with opened(server) as ws:
        await send(ws, {"prompt": "a", "request_id": "bad"} | given, text=text)
        error = json.loads(await ws.recv())
        assert (error["type"], error["error"], error["request_id"]) == ("x-fal-error", code, "bad")
        assert [entry["type"] for entry in error["detail"]] == [kind]
        answer = await ask(ws, {"prompt": "a", "image_url": PICTURE, "request_id": "good"}, text=text)
        assert (answer["request_id"], len(answer["images"])) == ("good", 1)


async def test_empty_text_frames_mean_nothing(server: Server):
    async with opened(server) as ws:
        await ws.send("")
        assert "images" in await ask(ws, {"prompt": "a"})


async def test_a_job_the_engine_cannot_do_is_one_error_and_the_session_lives(server: Server):
    async with opened(server) as ws:
        error = await ask(ws, {"prompt": "!fault", "request_id": "r"})
        assert error["type"] == "x-fal-error"
        assert error["request_id"] == "r"
        assert "images" in await ask(ws, {"prompt": "a"})


async def test_a_frame_over_the_size_limit_closes_1009():
    with serve(max_frame_bytes=65536) as small:
        async with opened(small) as ws:
            await ws.send(b"x" * 70_000)
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1009


async def test_text_that_is_no_utf8_closes_1007(server: Server):
    with raw(server) as peer:
        peer.sendall(masked(1, b"\xff\xfe"))
        frame = await asyncio.to_thread(peer.recv, 100)
    assert frame[0] == 0x88
    assert struct.unpack(">H", frame[2:4]) == (1007,)


async def test_fragments_are_one_message_and_pings_may_come_between(server: Server):
    packed = msgpack.packb({"prompt": "a", "request_id": "parts"})

    def exchange() -> bytes:
        with raw(server) as peer:
            peer.sendall(masked(2, packed[:3], fin=False))
            for byte in packed[3:-1]:
                peer.sendall(masked(9, b"?") + masked(0, bytes([byte]), fin=False))
            peer.sendall(masked(0, packed[-1:]))
            heard = b""
            while b"request_id" not in heard:
                heard += peer.recv(65536)
            return heard

    heard = await asyncio.to_thread(exchange)
    assert b"parts" in heard
    assert heard.startswith(b"\x8a\x01?")


async def test_the_time_to_receive_is_the_frame_s_own_whatever_came_before_it(server: Server):
    def exchange() -> dict:
        with raw(server) as peer:
            peer.sendall(masked(9, b"?"))
            time.sleep(0.3)
            peer.sendall(masked(1, b'{"prompt":"a"}'))
            heard = b""
            while not heard.endswith(b"}"):
                heard += peer.recv(65536)
            return json.loads(heard[heard.index(b"{") :])

    answer = await asyncio.to_thread(exchange)
    assert answer["timings"]["receive"] < 0.2


async def test_one_segment_may_hold_many_messages_of_both_kinds_and_pings(server: Server):
    frames = [
        masked(1, b'{"prompt":"a","request_id":"1"}'),
        masked(9, b"?"),
        masked(2, msgpack.packb({"prompt": "a" * 300, "request_id": "2"})),
        masked(2, msgpack.packb({"prompt": "a", "request_id": "3"})[:5], fin=False),
        masked(0, msgpack.packb({"prompt": "a", "request_id": "3"})[5:]),
        masked(1, b'{"prompt":"a","request_id":"4"}'),
    ]

    def exchange() -> bytes:
        with raw(server, LCM + "?max_buffering=60") as peer:
            peer.sendall(b"".join(frames))
            heard = b""
            while b'"request_id":"4"' not in heard:
                heard += peer.recv(65536)
            return heard

    heard = await asyncio.to_thread(exchange)
    ids = [b'"request_id":"1"', b"request_id\xa12", b"request_id\xa13", b'"request_id":"4"']
    places = [heard.index(identity) for identity in ids]
    assert places == sorted(places)
    assert heard.count(b"\x8a\x01?") == 1


# ---- closing ----


async def test_an_empty_close_is_answered_by_1000(server: Server):
    with raw(server) as peer:
        peer.sendall(masked(8, b""))
        assert await asyncio.to_thread(peer.recv, 100) == b"\x88\x02\x03\xe8"


async def test_a_close_with_a_code_is_answered_by_it(server: Server):
    with raw(server) as peer:
        peer.sendall(masked(8, b"\x0f\xa0bye"))
        assert await asyncio.to_thread(peer.recv, 100) == b"\x88\x05\x0f\xa0bye"


async def test_deflate_is_not_negotiated(server: Server):
    async with connect(server.ws + LCM, compression="deflate") as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        assert "images" in await ask(ws, {"prompt": "a"})


async def test_an_idle_socket_is_closed_by_1000():
    with serve(idle_s=0.3) as server:
        async with opened(server) as ws:
            assert "images" in await ask(ws, {"prompt": "!slow 0.6"}), "being drawn is not idle"
            await asyncio.wait_for(ws.wait_closed(), 5)
            assert ws.close_code == 1000
        await eventually(lambda: server.metric("realtime_sockets_closed_total", by="idle") == 1)


async def test_an_unknown_app_is_said_after_the_handshake(server: Server):
    async with opened(server, "/fal-ai/no-such-app/realtime") as ws:
        error = await receive(ws)
        assert error["type"] == "x-fal-error"
        assert error["error"] == "NOT_FOUND"
        await ws.wait_closed()
        assert ws.close_code == 1000


async def test_too_many_sockets_are_told_to_come_back():
    with serve(max_sockets=2) as server:
        async with opened(server) as first, opened(server):
            async with opened(server) as third:
                assert (await receive(third))["error"] == "TOO_MANY_REQUESTS"
                await third.wait_closed()
                assert third.close_code == 1013
            assert "images" in await ask(first, {"prompt": "a"})
