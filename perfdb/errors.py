"""The errors that perfdb raises on purpose.

StoreError                  base of all of them; `kind` is a short word for programs
├── NotAStore               no such file, or a file that is not a measurement store
├── NewerSchema             the store was written by a newer version
├── OlderSchema             the store lacks a migration and was opened read-only
├── StoreBusy               another process holds the store; `pid` where it is known
├── ReadOnlyStore           a write to a store that cannot be written
├── DamagedStore            a store whose file is damaged
├── StorageFull             no room on the disk
├── MemoryExceeded          more memory than a store may use
├── NotAnExport             a folder that is no whole export of a store
├── FolderTaken             a folder to export into that holds something else
├── NothingChosen           a condition that no run meets
├── QueryRefused            a query that writes, or that the database does not understand
├── UnknownProfile          no profile of that name and version
├── ProfileExists           that version of the profile is stored with another content
├── UnknownFormat           a file that no reader knows
├── SidecarError            a TOML file of context that cannot be used
├── ContextRefused          context for a file that says all of it itself
├── FlagsFileError          a line of a flags file that cannot be applied
└── PredictionsRefused      predictions of stored runs that cannot be kept
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors that perfdb raises on purpose."""

    kind = "store"


class NotAStore(StoreError):
    """No such file, or a file that is not a measurement store."""

    kind = "not_a_store"


class NewerSchema(StoreError):
    """The store holds a migration that this version does not know."""

    kind = "newer_schema"


class OlderSchema(StoreError):
    """The store lacks a migration and cannot be brought up to date read-only."""

    kind = "older_schema"


class StoreBusy(StoreError):
    """Another process holds the store.

    Parameters
    ----------
    message : str
        Names the file and the holder.
    pid : int or None
        Process that holds the file, where DuckDB says so.
    """

    kind = "store_busy"

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class ReadOnlyStore(StoreError):
    """A write to a store that cannot be written."""

    kind = "read_only"


class DamagedStore(StoreError):
    """A store whose file is damaged."""

    kind = "damaged_store"


class StorageFull(StoreError):
    """No room on the disk."""

    kind = "storage_full"


class MemoryExceeded(StoreError):
    """An operation that needs more memory than a store may use, and no room on the disk in its place."""

    kind = "memory_exceeded"


class NotAnExport(StoreError):
    """A folder that is no whole export of a store."""

    kind = "not_an_export"


class FolderTaken(StoreError):
    """A folder to export into that holds something else."""

    kind = "folder_taken"


class NothingChosen(StoreError):
    """A condition that no run meets."""

    kind = "nothing_chosen"


class QueryRefused(StoreError):
    """A query that writes, or that the database does not understand."""

    kind = "query_refused"


class UnknownProfile(StoreError):
    """No profile of that name and version."""

    kind = "unknown_profile"


class ProfileExists(StoreError):
    """That version of the profile is stored with another content."""

    kind = "profile_exists"


class UnknownFormat(StoreError):
    """A file that no reader knows."""

    kind = "unknown_format"


class SidecarError(StoreError):
    """A TOML file of context beside a result file that cannot be used."""

    kind = "sidecar"


class ContextRefused(StoreError):
    """Context for a file that says all of it itself."""

    kind = "context_refused"


class FlagsFileError(StoreError):
    """A line of a flags file that cannot be applied."""

    kind = "flags_file"


class PredictionsRefused(StoreError):
    """Predictions of stored runs that lack a column, name an unknown metric or say something twice."""

    kind = "predictions_refused"
