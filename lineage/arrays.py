"""NumPy arrays as `.npy` files, which any NumPy reads; read back mapped, copied on write.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0 of the
format. The header is written here, so that it is the same with any version of NumPy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["NPY", "dump_array", "is_plain_array", "load_array", "map_private"]

NPY = "npy/1"

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT_BYTES = 64

#: The kinds of dtype whose items are their bytes: bool, ints, floats, complex, times, fixed texts.
_KINDS = "biufcmMSU"


def is_plain_array(value: Any) -> bool:
    """Whether a value is an array, no subclass, whose dtype says all there is to know of its items."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        return False
    dtype = value.dtype
    # The size of a longdouble depends on the platform; a dtype's own metadata has no place in a file.
    return (
        dtype.kind in _KINDS
        and dtype.itemsize > 0
        and dtype.metadata is None
        and dtype.char not in "gG"
        and dtype.newbyteorder("=").str == numpy.dtype(dtype.str).newbyteorder("=").str
    )


def dump_array(array: np.ndarray[Any, Any]) -> list[bytes | memoryview]:
    """Header and contents; the contents are a view into the array if it lies in memory without gaps."""
    import numpy as np

    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    if not is_fortran and not array.flags.c_contiguous:
        array = array.copy(order="C")
    flat = (array.T if is_fortran else array).reshape(-1)
    head = f"{{'descr': {array.dtype.str!r}, 'fortran_order': {is_fortran}, 'shape': {array.shape!r}, }}"
    unpadded = len(_MAGIC) + 2 + len(head) + 1
    head += " " * (-unpadded % _ALIGNMENT_BYTES) + "\n"
    header = _MAGIC + len(head).to_bytes(2, "little") + head.encode("ascii")
    return [header, flat.view(np.uint8).data]


def load_array(data: bytes | memoryview, path: str | None) -> np.ndarray[Any, Any]:
    """A plain array that can be changed; changes never reach the file. Raises: ValueError for other bytes."""
    import io

    import numpy as np
    from numpy.lib import format as npy

    view = memoryview(data)
    head = io.BytesIO(view[: 12 + int.from_bytes(view[8:10], "little")])
    if npy.read_magic(head) != (1, 0):
        raise ValueError("not version 1.0 of the npy format")
    shape, is_fortran, dtype = npy.read_array_header_1_0(head)
    if dtype.hasobject:
        raise ValueError("the array holds objects")
    count = 1
    for length in shape:
        count *= length
    start = head.tell()
    if view.nbytes != start + count * dtype.itemsize:
        raise ValueError("the array has another length than its header says")
    flat: np.ndarray[Any, Any]
    if path is None or count == 0:
        flat = np.frombuffer(bytearray(view[start:]), dtype=dtype)
    else:
        flat = np.frombuffer(map_private(path), dtype=dtype, count=count, offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def map_private(path: str) -> Any:
    """A file mapped so that changes stay in this process."""
    import mmap

    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
