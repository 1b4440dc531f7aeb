"""A store with a budget in bytes: what was used least recently goes first. No torch, thread-safe."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Values must not be changed by those who get them: everybody gets the same object."""

    def __init__(self, budget: int) -> None:
        """budget: bytes; 0 stores nothing."""
        self.budget = budget
        self.bytes = 0
        self.hits = self.misses = self.evictions = 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """`size`: bytes of the value. One larger than the whole budget is not stored."""
        with self._lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[1]
            if size > self.budget:
                return
            self._entries[key] = (value, size)
            self.bytes += size
            while self.bytes > self.budget:
                _, (_, freed) = self._entries.popitem(last=False)
                self.bytes -= freed
                self.evictions += 1

    def __contains__(self, key: Hashable) -> bool:
        """No use of it, and no hit or miss."""
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def stats(self, name: str) -> dict[str, float]:
        """The counters, each under `cache_<name>_...`."""
        counters = {
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
            "bytes": self.bytes,
        }
        return {f"cache_{name}_{counter}": float(value) for counter, value in counters.items()}
