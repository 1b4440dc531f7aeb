"""Points an unmodified fal-client (1.x) at this server over plain HTTP, without touching DNS.

    import fal_client
    from fal_here import fal_here     # a copy of this file: curl -O http://127.0.0.1:8000/web/fal_here.py

    fal_here("http://127.0.0.1:8000")  # FAL_KEY=any:thing must be set, even for a server without keys
    print(fal_client.run("fal-ai/lcm", arguments={"prompt": "a red circle"}))

fal-client takes its run and queue hosts from FAL_RUN_HOST and FAL_QUEUE_RUN_HOST, always with TLS, and has no
variable for tokens and storage: those are constants of its module, set here like the others.
"""

from __future__ import annotations

from fal_client import client


def fal_here(server: str) -> None:
    """`server`: http or https URL, with a path prefix if there is one. Clients made before follow too."""
    base = f"{server.rstrip('/')}/__h"
    client.RUN_URL_FORMAT = f"{base}/fal.run/"
    client.QUEUE_URL_FORMAT = f"{base}/queue.fal.run/"
    client.REALTIME_URL_FORMAT = f"ws{base.removeprefix('http')}/fal.run/"
    client.REST_URL = f"{base}/rest.fal.ai"
    client.CDN_URL = f"{base}/v3.fal.media"
