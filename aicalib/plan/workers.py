"""Work in chunks through joblib: in this process, on the cores of this machine, or on a Dask cluster.

The function and the chunks are the same everywhere, and results come in the order of the chunks, so that what is made
of them does not depend on who did the work. What a chunk needs travels with it by value: any worker may take any
chunk, also one that joined late or stands in for one that was lost, and none reads a file of this machine.
"""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from aicalib.errors import InvalidValue, NoWorkers, WorkLost

Common = TypeVar("Common")
Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

CONNECT_S: Final = 10.0
"""Seconds in which a scheduler must answer, and its first worker be there."""

AHEAD: Final = 4
"""Chunks in flight for each core: the next ones are there before the last is done, and a cluster may grow to as many
times its size."""

_DATA: Final = {".py", ".toml", ".json", ".csv", ".npz"}
_EXTRA: Final = "pip install 'aicalib[cluster]'"
_WORKING: Final = ("dask scheduler", "tcp://HOST:8786")


@dataclass(frozen=True)
class Where:
    """Where chunks are worked on.

    Attributes
    ----------
    jobs : int
        Processes of this machine; 1 is this process itself.
    scheduler : str, optional
        Address of a Dask scheduler, such as "tcp://10.0.0.1:8786", in place of them.
    """

    jobs: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidValue(f"jobs {self.jobs} is not a number of processes from 1 on", ["jobs 1"])
        if self.scheduler is not None and self.jobs > 1:
            raise InvalidValue("jobs are processes of this machine; a scheduler has workers of its own")


HERE: Final = Where()


def run(
    work: Callable[[Common, Chunk], Result], common: Common, chunks: Iterable[Chunk], where: Where = HERE
) -> Generator[Result]:
    """Work on chunks and yield the results in their order.

    Parameters
    ----------
    work : callable
        A function of a module, of what chunks have in common and of a chunk.
    common : object
        Pickled once, compressed, and sent with every chunk; a worker opens it once.
    chunks : iterable
        Taken as workers get free, so that there may be any number of them.
    where : Where

    Raises
    ------
    NoWorkers
        If the scheduler does not answer or has no worker, if a worker runs another aicalib, or without Dask.
    WorkLost
        If a chunk failed with its workers again and again, or the scheduler was lost; it says how many were done.

    Notes
    -----
    A chunk of a worker that is lost is given to another one, by Dask itself. Closing the generator, or an exception,
    takes back what was not begun.
    """
    if where == HERE:
        for chunk in chunks:
            yield work(common, chunk)
        return
    from joblib import Parallel, delayed

    carried = _pack(work, common)
    with ExitStack() as closing:
        backend: Any = "loky"
        if where.scheduler is not None:
            closing.enter_context(_quiet())
            client = closing.enter_context(connect(where.scheduler))
            check_workers(client, where.scheduler)
            backend = _dask_backend(client)
        parallel = Parallel(
            n_jobs=where.jobs,
            backend=backend,
            return_as="generator",
            batch_size=1,
            pre_dispatch=f"{AHEAD}*n_jobs",
        )
        # bytes, since joblib would leave anything else of this size with one worker, and lose it with that worker
        calls = (delayed(_call)(carried, pickle.dumps(chunk)) for chunk in chunks)
        results, done = parallel(calls), 0
        try:
            for result in results:
                yield result
                done += 1
        except WorkLost as error:
            gone = client.status != "running"
            what = f"the scheduler at {where.scheduler} was lost" if gone else str(error)
            told = f"{what}; {done} chunks were done, and nothing of them is kept: ask again"
            raise WorkLost(told) from error
        finally:
            with warnings.catch_warnings():
                # joblib warns of work that is thrown away, which is what stopping early is for.
                warnings.simplefilter("ignore")
                results.close()


@cache
def stamp() -> str:
    """Return the version of aicalib and a digest of its files, which tells apart what calls itself the same."""
    import aicalib

    root, digest = Path(aicalib.__file__).parent, sha256()
    for path in sorted(each for each in root.rglob("*") if each.suffix in _DATA):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return f"{aicalib.__version__} ({digest.hexdigest()[:12]})"


def connect(scheduler: str) -> Any:
    """Return a client of a Dask scheduler, to be used as a context: what it asked for is taken back at its end.

    Raises
    ------
    NoWorkers
        If Dask is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise NoWorkers(f"a scheduler needs Dask, which is not installed: {_EXTRA}", [_EXTRA]) from error
    if not re.fullmatch(r"\w+://.+:\d+", scheduler):
        # Dask looks for it for seconds, and then complains on stderr of what it could not close.
        raise NoWorkers(f"no scheduler answers at {scheduler}: an address is PROTOCOL://HOST:PORT", _WORKING)
    connected: Any = Client
    try:
        return connected(scheduler, timeout=CONNECT_S, set_as_default=False, name="aicalib")
    except (OSError, ValueError) as error:
        raise NoWorkers(f"no scheduler answers at {scheduler}: {error}", _WORKING) from error


def check_workers(client: Any, scheduler: str) -> None:
    """Wait for the first worker, and hold the aicalib of all of them and of the scheduler to that of this process.

    Raises
    ------
    NoWorkers
        Without a worker, or where one of them has another version.
    """
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        raise NoWorkers(
            f"the scheduler at {scheduler} has no worker", [f"dask worker {scheduler}"]
        ) from error
    try:
        # It opens what it passes on.
        found = {f"the scheduler at {scheduler}": client.run_on_scheduler(stamp)}
    except (ImportError, AttributeError) as error:
        found = {f"the scheduler at {scheduler}": error}
    found |= {f"worker {address}": each for address, each in client.run(stamp, on_error="return").items()}
    for who, theirs in found.items():
        if theirs != stamp():
            has = theirs if isinstance(theirs, str) else f"none that can be used ({_words(theirs)})"
            raise NoWorkers(
                f"{who} has another aicalib: {has}; this command is of {stamp()}, and versions are not mixed",
                ["install the same aicalib everywhere, then start scheduler and workers again"],
            )


def cores(where: Where) -> int:
    """Return how many chunks are worked on at a time.

    Raises
    ------
    NoWorkers
        As `run`.
    """
    if where.scheduler is None:
        return where.jobs
    with connect(where.scheduler) as client:
        check_workers(client, where.scheduler)
        return int(sum(client.ncores().values()))


def _pack(work: Callable[..., Any], common: object) -> bytes:
    return b"\n".join((stamp().encode(), zlib.compress(pickle.dumps((work, common)))))


@lru_cache(maxsize=2)
def _opened(carried: bytes) -> tuple[Callable[[Any, Any], Any], Any]:
    theirs, _, content = carried.partition(b"\n")
    if theirs.decode() != stamp():
        raise NoWorkers(f"a worker that joined late has aicalib {stamp()}; the work is of {theirs.decode()}")
    work, common = pickle.loads(zlib.decompress(content))
    return work, common


def _call(carried: bytes, chunk: bytes) -> Any:
    work, common = _opened(carried)
    return work(common, pickle.loads(chunk))


def _dask_backend(client: Any) -> Any:
    """Return joblib's Dask backend, told of chunks that fail outside of their function.

    It waits for ever for a chunk whose workers were lost more often than Dask allows, or that a worker could not
    unpickle: only what the function itself returns or raises reaches its callback.
    """
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise WorkLost(f"a chunk was lost on the cluster: {_words(out)}") from out
            return super().retrieve_result_callback(out)

    return Backend(client=client)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from printing what its client meets where a connection is lost: that is told as an error."""
    with suppress(ImportError):
        import distributed  # noqa: F401 - its first import sets the level that is changed here
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
