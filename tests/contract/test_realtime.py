"""What every client of fal's realtime protocol relies on: each version, over each way to the server."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from PIL import Image

from engines.fake import colour_of
from tests.contract.clients import (
    ASYNC,
    BROWSER,
    EVERYONE,
    JAVASCRIPT,
    LEGACY,
    PYTHON,
    SLASHLESS,
    SYNC,
    V0_6,
    V0_7,
    V0_8,
    V0_9,
    V1_10,
    Client,
    every,
)
from tests.contract.frames import data_uri, draw, encoded, frame, picture, png, shows
from tests.contract.ways import ONE
from tests.servers import Server

pytestmark = [pytest.mark.net, pytest.mark.proc]

NO_CLOSE = {
    V0_6: "close() does nothing on an open socket: its condition is inverted",
    **dict.fromkeys([V0_7, V0_8, V0_9], "the state machine has no `close` transition before 0.10"),
}


def outcomes(server: Server) -> Counter[str]:
    """How many frames this server has answered, superseded... so far (its /metrics)."""
    counts: Counter[str] = Counter()
    for line in server.get("/metrics")[1].decode().splitlines():
        if found := re.match(r'realtime_frames_total\{.*outcome="(\w+)"\} (\S+)', line):
            counts[found[1]] += int(float(found[2]))
    return counts


@every(EVERYONE)
def test_a_frame_is_answered_with_the_picture_of_its_prompt_and_seed(client: Client) -> None:
    result = draw(client.connect(), seed=7)
    assert result["seed"] == 7
    assert shows(result, "a red circle", 7)
    assert 0 < result["timings"]["inference"] < 10
    assert bool(result["request_id"]) == client.version.adds_request_id


@every(EVERYONE, ways=ONE)
def test_the_callers_request_id_comes_back_as_it_was(client: Client) -> None:
    assert draw(client.connect(), request_id="Zoë's №1 / ünïque")["request_id"] == "Zoë's №1 / ünïque"


@every(JAVASCRIPT, ways=ONE)
def test_the_reply_has_the_framing_of_the_request(client: Client) -> None:
    live = client.connect()
    draw(live)
    assert client.wait("out")["text"] is client.version.text
    assert client.wait("in")["text"] is client.version.text


@every([V1_10, BROWSER, SYNC, ASYNC], ways=ONE)
def test_text_from_a_custom_encoder_is_understood_and_answered_in_text(client: Client) -> None:
    live = client.connect(text=True)
    for seed in (1, 2):  # 1.10 encodes the first message twice: a JSON string within a JSON string
        assert draw(live, seed=seed)["seed"] == seed
    assert {event["text"] for event in client.seen("in")} <= {True}


# ---- bursts ----


@every(EVERYONE, but={V0_6: "has no maxBuffering"})
def test_a_burst_within_the_clients_buffering_is_answered_whole_and_in_order(client: Client) -> None:
    live = client.connect(maxBuffering=60)
    draw(live, seed=0)
    live.burst(frame(client.version, seed=seed) for seed in range(1, 21))
    assert [live.result()["seed"] for _ in range(20)] == list(range(1, 21))


@every(EVERYONE, ways=ONE)
def test_a_burst_too_fast_for_the_server_is_thinned_to_the_newest_and_nothing_is_lost_uncounted(
    client: Client, plain_server: Server
) -> None:
    live = client.connect()
    draw(live, seed=0)
    before = outcomes(plain_server)
    live.burst(frame(client.version, seed=seed) for seed in range(1, 31))
    seeds = [live.result()["seed"]]
    while seeds[-1] != 30:  # the newest is always answered
        seeds.append(live.result()["seed"])
    assert seeds == sorted(set(seeds))
    assert live.errors() == []
    now = outcomes(plain_server)
    assert now["answered"] - before["answered"] == len(seeds) < 30
    assert now["superseded"] - before["superseded"] == 30 - len(seeds)


@every(JAVASCRIPT, ways=ONE)
def test_frames_throttled_by_the_client_come_back_in_order_up_to_the_last_it_sent(client: Client) -> None:
    """Which one that is the client decides: its trailing timer may fire a millisecond early and drop the
    caller's last (utils.ts `throttle`, all versions)."""
    live = client.connect(throttleInterval=64 if client.version is V0_6 else 128)  # each one's own default
    live.burst((frame(client.version, seed=seed) for seed in range(40)), every_ms=10)
    client.settle(after_ms=40 * 10 + 300)
    sent = [message["seed"] for message in client.sent()]
    assert 2 <= len(sent) <= 12
    seeds = [live.result()["seed"]]
    while seeds[-1] != sent[-1]:
        seeds.append(live.result()["seed"])
    assert seeds == sorted(set(seeds) & set(sent))


@every(EVERYONE, ways=ONE)
def test_two_connections_of_one_client_get_their_own_answers(client: Client) -> None:
    prompts = ["a red circle", "a blue square"]
    lives = [client.connect() for _ in prompts]
    for live, prompt in zip(lives, prompts, strict=True):
        draw(live, prompt, seed=0)
    for seed in range(1, 5):
        for live, prompt in zip(lives, prompts, strict=True):
            live.send(**frame(client.version, prompt, seed))
    for live, prompt in zip(lives, prompts, strict=True):
        seed = 0
        while seed != 4:
            result = live.result()
            seed = result["seed"]
            assert shows(result, prompt, seed)


# ---- pictures in ----


@every(EVERYONE, ways=ONE)
def test_a_picture_as_data_uri_is_drawn_over_at_its_own_size(client: Client) -> None:
    live = client.connect(LEGACY)  # an old id, which later clients turn into 110602490/lcm-sd15-i2i
    result = draw(live, "a boat", 3, strength=0.5, image_url=data_uri(png(96, 64)), sync_mode=True)
    assert shows(result, "a boat", 3)
    assert picture(result).size == (96, 64)


@every(EVERYONE, but=SLASHLESS, ways=ONE)
def test_only_what_the_mask_marks_is_drawn(client: Client) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    live = client.connect("fal-ai/lcm")
    result = draw(
        live,
        "a boat",
        3,
        strength=0.5,
        inpaint_mask_only=True,
        image_url=data_uri(png(64, 64, (0, 250, 0))),
        mask_url=data_uri(encoded(mask)),
    )
    drawn = picture(result)
    for at, wanted in (((8, 32), (0, 250, 0)), ((56, 32), colour_of("a boat", 3))):
        assert all(abs(a - b) <= 8 for a, b in zip(drawn.getpixel(at), wanted, strict=True))  # type: ignore[arg-type]


@every(EVERYONE, but={V0_6: "sends JSON only"})
def test_a_picture_as_raw_bytes_is_answered_with_raw_bytes(client: Client) -> None:
    app = LEGACY if client.version in SLASHLESS else "fal-ai/fast-lcm-diffusion/image-to-image"
    live = client.connect(app)
    live.send(prompt="a boat", seed=3, image_bytes=png(), strength=0.7)
    result = live.result()
    assert isinstance(result["images"][0]["content"], bytes)
    assert not result["images"][0].get("url")
    assert shows(result, "a boat", 3)


@every([V0_6])
def test_bytes_forced_through_json_are_answered_one_way_or_the_other(client: Client) -> None:
    """JSON.stringify makes {"0": 137, "1": 80, ...} of a Uint8Array."""
    live = client.connect()
    live.send(prompt="a boat", seed=3, image_bytes=png())
    result = live.result()
    assert result.get("images") or result["type"] == "x-fal-error"
    assert draw(live, seed=4)["seed"] == 4


# ---- what clients send without meaning to ----


@every(EVERYONE, ways=ONE)
def test_numbers_as_strings_nils_and_unknown_keys_are_taken(client: Client) -> None:
    live = client.connect()
    nothing = {"$undefined": True} if client.version.runtime != "python" else None
    result = draw(
        live,
        num_inference_steps="4",
        guidance_scale="1",
        enable_safety_checks=0,
        sync_mode=1,
        negative_prompt=nothing,
        image_size=None,
        _force_msgpack=b"",
        colour_of_the_sky="blue",
    )
    assert result["num_inference_steps"] == 4


@every(JAVASCRIPT, ways=ONE)
def test_a_date_is_taken_although_msgpack_has_its_own_type_for_it(client: Client) -> None:
    live = client.connect()
    assert draw(live, seed=9, taken_at={"$date": 1_700_000_000_000})["seed"] == 9


@every(EVERYONE, ways=ONE)
def test_a_seed_the_server_chose_can_be_sent_back(client: Client) -> None:
    """JavaScript numbers are doubles: a seed above 2**53 would come back as another one."""
    live = client.connect()
    live.send(**{key: value for key, value in frame(client.version).items() if key != "seed"})
    first = live.result()
    assert shows(first, "a red circle", first["seed"])
    assert picture(draw(live, seed=first["seed"])).tobytes() == picture(first).tobytes()


# ---- closing ----


@every(JAVASCRIPT, but=NO_CLOSE)
def test_close_is_quiet_and_the_next_send_opens_again(client: Client) -> None:
    """An empty close frame must be answered by 1000: an echo shows up as onError(1005)."""
    live = client.connect()
    draw(live)
    live.close()
    assert client.wait("closed")["code"] == 1000
    assert live.errors() == []
    assert draw(live, seed=2)["seed"] == 2
    assert len(client.seen("open")) == 2


@every(PYTHON)
def test_python_closes_cleanly_and_connects_again(client: Client) -> None:
    for seed in (1, 2):
        live = client.connect()
        assert draw(live, seed=seed)["seed"] == seed
        live.close()
        assert client.wait("closed", live=live.name)["code"] == 1000
        assert live.errors() == []


@every(JAVASCRIPT, but=dict.fromkeys([V0_6, V0_7, V0_8, V0_9], NO_CLOSE[V0_9]), ways=ONE)
def test_frames_closed_over_are_forgotten_and_the_next_session_starts_clean(client: Client) -> None:
    live = client.connect(maxBuffering=60)
    draw(live, seed=0)
    live.burst(frame(client.version, seed=seed) for seed in range(1, 21))
    live.close()
    client.wait("closed")
    before = len(live.results())
    assert draw(live, seed=99)["seed"] == 99 or before  # late results of the old socket may precede
    assert live.results()[-1]["seed"] == 99
    assert live.errors() == []
