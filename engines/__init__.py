"""Everything that touches pixels and tensors. Knows nothing of sockets, users or HTTP.

`messages`, `link`, `schedule`, `loop` and `fake` do not import torch; the rest does.
"""
