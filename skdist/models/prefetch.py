"""Ask the processor for rows before they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from skdist.models.compile import inlined

#: Bytes that come together.
LINE_BYTES = 64

#: Rows of more bytes come as fast without being asked for.
LONG_BYTES = 2048


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Start to load the cache line at an address, for reading, into the second cache, and go on without it.

    The first cache is full of the rows that are worked on.

    Any address will do: one that is not mapped is not loaded.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        # For reading, not to be kept in the first cache, data.
        builder.call(function, [pointer, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@inlined
def prefetch_rows(address: Any, n_rows: int, row_bytes: int) -> None:
    """Start to load some rows that follow one another in memory, where that is of use."""
    if row_bytes <= LONG_BYTES:
        for offset in range(0, n_rows * row_bytes, LINE_BYTES):
            prefetch(address + np.uintp(offset))
