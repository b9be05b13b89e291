"""The processes of one command and what they tell each other: the whole interface is `Group`.

    group = world()                       # of torchrun's environment; a group of one without it
    with group.together():                # an error on one rank is the same error on every rank
        share = items[group.rank :: group.size]
        ...                               # group.check() now and then in long work
        found = group.gather(result)      # small Python objects, one of each rank
        group.sum_(tensor)                # tensors: gloo on the CPU, NCCL on CUDA

Objects, errors and signs of life go through the key-value store that the launcher keeps; the
process group for tensors is made when the first tensor is exchanged, and not before.

*Errors.* A rank that raises inside `together()` says so in the store. The others see it where they
wait for anything, and in `check()`, leave the block too, and all of them raise one and the same
error. After that the group can be used again: a list of jobs goes on with the next one.

*Death.* torchrun ends the other processes when one has died. Beside that every rank leaves a sign
of life in the store, from a thread of its own; who waits for a rank that has been silent for
`PATIENCE` seconds raises. Waiting itself has no limit: another share may take hours longer.

Collectives (`gather`, `broadcast`, `sum_`, `gather_tensors`, the ends of `together`) must be called
by all ranks in the same order, as ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from spectra.errors import SpectraError, UsageError
from spectra.parallel.launched import Place, place
from spectra.parallel.outcome import ElsewhereError, Outcome, agreed
from spectra.parallel.post import Post

T = TypeVar("T")

JOINING = timedelta(minutes=10)  # for the launcher's store to be there
SPIN, NAP, LOOK = 2e-3, 5e-4, 0.5  # seconds: of busy waiting, between looks, between checks


class Group:
    """The ranks of one command.

    Attributes:
        rank, size: Of this process and of the group.
        local_rank, local_size: The same among the processes of this machine.
    """

    def __init__(self, found: Place) -> None:
        self.rank, self.size = found.rank, found.size
        self.local_rank, self.local_size = found.local_rank, found.local_size
        self._depth = 0
        self._post: Post | None = None

    @property
    def speaks(self) -> bool:
        """Whether this is the rank that prints and writes: rank 0."""
        return self.rank == 0

    # -- small Python objects ------------------------------------------------------------------

    def gather(self, value: T, *, meanwhile: Callable[[], None] | None = None) -> list[T]:
        """Return the values of all ranks, in their order, on every rank.

        Args:
            value: Anything small that pickles.
            meanwhile: Called about once a second while others are waited for.

        Raises:
            SpectraError: If another rank has failed or is gone.
        """
        return [value] if self.size == 1 else self._mail().exchange(value, meanwhile)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        return self.gather(value if self.speaks else None)[0]  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """Return on every rank what `work` returns on rank 0, where alone it is called."""
        return self.broadcast(work() if self.speaks else None)  # type: ignore[return-value]

    def check(self) -> None:
        """Raise if another rank has failed; cheap enough for every product (0.1 ms)."""
        if self.size > 1:
            self._mail().check()

    # -- tensors -------------------------------------------------------------------------------

    @property
    def process_group(self) -> Any:
        """Torch's process group, made now if need be; None in a group of one.

        For collectives that are not here: pass `async_op=True` and hand the work to `finish`.
        """
        if self.size == 1:
            return None
        if not dist.is_initialized():
            self.gather(None)  # making it would wait for a rank that has failed before
            backend = "gloo"
            if self.local_size <= torch.cuda.device_count():  # else they work on the processors
                backend = "cpu:gloo,cuda:nccl"
                torch.cuda.set_device(self._cuda())
            dist.init_process_group(
                backend, store=self._mail().fresh(), rank=self.rank, world_size=self.size
            )
        return dist.group.WORLD

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its sum over ranks, and return it; the same bits on every rank."""
        if self.size > 1:
            group = self.process_group
            self.finish(dist.all_reduce(tensor, group=group, async_op=True))
        return tensor

    def gather_tensors(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors of all ranks, of equal shape and type, in their order."""
        if self.size == 1:
            return [tensor]
        group, found = self.process_group, [torch.empty_like(tensor) for _ in range(self.size)]
        self.finish(dist.all_gather(found, tensor.contiguous(), group=group, async_op=True))
        return found

    def finish(self, work: Any) -> None:
        """Wait for a collective that was begun with `async_op=True`, and for no failed rank.

        Raises:
            SpectraError: If another rank has failed or is gone.
        """
        began = looked = time.monotonic()
        while not work.is_completed():
            now = time.monotonic()
            if now - began > SPIN:
                time.sleep(NAP)
            if now - looked > LOOK:
                looked = now
                self._mail().check(alive=True)
        try:
            work.wait()
        except RuntimeError as error:
            self._mail().check()
            reason = str(error).splitlines()[0]
            raise SpectraError(f"a rank broke off an exchange of tensors: {reason}") from None

    # -- devices -------------------------------------------------------------------------------

    def device(self, asked: str) -> str:
        """Return the device of this rank: where `asked` is auto or cuda, `cuda:LOCAL_RANK`.

        Raises:
            UsageError: If the machine has fewer GPUs than ranks, or one GPU is asked for by number.
        """
        if self.size == 1 or not (asked == "cuda" or asked.startswith("cuda:") or asked == "auto"):
            return asked
        if asked.startswith("cuda:"):
            raise UsageError(
                f"device={asked!r} is one GPU and {self.size} processes were launched; pass "
                "--device cuda, which gives each process its own."
            )
        if not torch.cuda.is_available():
            return "cpu" if asked == "auto" else asked
        return str(self._cuda())

    def _cuda(self) -> torch.device:
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UsageError(
                f"{self.local_size} processes were launched on a machine with {count} visible "
                f"GPUs; pass --nproc-per-node {count}, or --device cpu."
            )
        return torch.device("cuda", self.local_rank)

    # -- errors --------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make an error of one rank, within this block, the same error of all; blocks may nest.

        All ranks have left the block when it ends, in whichever way. Of several errors the one of
        the lowest rank is raised; what is no `SpectraError` keeps its own type and traceback on the
        rank that raised it.
        """
        if self.size == 1 or self._depth:
            yield
            return
        post = self._mail()
        post.begin()
        self._depth, mine, raised = 1, Outcome(), None
        try:
            yield
        except ElsewhereError as error:
            mine = Outcome.echo(error)
        except BaseException as error:
            raised, mine = error, Outcome.of(error)
        finally:
            self._depth = 0
        everyone = post.end(mine, wait=raised is None or isinstance(raised, Exception))
        if any(outcome.failed for outcome in everyone):
            if dist.is_initialized() and post.made_group:
                dist.destroy_process_group()  # with it, collectives that others never joined
            raise agreed(everyone, raised, self.rank)

    def leave(self) -> None:
        """Wait, after a failure, until rank 0 has said so: the launcher ends all when one ends."""
        if self.size > 1:
            self._mail().leave()

    def _mail(self) -> Post:
        if self._post is None:
            self._post = Post.join(self.rank, self.size, JOINING)
        return self._post


@cache
def world() -> Group:
    """Return the group of this process: that of torchrun, or a group of one."""
    return Group(place())
