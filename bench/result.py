"""What a benchmark found, as a JSON file: every sample, what was asked of the bundle, and the machine that it ran on.

Times of one index belong to one round of the benchmark: all stages of it saw the same state of the machine. Where two bundles
or commands were measured in turns (`leo-edge bench --vs`), each has a file of its own, and the same round stands at the same
index of both.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leo_edge.runtime.manifest import from_json, read_versioned

FORMAT_VERSION = 1
# How often a stage runs.
PER = ("frame set", "question", "token")
# What is asked where nothing is said: by benchmarks, and by what predicts and counts.
QUESTION = "What should the vehicle do next, and why?"


@dataclass(frozen=True)
class StageSamples:
    """How long one stage took, in milliseconds, one entry a round.

    per: one of `PER`. A stage per token holds the mean over the answer's tokens, the first not counted.
    flops, moved_bytes: of one run, counted from the graphs; None where nothing counts them.
    precision: of most of its products, "int8", "float32" or "float16"; None where it has none.
    """

    per: str
    samples_ms: tuple[float, ...]
    flops: int | None = None
    moved_bytes: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise ValueError(f"per must be one of {', '.join(PER)}, got {self.per!r}")
        if not self.samples_ms or min(self.samples_ms) < 0:
            raise ValueError("a stage needs samples of at least 0 ms")


@dataclass(frozen=True)
class Load:
    """What each round asked of the bundle: one question about one frame set.

    text_tokens: all of the prompt that is not visual; question_tokens: those of the question alone.
    """

    cameras: int
    tiles_per_camera: int
    image_px: tuple[int, ...]
    visual_tokens: int
    text_tokens: int
    question_tokens: int
    answer_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.visual_tokens + self.text_tokens

    def differences(self, wanted: Mapping[str, object]) -> str:
        """Says which fields are not as `wanted`, by name; empty where all are."""
        found = dataclasses.asdict(self)
        return ", ".join(f"{name} {found[name]}, expected {value}" for name, value in wanted.items() if found[name] != value)


@dataclass(frozen=True)
class Machine:
    """Where it ran. Speeds are measured there and then; None where they could not be.

    clocks_mhz: of each CPU, before and after; power_mode: a Jetson's, or the CPU governor.
    read_gb_s: memory read by all threads, in 1e9 bytes per second; gemm_*_gops: the best product, in 1e9 operations per second.
    """

    device: str
    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    system: str
    power_mode: str | None
    clocks_mhz: tuple[float, ...]
    read_gb_s: float | None
    gemm_fp32_gops: float | None
    gemm_int8_gops: float | None


@dataclass(frozen=True)
class BenchResult:
    """One benchmark of one bundle.

    run_id: of this run of the command; results that were measured in turns, round by round, share it.
    stages: by name, in the order of the data; those of the pipeline's spans, and `decode` for one token of it. Beside them
    `first_token` (from the question) and `answer` (the whole: encode and ask).
    sustained_sets_per_s: whole frame sets with their answer per second, one after the other.
    savings: whether an answer could reuse what one before it did (`leo_edge.runtime.pipeline.Savings`).
    """

    format_version: int
    run_id: str
    bundle: str
    bundle_id: str
    precision: str
    backend: str
    versions: Mapping[str, str]
    machine: Machine
    load: Load
    warm_up_ms: tuple[float, ...]
    stages: Mapping[str, StageSamples]
    sustained_sets_per_s: float
    peak_memory_bytes: int
    savings: bool = False

    def to_json(self) -> str:
        """Returns the text of a result file."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_result(path: str | os.PathLike[str]) -> BenchResult:
    """Reads a result file.

    Raises:
        LeoEdgeError: it is absent, not JSON, of another format, or a field is missing, unknown or wrong.
    """
    mend = "write it with leo-edge bench BUNDLE --json FILE"
    parse = partial(from_json, BenchResult, where="result")
    return read_versioned(Path(path), FORMAT_VERSION, parse, name=f"result {path}", mend=mend)
