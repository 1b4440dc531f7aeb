"""Whether a call can be recorded as a CUDA graph, found out by a call that is not.

A recording that fails may cost the process all later ones, the steps' too (engines/backends/graphs.py). So
what is not known to bear it is watched first, operation by operation. The watch is its thread's own, unlike
`torch.cuda.set_sync_debug_mode`, and works on any device apart from the host, torch's "meta" included.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_DATA = ("aten::lift_fresh", "aten::lift")  # how torch.tensor(...) ends, wherever the tensor goes
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
TOLD = {  # by torch's own tags
    "data_dependent_output": "reads a value back",
    "dynamic_output_shape": "reads a size back",
    "cudagraph_unsafe": "is nothing for CUDA graphs",
}


class Trial(TorchDispatchMode):
    """In here `objections` are gathered: why what is called must not be recorded. None: it may be.

    One at a time, with `one` held: torch remembers for the whole process whether any thread is in a mode.
    """

    one = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self.objections: list[str] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # or torch.compile would give up on what other threads call meanwhile

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = partial(func, *args, **(kwargs or {}))
        if torch.is_inference_mode_enabled():  # there, operations come whole that are made of others
            with torch.inference_mode(False), torch.no_grad(), self:
                return call()
        made = call()
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        for objection in _objections(func, args, tensors):
            if objection not in self.objections:
                self.objections.append(objection)
        return made


def _objections(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> list[str]:
    name, tags = func.name().partition(".")[0], {tag.name for tag in func.tags}
    if name in INDEXING:  # by numbers they know the size, and by masks not
        dtypes = {leaf.dtype for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)}
        tags = {"dynamic_output_shape"} if dtypes & {torch.bool, torch.uint8} else set()
    found = [f"{name} {why}" for tag, why in TOLD.items() if tag in tags]
    if name in HOST_DATA:
        found.append("a tensor is made of the host's data")
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        found.append(f"{name} is between {' and '.join(devices)}")
    return found
