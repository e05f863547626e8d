"""A question about six cameras, from JPEGs to the last of 16 tokens; see `protocol.py`.

`leo`: a bundle in leo_edge. `torch`: the same model eager in torch, its language model with a cache, from the modules that the
graphs were traced from; transformers has no class with MMoE layers or CoTR. Tiles: transformers' image processor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from engine_tiles import jpegs_of
from protocol import serve
from weights import QUESTION

TOKENS = 16
Answer = Callable[[list[bytes]], list[int]]


def leo(bundle: Path, threads: int) -> Answer:
    """The runtime's pipeline, a tile for each camera."""
    from leo_edge.runtime.pipeline import AskOptions, open_pipeline

    pipeline = open_pipeline(bundle, "ort", threads=threads)

    def answer(jpegs: list[bytes]) -> list[int]:
        tokens = pipeline.encode(frames_of(jpegs), max_tiles=1)
        return list(pipeline.ask(tokens, QUESTION, AskOptions(max_new_tokens=TOKENS)).token_ids)

    return answer


def frames_of(jpegs: list[bytes]) -> Any:
    """Returns a frame set of six JPEGs."""
    from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, decode_image

    return FrameSet.of(
        [CameraFrame(name, decode_image(data, name)) for name, data in zip(NUSCENES_CAMERAS, jpegs, strict=True)]
    )


def torch_reference(bundle: Path, threads: int, checkpoint: Path) -> Answer:
    """The modules in torch, called as the pipeline calls its graphs. `bundle` gives the prompt, its graphs do not run."""
    import torch
    from torch_modules import load_stages

    from leo_edge.runtime.bundle import open_bundle
    from leo_edge.runtime.embedding import EmbeddingTable
    from leo_edge.runtime.prompt import build_prompt
    from leo_edge.runtime.tiles import TileBatch
    from leo_edge.runtime.tokenizer import Tokenizer

    torch.set_num_threads(threads)
    opened, modules = open_bundle(bundle), load_stages(checkpoint)
    manifest = opened.manifest
    table, tokenizer = EmbeddingTable(opened.path(manifest.embedding)), Tokenizer(opened.path(manifest.tokenizer))
    layers, row = manifest.decoder.num_layers, (0, manifest.decoder.num_kv_heads, manifest.decoder.head_dim)

    @torch.inference_mode()
    def answer(jpegs: list[bytes]) -> list[int]:
        batch = TileBatch.from_frames(frames_of(jpegs), manifest.tiling.at_most(1))
        tiles = torch.from_numpy(batch.tiles)
        tokens = [torch.cat([modules[f"vision.{one.name}"](tile[None]) for tile in tiles]) for one in manifest.experts]
        images = [(channel, manifest.fuse.num_tokens) for channel in batch.channels]
        prompt = build_prompt(QUESTION, images, manifest.prompt, tokenizer)
        text = torch.from_numpy(table.lookup(np.array(prompt.question_ids)))
        visual = modules["fuse"](*tokens, text)  # [cameras, N, D]
        embeds = torch.from_numpy(table.lookup(np.array(prompt.token_ids)))
        for (start, length), camera in zip(prompt.image_spans, visual, strict=True):
            embeds[start : start + length] = camera
        routing = [modules["router"](visual.reshape(-1, visual.shape[-1]), text), torch.ones(1)]
        cache, ids = [torch.zeros(row) for _ in range(2 * layers)], []
        while len(ids) < TOKENS:
            start = len(cache[0])
            positions = torch.arange(start, start + len(embeds))
            logits, *new = modules["llm"](embeds, positions, positions[-1:] - start, *cache, *routing)
            cache = [torch.cat(pair) for pair in zip(cache, new, strict=True)]
            ids.append(int(logits.argmax()))
            embeds = torch.from_numpy(table.lookup(np.array(ids[-1:])))
        return ids

    return answer


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("leo", "torch"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="of which the bundle was made; for torch")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="take real images from this dataset")
    args = parser.parse_args()
    engine = (
        leo(args.bundle, args.threads) if args.kind == "leo" else torch_reference(args.bundle, args.threads, args.checkpoint)
    )
    jpegs = jpegs_of(args.nuscenes)

    def run() -> dict[str, Any]:
        start_ns = perf_counter_ns()
        engine(jpegs)
        return {"ms": {"answer": (perf_counter_ns() - start_ns) / 1e6}}

    serve({"run": run, "check": lambda: {"tokens": engine(jpegs)}})


if __name__ == "__main__":
    main()
