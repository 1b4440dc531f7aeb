"""Transformer blocks compiled, everything between them eager: seconds to build, for a start without builds.

A UNet repeats a few kinds of block many times, and torch compiles each kind once. Convolutions, half of the
work of an SD1.5 UNet, stay as they are; the whole program, compiled ahead, takes this one's place. It is
torch's just-in-time compiler, which keeps the interpreter to itself: to be built before there is traffic.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from engines.backends.program import Program, Shape

KINDS = 256  # compiled forms of one kind of block: sizes of it times buckets; torch's default is 8


def regional(program: Program, shape: Shape) -> Program:
    """A program over the same weights whose repeated blocks compile at their first call of each shape."""
    program = program.of(shape)
    shared: dict[int, Any] = {}
    for module in (program, *program.nets.values()):
        for tensor in (*module.parameters(), *module.buffers()):
            shared[id(tensor)] = tensor
    twin = copy.deepcopy(program, shared)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    twin.unet.compile_repeated_blocks(fullgraph=True, dynamic=False)
    return twin
