"""fal's queue: requests that are accepted for good, drawn when there is room, and asked for later.

api ──> desk (two threads) ──> ledger (SQLite)      submit, status, result, cancel
         ^  ^
   worker    webhooks                               draws what waits; tells how it ended
"""

from realtime.queue.api import Queue

__all__ = ["Queue"]
