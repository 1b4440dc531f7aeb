"""The apps this server answers for, by the names fal's clients use.

An app is data: a request model with the documented fields, a translation of it into the one
vocabulary the planner understands (`plan.Wish`), and the shape of its answer.
"""

from __future__ import annotations

import re

from realtime.apps import fast_lcm, fast_sdxl, lcm
from realtime.apps.app import App, Request

__all__ = ["App", "Request", "all_apps", "find"]

_APPS = {app.id: app for app in (*lcm.APPS, *fast_lcm.APPS, *fast_sdxl.APPS)}

# Paths under an app that name what the app does anyway by its inputs. Any other path is not found,
# as on fal.run, so that a typing error does not draw something else.
_ALIASES = {
    "fal-ai/lcm/text-to-image": "fal-ai/lcm",
    "fal-ai/lcm/inpainting": "fal-ai/lcm",
    "fal-ai/lcm-sd15-i2i/image-to-image": "fal-ai/lcm-sd15-i2i",
    "fal-ai/fast-lcm-diffusion/text-to-image": "fal-ai/fast-lcm-diffusion",
    "fal-ai/fast-sdxl/text-to-image": "fal-ai/fast-sdxl",
}
_OWNER = "110602490"  # fal's own user number, in the ids of its first clients (fal-js `ensureAppIdFormat`)
_LEGACY = re.compile(r"([0-9]+)-(.+)")


def find(endpoint: str) -> App | None:
    """The app behind "owner/app[/path]" or the old "number-app[/path]"; None if there is none.

    A leading or trailing slash and one trailing "/realtime" or "/ws" do not matter.
    """
    name = endpoint.strip("/")
    first, _, rest = name.partition("/")
    if legacy := _LEGACY.fullmatch(first):
        name = "/".join(filter(None, (*legacy.groups(), rest)))
    name = name.removesuffix("/realtime").removesuffix("/ws")
    if name.startswith(_OWNER + "/"):
        name = "fal-ai" + name.removeprefix(_OWNER)
    return _APPS.get(_ALIASES.get(name, name))


def all_apps() -> list[App]:
    """Every app once, without its aliases, in the order a person would look for them."""
    return list(_APPS.values())
