"""Encode, prefill and decode of bundles, interleaved in one run: `python bench/peers/int8_speed.py FLOAT INT8 ...`.

Every round runs each bundle once on the same random frames and the same prompt; printed are medians over the rounds and how
many times faster each bundle is than the first one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from leo_edge.runtime.pipeline import Pipeline, open_pipeline

STAGES = ("encode", "prefill", "decode")


def measure(pipeline: Pipeline, frames: FrameSet, prompt_len: int, steps: int) -> tuple[float, float, float]:
    """Seconds of encoding a frame set, of a prefill of `prompt_len` tokens, and of one decoding step after it."""
    start = perf_counter()
    tokens = pipeline.encode(frames)
    encoded = perf_counter()
    prepared = pipeline.prepare(tokens, "What is ahead?", steps)
    repeats = -(-prompt_len // len(prepared.embeds))
    embeds = np.concatenate([prepared.embeds] * repeats)[:prompt_len]
    ready = perf_counter()
    token_id = int(pipeline.decoder.prefill(embeds, prepared.routing).argmax())
    filled = perf_counter()
    for _ in range(steps):
        token_id = int(pipeline.decoder.step(token_id).argmax())
    return encoded - start, filled - ready, (perf_counter() - filled) / steps


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    channels = NUSCENES_CAMERAS[: args.cameras]
    images = [random.integers(0, 256, (900, 1600, 3), dtype=np.uint8) for _ in channels]
    frames = FrameSet.of(map(CameraFrame, channels, images), expected_channels=channels)
    pipelines = [open_pipeline(bundle, threads=args.threads) for bundle in args.bundles]
    times: list[list[tuple[float, float, float]]] = [[] for _ in pipelines]
    for number in range(args.rounds + 1):  # the first round warms up
        for pipeline, kept in zip(pipelines, times, strict=True):
            kept.append(measure(pipeline, frames, args.prompt, args.steps))
        print(f"round {number} of {args.rounds}", flush=True)
    print(f"\n{'bundle':<32}{'MB':>8}" + "".join(f"{stage + ', ms':>14}{'ratio':>7}" for stage in STAGES))
    base = [median(row[i] for row in times[0][1:]) for i in range(3)]
    for pipeline, kept in zip(pipelines, times, strict=True):
        medians = [median(row[i] for row in kept[1:]) for i in range(3)]
        cells = "".join(f"{1e3 * mine:>14.1f}{first / mine:>7.2f}" for mine, first in zip(medians, base, strict=True))
        print(f"{str(pipeline.bundle.directory)[-31:]:<32}{pipeline.bundle.size_bytes() / 1e6:>8.0f}{cells}")


if __name__ == "__main__":
    main()
