"""Every family of kernels that surfaces are fitted for."""

from __future__ import annotations

from aicalib.calibrate.kernels import (
    attention,
    batched,
    comm,
    gemm,
    latent,
    linear,
    moe,
    quantize,
    scale,
    sparse,
)
from aicalib.calibrate.kernels.table import Table

FAMILIES: tuple[tuple[Table, ...], ...] = (
    gemm.TABLES, attention.TABLES, latent.TABLES, sparse.TABLES, linear.TABLES, moe.TABLES, comm.TABLES,
    quantize.TABLES, scale.TABLES, batched.TABLES,
)  # fmt: skip

TABLES: tuple[Table, ...] = tuple(table for family in FAMILIES for table in family)
