"""The same work for many subjects, in several processes."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from mudiff.errors import MudiffError


def each_subject(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, label: str, progress: bool = True
) -> Iterator[tuple[tuple, Any]]:
    """Yield every job with ``function(*job)`` or the MudiffError it raised, in the order they finish.

    Raises
    ------
    MudiffError
        If a process dies, most likely for want of memory.
    """
    bar = tqdm(total=len(jobs), desc=label, unit="subject", disable=None if progress else True)
    with bar:
        if min(workers, len(jobs)) <= 1:
            for job in jobs:
                yield job, _attempt(function, job)
                bar.update()
            return
        # "spawn": forked children of a process that runs torch or Jupyter threads can hang.
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
        try:
            futures = {pool.submit(_attempt, function, job): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
                bar.update()
        except concurrent.futures.process.BrokenProcessPool:
            raise MudiffError(
                f"{label}: a process died, probably for want of memory; run it again with fewer workers "
                "(finished subjects are kept)."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(function: Callable[..., Any], job: tuple) -> Any:
    try:
        return function(*job)
    except MudiffError as error:
        return error
