"""Frames of real apps, sent by the client versions those apps use, and read as the apps read the answers.

Source: tldraw/draw-fast@a01ff52, fal-ai-community/tldraw-fal, fal-ai/real-time-demo-app@c43d7a1, fal-js
apps/demo-nextjs-app-router (realtime, camera-turbo), fal-ai/lcm-draw-android.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.contract.clients import LEGACY, V0_6, V0_7, V0_8, V0_9, V0_15, V1_8, V1_10, Client, every
from tests.contract.frames import data_uri, encoded, png, shows

pytestmark = [pytest.mark.net, pytest.mark.proc]

PROMPT = "A random image that is safe for work and not surprising—something boring like a city or shoe"


def drawing() -> Image.Image:
    picture = Image.new("RGB", (512, 512), "white")
    picture.paste((20, 20, 20), (100, 100, 300, 140))
    return picture


def draw_fast(seed: int = 42) -> dict[str, Any]:
    return {
        "prompt": PROMPT,
        "image_url": data_uri(encoded(drawing(), "JPEG"), "image/jpeg"),
        "sync_mode": True,
        "strength": 0.65,
        "seed": seed,
        "enable_safety_checks": False,
    }


@every([V0_6, V0_7])
def test_draw_fast_and_tldraw_fal_get_a_data_uri_under_their_request_id(client: Client) -> None:
    live = client.connect(LEGACY, connectionKey="fal-realtime-example", clientOnly=False, throttleInterval=0)
    live.send(**draw_fast(), request_id="6c92a8ce-0000-4000-8000-000000000000")
    result = live.result()
    sent = client.wait("out")
    keys = list(json.loads(sent["bytes"]))
    assert sent["text"]
    assert sorted(keys) == sorted([*draw_fast(), "request_id"])
    assert keys[0] == ("request_id" if client.version is V0_6 else "prompt")
    assert result["request_id"] == "6c92a8ce-0000-4000-8000-000000000000"
    assert result["images"][0]["url"].startswith("data:image/jpeg;base64,")
    assert (result["images"][0]["width"], result["images"][0]["height"]) == (512, 512)
    assert shows(result, PROMPT, 42)


@every([V0_6])
def test_two_strokes_in_draw_fast_are_answered_stroke_by_stroke(client: Client) -> None:
    live = client.connect(LEGACY, connectionKey="fal-realtime-example", clientOnly=False, throttleInterval=0)
    live.send(**draw_fast(0))
    live.result()
    live.burst((draw_fast(seed) for seed in range(1, 21)), every_ms=80)
    seeds = [live.result()["seed"]]
    while seeds[-1] != 20:
        seeds.append(live.result()["seed"])
    assert seeds == sorted(set(seeds))
    assert len(seeds) >= 10
    assert live.errors() == []


@every([V0_8])
def test_real_time_demo_app_gets_bytes_and_its_milliseconds(client: Client) -> None:
    """Its first frame, 9 keys of msgpack; `_force_msgpack` is its trick to get binary frames out of 0.8."""
    live = client.connect(
        "fal-ai/fast-lcm-diffusion", connectionKey="realtime-nextjs-app", throttleInterval=64
    )
    live.send(
        _force_msgpack=b"",
        enable_safety_checker=False,
        image_size={"width": 768, "height": 768},
        sync_mode=True,
        num_images=1,
        num_inference_steps="4",
        prompt="a moose",
        seed="7",
        request_id="r1",
    )
    result = live.result()
    sent = client.wait("out")
    assert not sent["text"]
    assert sent["bytes"].startswith(
        bytes.fromhex("89ae5f666f7263655f6d73677061636bc400b5") + b"enable_safety_checker"
    )
    image = Image.open(io.BytesIO(result["images"][0]["content"]))
    assert image.size == (768, 768)
    assert shows(result, "a moose", 7)
    assert 0 < result["timings"]["inference"] * 1000 < 10_000


@every([V0_15, V1_8, V1_10])
def test_the_realtime_demo_of_fal_js_gets_bytes_for_its_bytes(client: Client) -> None:
    live = client.connect(
        "fal-ai/fast-lcm-diffusion/image-to-image", connectionKey="realtime-demo", throttleInterval=64
    )
    live.send(
        prompt="a moon in the night sky",
        image_bytes=encoded(drawing(), "JPEG"),
        negative_prompt="",
        seed=6252023,
        strength=0.8,
        num_inference_steps=4,
        image_size="square",
        sync_mode=True,
        enable_safety_checker=False,
    )
    result = live.result()
    assert Image.open(io.BytesIO(result["images"][0]["content"])).size == (512, 512)
    assert shows(result, "a moon in the night sky", 6252023)


@every([V0_7, V0_9])
def test_the_old_camera_demo_gets_its_picture_at_the_top_level(client: Client) -> None:
    """`image` in as bytes, `image` out as bytes; it never looks at `images`."""
    live = client.connect(LEGACY, connectionKey="camera-turbo-demo", throttleInterval=0)
    live.send(prompt="a boat", seed=5, image=png(128, 128), strength=0.4)
    result = live.result()
    assert Image.open(io.BytesIO(result["image"])).size == (128, 128)


@every([V0_6])
def test_the_android_app_may_write_its_booleans_as_numbers(client: Client) -> None:
    live = client.connect(LEGACY)
    live.send(**draw_fast() | {"sync_mode": 1, "enable_safety_checks": 0})
    assert live.result()["images"][0]["url"].startswith("data:image/")
