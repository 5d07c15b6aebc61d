"""Time the same work done by several contestants, in turns, so that a busy moment of the machine hits them all."""

import re
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Contestant(NamedTuple):
    """One way to do the work. Both functions can be pickled: peak memory is taken in a process of its own."""

    name: str
    package: str  # the distribution whose version is recorded
    prepare: Callable[[], Any]  # reading and construction, timed apart
    work: Callable[[Any], Any]  # the timed part, given what prepare returned


def contest(contestants: list[Contestant], *, repetitions: int = 5, pieces: int = 1) -> tuple[list[dict], list[Any]]:
    """A row of measurements and the last answer of each contestant; the first one is the measure of the others.

    The work is done once unmeasured, then ``repetitions`` times by each contestant in turn; times are for one of its
    ``pieces``. A contestant whose package is not installed gets a row that says so, and the answer None.
    """
    rows, prepared = [], []
    for contestant in contestants:
        row = {"model": contestant.name, "package": contestant.package, "version": _version(contestant.package)}
        if row["version"] is None:
            rows.append(row | {"source": "not installed"})
            prepared.append(None)
            continue
        row |= {"source": "measured", "peak_memory_mib": _peak_memory(contestant)}
        contestant.prepare()  # once unmeasured: imports
        start = time.perf_counter()
        prepared.append(contestant.prepare())
        rows.append(row | {"prepare_seconds": time.perf_counter() - start})
    present = [i for i, row in enumerate(rows) if row["source"] == "measured"]
    answers: list[Any] = [None] * len(rows)
    for i in present:
        contestants[i].work(prepared[i])
    seconds = {i: {"wall": [], "cpu": []} for i in present}
    for _ in range(repetitions):
        for i in present:
            wall, cpu = time.perf_counter(), time.process_time()
            answers[i] = contestants[i].work(prepared[i])
            seconds[i]["wall"].append((time.perf_counter() - wall) / pieces)
            seconds[i]["cpu"].append((time.process_time() - cpu) / pieces)
    for i in present:
        for clock, values in seconds[i].items():
            for name, value in (("min", min(values)), ("median", statistics.median(values)), ("max", max(values))):
                rows[i][f"{clock}_seconds_{name}"] = value
        rows[i]["repetitions"] = repetitions
        if 0 in seconds:
            rows[i]["times_ours"] = rows[i]["wall_seconds_median"] / rows[0]["wall_seconds_median"]
    return rows, answers


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _peak_memory(contestant: Contestant) -> float:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, contestant.prepare, contestant.work).result()


def _peak_memory_here(prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
    torch.set_num_threads(1)
    work(prepare())
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, where this is in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # On Linux the same number starts at the parent's peak, which is another contestant's memory.
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
