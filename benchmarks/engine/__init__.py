"""Packed networks in the engine, beside int8 engines that users have and torch in float32.

Every engine runs in a process of its own, ``worker``; the peers' in an environment of their own,
which has neither torch nor micronet. ``peers`` makes their models there.
"""
