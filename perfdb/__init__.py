"""The measurement store: benchmark files in, one row a run out.

`Store` keeps runs in one DuckDB file; `read_records` reads a benchmark file without a store. Nothing here
knows physics: strings and numbers only.
"""

from perfdb.absorb import IngestReport
from perfdb.errors import (
    ContextRefused,
    DamagedStore,
    FlagsFileError,
    FolderTaken,
    MemoryExceeded,
    NewerSchema,
    NotAnExport,
    NotAStore,
    NothingChosen,
    OlderSchema,
    ProfileExists,
    QueryRefused,
    ReadOnlyStore,
    SidecarError,
    StorageFull,
    StoreBusy,
    StoreError,
    UnknownFormat,
    UnknownProfile,
)
from perfdb.files import ReadResult, read_records, run_ids
from perfdb.flags import FlagsApplied
from perfdb.record import Record, Rejection, Remark
from perfdb.store import Store

__all__ = [
    "ContextRefused",
    "DamagedStore",
    "FlagsApplied",
    "FlagsFileError",
    "FolderTaken",
    "IngestReport",
    "MemoryExceeded",
    "NewerSchema",
    "NotAStore",
    "NotAnExport",
    "NothingChosen",
    "OlderSchema",
    "ProfileExists",
    "QueryRefused",
    "ReadOnlyStore",
    "ReadResult",
    "Record",
    "Rejection",
    "Remark",
    "SidecarError",
    "StorageFull",
    "Store",
    "StoreBusy",
    "StoreError",
    "UnknownFormat",
    "UnknownProfile",
    "read_records",
    "run_ids",
]
