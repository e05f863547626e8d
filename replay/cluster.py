"""Replays drives on a Ray cluster: one task a drive, begun again elsewhere when its worker is lost.

A worker opens the job from the same paths as a local run and must find the same bundle, drives and questions there. Its answers
come back as they are and are written by the one process that called, in the order of the drives.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from leo_edge.replay.run_files import Json, Outcome
from leo_edge.replay.session import OpenReplay, Part, ReplayJob
from leo_edge.runtime.errors import ClusterError, DatasetError

LOCAL = "local"
"""The address of a cluster that is started for one replay, on this machine."""
_MOST_RETRIES = 3
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster. `workers` is how many drives are played at once at most; None: as many as there are CPUs for.

    A worker's engine has the job's number of threads, or one.
    """

    address: str
    workers: int | None = None

    def play(self, replay: OpenReplay, parts: Sequence[Part]) -> Iterator[Outcome]:
        """Yields what each drive adds to a run's files, in the order of `parts`.

        Raises:
            ClusterError: the cluster is out of reach, or a drive has cost a worker each time that it was tried.
            LeoEdgeError: something is missing or broken on a worker.
        """
        threads = max(1, replay.job.threads)
        job = dataclasses.replace(replay.job, threads=threads)
        with _connected(self.address, self.workers, threads):
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            most = self.workers or max(1, int(resources.get("CPU", 1)) // threads)
            task = ray.remote(num_cpus=threads, max_retries=_MOST_RETRIES)(play_part)
            arguments = [(job, replay.identity(), part) for part in parts]
            for outcomes in _in_order(task, arguments, most):
                yield from outcomes


def play_part(job: ReplayJob, identity: Json, part: Part) -> list[Outcome]:
    """What a worker does: plays one part of the replay that has this `identity` where it was asked for.

    Raises:
        LeoEdgeError: something is missing or broken here, or is not what it is there.
    """
    replay = _opened(job)
    here = replay.identity()
    if other := [key for key in identity if here.get(key) != identity[key]]:
        raise DatasetError(
            f"{', '.join(other)} of the replay differ on {os.uname().nodename}: copy the same files to every node"
        )
    return list(replay.play(part.drive, part.after_set))


@lru_cache(maxsize=1)
def _opened(job: ReplayJob) -> OpenReplay:
    """Ray gives a process one task after another: it opens the job once."""
    return OpenReplay(job)


def _in_order(task: Any, arguments: Sequence[tuple[object, ...]], most: int) -> Iterator[list[Outcome]]:
    """Runs a task for each of `arguments`, at most `most` at once; yields the results in order."""
    begun: list[Any] = []
    running: list[Any] = []
    for i in range(len(arguments)):
        while len(begun) <= i or begun[i] in running:
            for one in arguments[len(begun) : len(begun) + most - len(running)]:
                begun.append(task.remote(*one))
                running.append(begun[-1])
            _, running = ray.wait(running)
        yield _result(begun[i])


def _result(reference: Any) -> list[Outcome]:
    try:
        outcomes: list[Outcome] = ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(f"a drive's worker was lost {1 + _MOST_RETRIES} times ({reason}): is its memory enough?") from error
    return outcomes


@contextmanager
def _connected(address: str, workers: int | None, threads: int) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers and workers * threads} if address == LOCAL else {}
    with redirect_stdout(sys.stderr):  # where Ray says that a worker died
        try:
            _check_reachable(address)
            context = ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ClusterError(f"cannot reach a Ray cluster at {address} ({reason}): start one, or give --ray local") from error
        with context:
            yield


def _check_reachable(address: str) -> None:
    """Tries an address of the form [ray://]HOST:PORT, since Ray itself tries for minutes and then ends the process."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d{1,5})", address):
        socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_TIMEOUT_S).close()
