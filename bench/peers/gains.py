"""What each optimisation on a CPU gains, left out one at a time: `python bench/peers/gains.py BUNDLE --demo DEMO`, see -h.

BUNDLE is an INT8 bundle of a size that matters, such as `leo-mini-0.5b`; DEMO the trained one of `leo-edge demo`, whose answers
mean something: of random weights no answer repeats another. Every round runs each variant once, in an order drawn anew; printed
are medians, how many times longer the work takes without the optimisation, and a bootstrap interval of 95 % over the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from leo_edge.bench.regression import ratio_interval
from leo_edge.export.cpu_form.form import REWRITES
from leo_edge.export.cpu_form.write import make_cpu_form
from leo_edge.runtime.backend import Decoder
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from leo_edge.runtime.manifest import GraphSpec
from leo_edge.runtime.ort import OrtSession, open_decoder
from leo_edge.runtime.pipeline import AskOptions, Pipeline, Savings, open_pipeline

Work = Callable[[], dict[str, float]]
Form = tuple[GraphSpec, bytes | None]


@dataclass
class Variant:
    """One way to do a piece of work, and how long it took, by stage, in milliseconds."""

    name: str
    work: Work
    samples: dict[str, list[float]] = field(default_factory=dict)


def without(bundle: Bundle, name: str, rewrite: str) -> Form:
    """Returns a graph's CPU form without one of its rewrites."""
    rest = [one for one in REWRITES if one != rewrite]
    made = make_cpu_form(bundle.directory, bundle.manifest, name, rest)
    assert made is not None
    return made


class Llm:
    """A prompt of `prompt_len` tokens, then `steps` tokens behind it."""

    def __init__(self, bundle: Bundle, args: argparse.Namespace, **options: Any) -> None:
        self._decoder: Decoder = open_decoder(
            bundle, EmbeddingTable(bundle.path(bundle.manifest.embedding)), threads=args.threads, **options
        )
        generator = np.random.default_rng(0)
        self._embeds = generator.normal(0, 0.02, (args.prompt, bundle.manifest.decoder.hidden_size)).astype(np.float32)
        shapes = {port.name: port.shape for port in bundle.manifest.graphs["llm"].inputs}
        self._routing = {
            name: np.ones(shapes[name], np.float32) for name in ("router_context", "use_special") if name in shapes
        }
        self._steps = args.steps

    def __call__(self) -> dict[str, float]:
        """Runs it once."""
        start = perf_counter()
        self._decoder.prefill(self._embeds, self._routing)
        filled = perf_counter()
        for token_id in range(self._steps):
            self._decoder.step(token_id)
        return {"prefill": 1e3 * (filled - start), "decode": 1e3 * (perf_counter() - filled) / self._steps}


class Expert:
    """A vision expert on one tile."""

    def __init__(self, bundle: Bundle, name: str, args: argparse.Namespace, form: Form | None = None, **options: bool) -> None:
        spec, model = form or (bundle.manifest.cpu_forms.get(name, bundle.manifest.graphs[name]), None)
        path, int8, px = bundle.directory / spec.file, bundle.manifest.quantized, bundle.manifest.tiling.tile_px
        self._session = OrtSession(path, spec, threads=args.threads, int8=int8, model=model, **options)
        self._tiles = np.random.default_rng(0).integers(0, 256, (1, px, px, 3), dtype=np.uint8)

    def __call__(self) -> dict[str, float]:
        """Runs it once."""
        start = perf_counter()
        self._session.run({"tiles": self._tiles})
        return {"tile": 1e3 * (perf_counter() - start)}


class OwnProcess:
    """Work in a process of its own, which is idle between two runs."""

    def __init__(self, make: Callable[[], Work]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(make, theirs), daemon=True).start()

    def __call__(self) -> dict[str, float]:
        """Runs it once."""
        self._pipe.send(None)
        found: dict[str, float] = self._pipe.recv()
        return found


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    work = make()
    with suppress(EOFError):  # the other end is closed: done
        while True:
            pipe.recv()
            pipe.send(work())


class SideBySide:
    """As many tiles as there are threads, each expert run with one thread, at once."""

    def __init__(self, bundle: Bundle, name: str, args: argparse.Namespace) -> None:
        alone = argparse.Namespace(**{**vars(args), "threads": 1})
        self._experts = [Expert(bundle, name, alone) for _ in range(args.threads)]
        self._pool = ThreadPoolExecutor(args.threads)

    def __call__(self) -> dict[str, float]:
        """Runs it once; the time is that of one tile."""
        start = perf_counter()
        list(self._pool.map(lambda expert: expert(), self._experts))
        return {"tile": 1e3 * (perf_counter() - start) / len(self._experts)}


class Answers:
    """Questions about one frame set, asked again and again as standing questions are."""

    def __init__(self, pipeline: Pipeline, frames: Sequence[FrameSet], questions: Sequence[str], options: AskOptions) -> None:
        self._pipeline, self._options, self._questions = pipeline, options, questions
        self._tokens = [pipeline.encode(frame_set) for frame_set in frames]

    def __call__(self) -> dict[str, float]:
        """Asks each question about each set; the time is that of one answer."""
        start = perf_counter()
        for tokens in self._tokens:
            for question in self._questions:
                self._pipeline.ask(tokens, question, self._options)
        return {"answer": 1e3 * (perf_counter() - start) / len(self._tokens) / len(self._questions)}


def noise(cameras: int, seed: int) -> FrameSet:
    """Returns frames of 1600 x 900 pixels."""
    generator = np.random.default_rng(seed)
    channels = NUSCENES_CAMERAS[:cameras]
    images = [generator.integers(0, 256, (900, 1600, 3), dtype=np.uint8) for _ in channels]
    return FrameSet.of(map(CameraFrame, channels, images), expected_channels=channels)


def measure(title: str, variants: Sequence[Variant], rounds: int) -> None:
    """Runs all variants in turns, the first being the one with everything, and prints what the others lack."""
    order, shuffled = list(variants), random.Random(0)
    for number in range(rounds + 1):  # the first round warms up
        shuffled.shuffle(order)
        for variant in order:
            found = variant.work()
            for stage, ms in found.items() if number else ():
                variant.samples.setdefault(stage, []).append(ms)
    print(f"\n{title}, {rounds} rounds")
    whole, generator = variants[0], np.random.default_rng(0)
    for stage, samples in whole.samples.items():
        print(f"  {stage + ', ms':<34}{median(samples):>9.2f}")
        for variant in variants[1:]:
            found = ratio_interval(samples, variant.samples[stage], generator)
            interval = f"[{found.low:.2f}, {found.high:.2f}]"
            print(f"    without {variant.name:<24}{median(variant.samples[stage]):>9.2f}{found.ratio:>7.2f} {interval:>14}")


def llm_variants(bundle: Bundle, args: argparse.Namespace) -> list[Variant]:
    """The language model without each of its rewrites, without all, and with workers that sleep."""
    made = [Variant("all", Llm(bundle, args))]
    for rewrite in REWRITES:
        spec, model = without(bundle, "llm", rewrite)
        made.append(Variant(rewrite, Llm(bundle, args, model=model, spec=spec)))
    made.append(Variant("any CPU form", Llm(bundle, args, standard_graph=True)))
    made.append(Variant("spinning", Llm(bundle, args, spinning=False)))
    made.append(Variant("anything (control)", Llm(bundle, args)))
    return made


def page_variants(bundle: Bundle, args: argparse.Namespace) -> list[Variant]:
    """The language model with and without huge pages, each in a process of its own: they are the whole process's."""
    return [
        Variant("all", OwnProcess(partial(Llm, bundle, args))),
        Variant("huge pages", OwnProcess(partial(Llm, bundle, args, huge_pages=False))),
    ]


def expert_variants(bundle: Bundle, name: str, args: argparse.Namespace) -> list[Variant]:
    """A vision expert without each of its rewrites, and with tiles side by side in place of threads."""
    return [
        Variant("all", Expert(bundle, name, args)),
        Variant("any CPU form", Expert(bundle, name, args, (bundle.manifest.graphs[name], None))),
        Variant("spinning", Expert(bundle, name, args, spinning=False)),
        Variant("anything (control)", Expert(bundle, name, args)),
        Variant("threads: tiles side by side", SideBySide(bundle, name, args)),
    ]


def demo_variants(directory: Path, args: argparse.Namespace) -> list[Variant]:
    """Standing questions to the trained model, without drafts; and one with choices, which are written instead."""
    pipeline = open_pipeline(directory, "ort", threads=args.threads)
    frames = [noise(3, seed) for seed in range(2)]
    questions = ["What should the vehicle do?", "Describe the scene."]
    plain = replace(pipeline, savings=Savings(speculation=False))
    ask = partial(Answers, frames=frames, questions=questions, options=AskOptions(24))
    return [Variant("all", ask(pipeline)), Variant("drafts", ask(plain))]


def choice_variants(directory: Path, args: argparse.Namespace) -> list[Variant]:
    """A question of a closed vocabulary."""
    pipeline = open_pipeline(directory, "ort", threads=args.threads)
    pipeline = replace(pipeline, savings=Savings(speculation=False))
    ask = partial(Answers, pipeline, [noise(3, 0)], ["Is there a car ahead?"])
    return [Variant("all", ask(AskOptions(8, choices=("yes", "no")))), Variant("choices", ask(AskOptions(8)))]


def prefix_variants(directory: Path, args: argparse.Namespace) -> list[Variant]:
    """Two questions about one frame set to a LEO, whose visual tokens do not depend on them."""
    pipeline = open_pipeline(directory, "ort", threads=args.threads)
    pipeline = replace(pipeline, savings=Savings(speculation=False))
    ask = partial(Answers, frames=[noise(6, 0)], questions=["What is ahead?", "May I turn left?"], options=AskOptions(4))
    return [Variant("all", ask(pipeline)), Variant("prompt reuse", ask(replace(pipeline, savings=Savings(False, False))))]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--demo", type=Path, metavar="BUNDLE", help="the trained one, for drafts and choices")
    parser.add_argument("--leo", type=Path, metavar="BUNDLE", help="a LEO, for the reuse of prompts")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=448, help="tokens (default 448: six cameras of LEO-MINI)")
    parser.add_argument("--steps", type=int, default=16, help="tokens behind it (default 16)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    measure(f"language model of {args.bundle.name}", llm_variants(bundle, args), args.rounds)
    measure(f"language model of {args.bundle.name}, in processes of its own", page_variants(bundle, args), args.rounds)
    for expert in bundle.manifest.experts:
        name = f"vision.{expert.name}"
        measure(f"{name} of {args.bundle.name}", expert_variants(bundle, name, args), args.rounds)
    if args.leo is not None:
        measure(f"two questions to {args.leo.name}", prefix_variants(args.leo, args), args.rounds)
    if args.demo is not None:
        measure(f"standing questions to {args.demo.name}", demo_variants(args.demo, args), 3 * args.rounds)
        measure(f"yes or no from {args.demo.name}", choice_variants(args.demo, args), 3 * args.rounds)


if __name__ == "__main__":
    main()
