"""Who shares the work of a run: the threads of one process, or those of several, the ranks of an MPI job.

Every rank runs the same program. Shards are dealt out in turn; their gradients are added in shard order, each rank adding what
falls into its own part of the parameters. So results are the same, bit for bit, for any number of ranks and of threads. One
process is the one rank, and exchanges nothing.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")
Array = np.ndarray

BLOCK = 1024  # parts begin at its multiples, so that the loops over them are cut into vectors where those over the whole are


class Pool(Protocol):
    """What computes many things: the threads of a process, or ranks."""

    def map(self, fn: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        """fn of each item, in order."""
        ...


def owners(items: int, size: int) -> list[int]:
    """Which of so many ranks computes each of some items: 0 1 2 2 1 0 0 1 2 ..., since shards come sorted by their length."""
    there, back = range(size), range(size)[::-1]
    return [(back if k // size % 2 else there)[k % size] for k in range(items)]


class Ranks:
    """This process among those that train together. Ranks call the same methods in the same order, each in its main thread.

    pool: the threads of this process. comm: mpi4py's communicator, or None for one process. rank, size: which of how many.
    stopped: whether this rank was told to stop; all do, together, by KeyboardInterrupt, in the next ``every`` or ``first``.
    """

    def __init__(self, pool: ThreadPoolExecutor, comm: Any = None, stopped: Callable[[], bool] = lambda: False) -> None:
        self.pool, self.comm, self.stopped = pool, comm, stopped
        self.rank, self.size = (0, 1) if comm is None else (comm.rank, comm.size)

    def map(self, fn: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
        """fn of each item, in order, on every rank; each computes its share. For small results, which are pickled."""
        results = self.pool.map(fn, self._own(items))
        return results if self.comm is None else self._dealt(self.comm.allgather(list(results)), len(items))

    def begun(self, items: Sequence[Item], fn: Callable[[Item], Item], most: int) -> list[Item]:
        """The items, of which those of this rank's share, but no more than so many, are what fn makes of them."""
        mine = [k for k, owner in enumerate(owners(len(items), self.size)) if owner == self.rank][:most]
        return [fn(item) if k in mine else item for k, item in enumerate(items)]

    def total(
        self,
        fn: Callable[[Item], tuple[float, Array]],
        items: Sequence[Item],
        like: Array,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[float, Array]:
        """The sum over the items, in order, of fn: of its numbers, and of this rank's part of its vectors.

        like (P,): of the vectors' size and type. From each rank to each go the sender's vectors cut to the receiver's part.
        meanwhile: is called when all threads have been given their items.
        """
        computed: Iterable[tuple[float, Array]] = self.pool.map(fn, self._own(items))
        meanwhile()
        if self.comm is not None:
            computed = self._exchanged(list(computed), len(items), like)
        value, vector = 0.0, np.zeros_like(like[self.part(like.size)])
        for one_value, one_vector in computed:
            value += one_value
            vector += one_vector
        return value, vector

    def _exchanged(self, mine: list[tuple[float, Array]], items: int, like: Array) -> Iterator[tuple[float, Array]]:
        """Of every item its number and this rank's part of its vector, in order."""
        cuts, width = self._cuts(like.size), like[self.part(like.size)].size
        counts = [owners(items, self.size).count(rank) for rank in range(self.size)]
        sent = np.concatenate([like[:0], *(vector[a:b] for a, b in itertools.pairwise(cuts) for _, vector in mine)])
        received = np.empty((items, width), like.dtype)
        self.comm.Alltoallv(
            [sent, [len(mine) * (b - a) for a, b in itertools.pairwise(cuts)]], [received, [count * width for count in counts]]
        )
        vectors = np.split(received, np.cumsum(counts)[:-1])
        values = self.comm.allgather([value for value, _ in mine])
        return zip(self._dealt(values, items), self._dealt(vectors, items), strict=True)

    def _own(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share."""
        return [item for item, owner in zip(items, owners(len(items), self.size), strict=True) if owner == self.rank]

    def _dealt(self, each: Sequence[Any], items: int) -> Iterator[Any]:
        """What each rank has of its share, in the order of the items."""
        return (each[owner][k // self.size] for k, owner in enumerate(owners(items, self.size)))

    def _cuts(self, size: int) -> list[int]:
        """Where the ranks' parts of a vector begin and end, (size + 1,)."""
        blocks = -(-size // BLOCK)
        return [min(size, rank * blocks // self.size * BLOCK) for rank in range(self.size + 1)]

    def part(self, size: int) -> slice:
        """What this rank owns of a vector of some size."""
        return slice(*self._cuts(size)[self.rank : self.rank + 2])

    def gather(self, vector: Array) -> None:
        """Have all parts of a vector (P,), each from the rank that owns it; in place."""
        if self.comm is not None:
            widths = np.diff(self._cuts(vector.size)).tolist()
            self.comm.Allgatherv(vector[self.part(vector.size)].copy(), [vector, widths])

    def whole(self, part: Array, size: int) -> Array:
        """The vector of some size of which each rank has its part."""
        vector = np.empty(size, part.dtype)
        vector[self.part(size)] = part
        self.gather(vector)
        return vector

    def every(self, fact: Any) -> bool:
        """Whether it is true on every rank."""
        if self.comm is None:
            return bool(fact)
        facts, stopped = zip(*self.comm.allgather((bool(fact), self.stopped())), strict=True)
        if any(stopped):
            raise KeyboardInterrupt
        return all(facts)

    def first(self, fn: Callable[..., Result], *args: Any) -> Result:
        """What fn returns or raises, called on rank 0 only, for every rank. Others sleep meanwhile: it may take long."""
        if self.comm is None:
            return fn(*args)
        found: Any = None
        error: BaseException | None = None
        if self.rank == 0:
            try:
                found = fn(*args)
            except Exception as problem:
                error = problem
            if self.stopped():
                error = KeyboardInterrupt()
        done = self.comm.Ibarrier()
        while not done.Test():
            time.sleep(0.001)
        if self.rank == 0:
            self.comm.bcast((found, error))
        else:
            found, error = self.comm.bcast(None)
        if error is not None:
            raise error
        return found

    def unlike(self, value: Any) -> list[str]:
        """The ranks whose value is not that of rank 0, such as ["rank 2 on node7"]."""
        if self.comm is None:
            return []
        each = self.comm.allgather((value, socket.gethostname()))
        return [f"rank {rank} on {host}" for rank, (other, host) in enumerate(each) if other != each[0][0]]
