"""The measurement store: benchmark files in, one row a run out.

`Store` keeps runs in one DuckDB file; `read_records` reads a benchmark file without a store. Nothing here
knows physics: strings and numbers only.
"""

from perfdb.errors import (
    ContextRefused,
    FlagsFileError,
    NewerSchema,
    NotAStore,
    OlderSchema,
    ProfileExists,
    QueryRefused,
    ReadOnlyStore,
    StoreBusy,
    StoreError,
    UnknownFormat,
    UnknownProfile,
)
from perfdb.ingest import IngestReport
from perfdb.readers import ReadResult, read_records
from perfdb.record import Record, Rejection, Remark, Run
from perfdb.store import FlagsApplied, Store

__all__ = [
    "ContextRefused",
    "FlagsApplied",
    "FlagsFileError",
    "IngestReport",
    "NewerSchema",
    "NotAStore",
    "OlderSchema",
    "ProfileExists",
    "QueryRefused",
    "ReadOnlyStore",
    "ReadResult",
    "Record",
    "Rejection",
    "Remark",
    "Run",
    "Store",
    "StoreBusy",
    "StoreError",
    "UnknownFormat",
    "UnknownProfile",
    "read_records",
]
