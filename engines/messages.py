"""What crosses the border between the gateway and an engine process: plain data, no torch.

Times are seconds. Clocks are `time.monotonic()`, which Linux and macOS share between processes
of one machine, so a stamp taken in the gateway can be subtracted in the engine.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Plain(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Made, packed and unpacked in C: a frozen dataclass of as many fields takes ten times as long."""


class Message(Plain, frozen=True, tag=True):
    """On the link, its fields behind the name of its class."""


class Job(Plain, frozen=True):
    """One request for pictures, complete: nothing in it needs the network or a default."""

    prompt: str
    seed: int  # 0..2**63-1; image i of `count` uses seed + i
    width: int  # of the answer, pixels, a multiple of 8
    height: int
    negative_prompt: str = ""
    steps: int = 4  # 1..12 UNet evaluations, exactly
    guidance: float = 1.0  # LCM guidance embedding w+1, or CFG scale for a model without one
    strength: float = 1.0  # 0..1, LCM-native: how far the input image is noised; 1 without an image
    image: bytes | None = None  # an encoded picture (PNG, JPEG, WebP) whose header the gateway admitted
    mask: bytes | None = None  # as `image`, same size; white is filled
    mask_only: bool = False  # unmasked pixels of the answer are the input's own pixels
    count: int = 1  # num_images, 1..8
    format: str = "jpeg"  # jpeg | png | webp
    safety: bool = True  # run the safety checker if the model has one
    model: str = ""  # name of a loaded model, "" = the default
    vae: str = "auto"  # auto | tiny | full, where the model has both; auto: tiny for live frames, else full


# ---- gateway to engine ----


class Submit(Message, frozen=True):
    """Draw this. `session` is the unit of order and newest-wins, `account` that of fairness."""

    ticket: int  # unique per gateway, never reused
    session: str
    received: float  # monotonic, when the frame's last byte arrived
    job: Job
    buffering: int = 0  # waiting frames the session may hold, newest win; 0 = never superseded
    deadline_s: float | None = None  # seconds after `received` in which the picture is worth most
    weight: float = 1.0  # share of the engine relative to other accounts
    account: str = ""  # who takes turns with the others, however many sessions they have; "" = the session
    background: bool = False  # it can wait: live requests go first, whatever anybody's share
    watch: str = ""  # "start": Started is sent; "steps": a Preview after every step but the last, too


class Cancel(Message, frozen=True):
    """Nobody waits for these tickets any more. Idempotent, no reply for tickets it removes."""

    tickets: list[int]


class Ping(Message, frozen=True):
    """Answered by Pong from the step loop itself, so a hung loop is seen."""

    number: int


# ---- engine to gateway ----


class Progress(Message, frozen=True):
    """What the engine does before it is ready. `total` 0 = unknown length."""

    stage: str  # "import" | "load" | "warm" | "download"
    done: float
    total: float
    text: str


class Model(Plain, frozen=True):
    """What a loaded model is and can do; drives validation, sizes and the canvas."""

    name: str
    kind: str  # "sdv1-5" | "sdxl"
    native: int  # side in pixels the weights were trained at
    smallest: int  # sides the engine draws at, pixels; other sizes are drawn near and resampled
    largest: int
    multiple: int  # drawn sides are multiples of this
    device: str
    dtype: str
    guidance: str  # "embedded" (w embedding, negative prompt has no effect) | "cfg"
    safety: bool  # a safety checker is loaded
    # "image", "mask", "tiny-vae", "full-vae", later "lora", "controlnet"...
    features: list[str] = field(default_factory=list)


class Ready(Message, frozen=True):
    """The engine takes work from now on."""

    pid: int
    models: list[Model]
    started_s: dict[str, float]  # seconds by stage of the start


class Picture(Plain, frozen=True):
    data: bytes  # an encoded file
    content_type: str  # image/jpeg | image/png | image/webp
    width: int
    height: int
    unsafe: bool  # replaced by black because the safety checker fired


class Started(Message, frozen=True):
    """The model begins on a watched ticket. Again, if an engine died and another one begins."""

    ticket: int


class Preview(Message, frozen=True):
    """What a step has made of one picture so far: the model's estimate of the finished one.

    Steps that end while a preview of this picture is being made have none.
    """

    ticket: int
    image: int  # of `count`, from 0
    step: int  # from 1, steps done
    steps: int  # of the job
    picture: Picture


class Done(Message, frozen=True):
    """The answer to one ticket."""

    ticket: int
    pictures: list[Picture]
    seed: int
    drawn: list[int]  # [width, height] the UNet drew at; differs from the job's size if resampled
    timings: dict[
        str, Any
    ]  # seconds: queue, text, vae_encode, steps [{seconds, batch}], vae, encode, inference
    finished: float  # monotonic, when this message was handed to the link
    safety_checked: bool = False
    warnings: list[str] = field(default_factory=list)  # for the user: what of the job had no effect and why


class Dropped(Message, frozen=True):
    """Not drawn, and that is no error. reason: "superseded"."""

    ticket: int
    reason: str


class Refused(Message, frozen=True):
    """Not drawn because of what the job asks or what went wrong with it. Codes: realtime/errors.py."""

    ticket: int
    code: str
    reason: str  # for the user: what they did and the limit crossed; never paths or tracebacks
    field: str = ""  # the request field at fault, if one is


class Pong(Message, frozen=True):
    number: int
    stats: dict[str, float]  # counters and gauges of the engine, names in engines/loop.py


ToEngine = Submit | Cancel | Ping
ToGateway = Progress | Ready | Started | Preview | Done | Dropped | Refused | Pong
