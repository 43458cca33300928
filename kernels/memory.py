"""Large outputs of the operators on the CPU, whose memory is kept and used again.

glibc maps every large tensor anew and pays a page fault for each 4 KiB of it, which takes longer
than most kernels here. Outputs of 1 MiB and more of the compiled extension therefore return to a
pool when they are freed. It keeps at most a quarter of the machine's memory unless told otherwise.
"""

from importlib import import_module

from .dispatch import available_backends


def kept_output_bytes() -> int:
    """Bytes of freed outputs that wait to be used again; 0 without the extension."""
    if "native" not in available_backends():
        return 0
    kept: int = import_module("micronet_kernels._C").kept_buffer_bytes()
    return kept


def limit_kept_outputs(limit: int) -> None:
    """Keeps at most `limit` bytes from now on, and frees the rest; 0 keeps nothing.

    Raises ValueError for a negative limit.
    """
    if limit < 0:
        raise ValueError(f"limit is {limit}, but must not be negative")
    if "native" in available_backends():
        import_module("micronet_kernels._C").set_kept_buffer_limit(limit)
