"""Files people upload and pictures we draw, under URLs that are hard to guess and expire.

`catalogue` knows what there is (SQLite), `objects` holds the bytes (a folder or a bucket), `lifecycle` says
how long and for whom, `shelf` changes them together, `uploads` is what fal's clients write, `body` how it
arrives, `files` how it is served, `storage` the service.
"""

from realtime.storage.storage import Storage

__all__ = ["Storage"]
