"""Linear layers that read the same tensor, as one: fewer and larger products, for compiled code.

A UNet asks the same tensor for queries, keys and values; its text for the keys and values of every
cross-attention; its time embedding for the shift of every residual block. Of the 713 kernels of a call of
SD1.5 with one row that Inductor makes for an H200, 84 products can be spared so and some activations before
them, each a few microseconds long because it is launched at all.

The weights of such a family lie one after another in memory (`lay`), so that what compiled code reads as one
matrix is the very weights that eager code reads one by one, and takes no memory of its own.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

_SELF = re.compile(r"(.*attn1)\.to_[qkv]\.weight")  # of one attention
_ALL = re.compile(
    r"(.*?)(?:down_blocks|mid_block|up_blocks)\..*?(attn2\.to|time_emb_proj)[._][kv.]*(weight|bias)"
)
LINEAR, SILU = torch.ops.aten.linear.default, torch.ops.aten.silu.default


def family(name: str) -> str:
    """Of a parameter, by its name in diffusers' UNets and ControlNets; "" if it is of none."""
    if found := _SELF.fullmatch(name):
        return found[1]
    if found := _ALL.fullmatch(name):
        return " ".join(found.groups())
    return ""


@torch.no_grad()
def lay(module: nn.Module) -> None:
    """Move the parameters of each family into one piece of memory, by their names. They keep names, values,
    sizes and strides; what lies so stays where it is. Before anything is recorded that reads them."""
    families: dict[str, list[nn.Parameter]] = {}
    for name, parameter in sorted(module.named_parameters()):
        if family(name):
            families.setdefault(family(name), []).append(parameter)
    for parameters in families.values():
        if len({(p.shape[1:], p.dtype, p.device) for p in parameters}) > 1:
            continue
        with torch.inference_mode(parameters[0].is_inference()):  # whoever calls: they stay what they are
            one = whole([p.data for p in parameters])
            for parameter, part in zip(parameters, one.split([len(p) for p in parameters]), strict=True):
                if parameter.data_ptr() != part.data_ptr():
                    parameter.data = part


def whole(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all, one after another: where they lie, if they lie so; else a copy."""
    first = parts[0]
    end = first.data_ptr()
    for part in parts:
        if not part.is_contiguous() or part.data_ptr() != end or not _shares(part, first):
            return torch.cat(list(parts))
        end += part.nbytes
    size = (sum(map(len, parts)), *first.shape[1:])
    return first.detach().as_strided(size, first.stride())


def join(
    graph: fx.GraphModule, inputs: Sequence[tuple[str, str]], state: Mapping[str, Tensor]
) -> tuple[fx.GraphModule, list[tuple[str, str]]]:
    """Change an exported graph so that the linear layers of a family that read the same tensor are one.

    inputs: (kind, name) of its placeholders, in order; of kind "weight" those in `state`. Returns the graph
    and its inputs, among them of kind "joined" with the names of weights, sorted and with spaces between.
    """
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    named = dict(zip(placeholders, inputs, strict=True))
    _share(graph.graph)
    found: dict[tuple[fx.Node, str, bool], list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is LINEAR:
            kind, name = named.get(node.args[1], ("", ""))
            if kind == "weight" and family(name) and len(node.args[1].users) == 1:
                key = node.args[0], family(name), len(node.args) > 2 and node.args[2] is not None
                found.setdefault(key, []).append(node)
    told = list(inputs)
    last = placeholders[-1]
    for (read, _, biased), nodes in found.items():
        if len(nodes) < 2:
            continue
        order = sorted(nodes, key=lambda node: named[node.args[1]][1])
        operands: list[fx.Node] = []
        for at in (1, 2)[: 1 + biased]:
            names = [named[node.args[at]][1] for node in order]
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"joined_{len(told)}")
            last.meta["val"] = torch.cat([node.args[at].meta["val"] for node in order])
            told.append(("joined", " ".join(names)))
            operands.append(last)
        first = next(node for node in graph.graph.nodes if node in nodes)
        with graph.graph.inserting_before(first):
            one = graph.graph.call_function(LINEAR, (read, *operands))
            widths = [len(state[named[node.args[1]][1]]) for node in order]
            parts = graph.graph.call_function(torch.ops.aten.split_with_sizes.default, (one, widths, -1))
            for number, node in enumerate(order):
                node.replace_all_uses_with(graph.graph.call_function(operator.getitem, (parts, number)))
        for node in nodes:
            graph.graph.erase_node(node)
    kept = []
    for node, one in zip([n for n in graph.graph.nodes if n.op == "placeholder"], told, strict=True):
        if node.users or one[0] == "input":
            kept.append(one)
        else:
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return graph, kept


def _share(graph: fx.Graph) -> None:
    """Activations of the same tensor are one."""
    first: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is SILU:
            if node.args in first:
                node.replace_all_uses_with(first[node.args])
                graph.erase_node(node)
            else:
                first[node.args] = node


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
