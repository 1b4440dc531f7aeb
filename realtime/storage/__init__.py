"""Files people upload and pictures we draw, under URLs that are hard to guess and expire.

`catalogue` knows what there is (SQLite), `objects` holds the bytes (a folder or a bucket), `lifecycle` says
how long and for whom, `uploads` is fal's upload protocol, `files` answers GET, `storage` is the service.
"""

from realtime.storage.storage import Storage, Stored

__all__ = ["Storage", "Stored"]
