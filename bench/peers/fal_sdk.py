"""fal's own realtime server with an app that does nothing: the peer of `bench gateway`.

Runs in its own environment (fal 1.83.0 pins older rich and structlog than this project), so it imports
nothing of ours. It gets every advantage it can have without changing the SDK: uvloop and httptools under
uvicorn, an `async` endpoint (a plain one costs a thread hop per frame), no metrics server, no access log.
The answer carries the same picture, byte for byte, as ours (argv: port, file with the data URI, seconds
the app sleeps per frame).

Source of how it is mounted: `fal.app.App._build_app`, as `fal run --local` serves it.
"""

import asyncio
import sys
from pathlib import Path

import fal
import uvicorn
from pydantic import BaseModel, Field

PORT, PICTURE, SLEEP_S = int(sys.argv[1]), Path(sys.argv[2]).read_text(), float(sys.argv[3])


class Size(BaseModel):
    width: int = 512
    height: int = 512


class Input(BaseModel):
    """The documented inputs of fal-ai/lcm that the load sends, with defaults and bounds."""

    prompt: str
    seed: int | None = None
    num_inference_steps: int = Field(4, ge=1, le=12)
    guidance_scale: float = Field(1.0, ge=0, le=20)
    strength: float = Field(0.8, ge=0, le=1)
    image_url: str | None = None
    image_size: Size | None = None
    sync_mode: bool = False
    request_id: str = ""


class Noop(fal.App):
    @fal.realtime("/realtime")
    async def draw(self, request: Input) -> dict:
        if SLEEP_S:
            await asyncio.sleep(SLEEP_S)
        return {
            "images": [{"url": PICTURE, "content_type": "image/jpeg", "width": 128, "height": 128}],
            "seed": request.seed,
            "num_inference_steps": request.num_inference_steps,
            "request_id": request.request_id,
            "timings": {"inference": 0.0},
            "nsfw_content_detected": [False],
        }


if __name__ == "__main__":
    app = Noop(_allow_init=True)._build_app()
    uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop", http="httptools", log_level="warning")
