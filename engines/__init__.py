"""Everything that touches pixels and tensors. Knows nothing of sockets, users or HTTP.

The way of a request: `link` > `loop` > `mailbox`, `schedule` (`cost`, `outlook`) > `pipeline` > `drawing` >
`link`. None of these imports torch, nor do `recorder`, `fake` and `simulate`; the rest does.
"""
