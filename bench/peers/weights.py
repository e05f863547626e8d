"""The weights that all engines of `bench/peers/compare.py` run: one random checkpoint, written in each engine's own form.

Everything lies in one work directory and is made once. `plain` is the language model of `leo-mini-0.5b` without MMoE, which no
peer can run, behind a tiny expert; `mini` is the whole preset. The seed gives both the same language model.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PRESET = "leo-mini-0.5b"
CONTEXT = 4224  # 4,096 tokens and what is decoded behind them
PROMPT = 512
QUESTION = "Which vehicle must yield here, and why?"


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """Makes a file or folder under a temporary name and renames it: it is whole or absent."""
    if not path.exists():
        say(f"making {path.name}")
        temporary = path.with_name(f"{path.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        make(temporary)
        temporary.rename(path)
    return path


def prompt_ids(length: int, vocab_size: int = 32000) -> list[int]:
    """Returns the same random tokens for every engine; shorter prompts are prefixes of longer ones."""
    return [int(i) for i in np.random.default_rng(7).integers(300, vocab_size, CONTEXT)[:length]]


def plain_config() -> dict[str, Any]:
    """The preset's language model without MMoE, behind an expert that costs nothing."""
    from leo_edge.export.presets import PRESETS

    raw = {key: value for key, value in PRESETS[PRESET].items() if key != "mmoe_config"}
    tiny = next(one for one in PRESETS["leo-mini-tiny"]["vision_configs"] if one["name"] == "clip")
    return raw | {"vision_configs": [tiny], "force_image_size": 112}


def make_checkpoint(work: Path, name: str) -> Path:
    """Writes a random checkpoint."""
    from leo_edge.export.presets import PRESETS
    from leo_edge.export.random_checkpoint import write_config_checkpoint

    raw = plain_config() if name == "plain" else PRESETS[PRESET]
    return once(work / f"{name}-checkpoint", lambda path: write_config_checkpoint(raw, path))


def make_bundles(work: Path, name: str) -> tuple[Path, Path]:
    """Exports a checkpoint and quantizes it to INT8, as the commands do, and returns both bundles."""
    from leo_edge.export.exporter import ExportOptions, export_bundle
    from leo_edge.export.quantize.plan import WEIGHT_ONLY, QuantizeOptions
    from leo_edge.export.quantize.quantizer import quantize_bundle
    from leo_edge.runtime.bundle import open_bundle
    from leo_edge.runtime.manifest import FORMAT_VERSION

    checkpoint = make_checkpoint(work, name)
    options = ExportOptions(context_len=CONTEXT)
    floating = once(work / f"{name}-float-v{FORMAT_VERSION}", lambda path: void(export_bundle(checkpoint, path, options, say)))

    def quantize(path: Path) -> None:
        bundle = open_bundle(floating)
        quantize_bundle(bundle, calibrate(bundle), path, QuantizeOptions(method="minmax", weight_only=WEIGHT_ONLY), say)

    return floating, once(work / f"{name}-int8-v{FORMAT_VERSION}", quantize)


def calibrate(bundle: Any) -> Any:
    """Observes activations on one camera's textured image: random weights need no more."""
    from leo_edge.calib.observe import Observer
    from leo_edge.calib.table import CalibrationTable
    from leo_edge.runtime.frames import CameraFrame, FrameSet

    observer = Observer(bundle, max_new_tokens=2, threads=2)
    observer.observe(FrameSet.of([CameraFrame("CAM_FRONT", textured_image(0))]), [QUESTION], 0)
    return CalibrationTable(observer.statistics, {"bundle": bundle.id, "range": "minmax"})


def textured_image(seed: int, width: int = 1600, height: int = 900) -> Any:
    """Draws an image [H, W, 3] whose JPEG is about as large as a camera's: a smooth field and fine grain."""
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def void(_: object) -> None:
    """Drops a result."""


def make_hf(work: Path) -> Path:
    """Writes the language model as transformers reads it."""

    def make(path: Path) -> None:
        from safetensors.torch import load_file, save_file
        from transformers import LlamaConfig

        checkpoint = make_checkpoint(work, "plain")
        raw = json.loads((checkpoint / "config.json").read_text())["llm_config"]
        path.mkdir()
        config = LlamaConfig(**raw, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, dtype="float32")
        config.save_pretrained(path)
        tensors = {}
        for file in sorted(checkpoint.glob("*.safetensors")):
            tensors |= {key: value for key, value in load_file(file).items() if key.startswith("language_model.")}
        tensors = {key.removeprefix("language_model."): value.float() for key, value in tensors.items()}
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(checkpoint / "tokenizer.json", path)
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))

    return once(work / "hf", make)


def make_gguf(work: Path, kind: str) -> Path:
    """Writes the language model for llama.cpp; `kind` is F16 or Q8_0. Norms stay float32, as its own converter leaves them."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from safetensors.numpy import load_file

    hf = make_hf(work)

    def make(path: Path) -> None:
        config = json.loads((hf / "config.json").read_text())
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        writer = GGUFWriter(path, "llama")
        writer.add_vocab_size(config["vocab_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope_theta(config))
        writer.add_rope_dimension_count(config["hidden_size"] // heads)
        writer.add_tokenizer_model("no_vocab")
        target = GGMLQuantizationType[kind]
        for name, array in load_file(hf / "model.safetensors").items():
            if name.endswith("q_proj.weight"):
                array = rotary_pairs(array, heads)
            elif name.endswith("k_proj.weight"):
                array = rotary_pairs(array, kv_heads)
            if array.ndim == 1:
                writer.add_tensor(gguf_name(name), array)
            else:
                writer.add_tensor(gguf_name(name), quants.quantize(array, target), raw_dtype=target)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return once(work / f"llm-{kind}.gguf", make)


def rope_theta(config: dict[str, Any]) -> float:
    """Reads the base of the rotary embedding where this transformers writes it."""
    return float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def rotary_pairs(weight: Any, heads: int) -> Any:
    """Orders a projection's rows as GGUF wants them: a rotated pair side by side, not half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """Returns GGUF's name of a tensor of transformers' Llama."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{_GGUF_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight"


def make_genai(work: Path, precision: str) -> Path:
    """Has onnxruntime-genai's own builder write the language model; `precision` is fp32, int8 or int4."""
    hf = make_hf(work)

    def make(path: Path) -> None:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "leo", "-i", str(hf), "-o", str(path)]
        command += ["-p", precision, "-e", "cpu", "-c", str(path / "cache")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"onnxruntime-genai's builder failed: {found.stderr.strip().splitlines()[-1]}")
        shutil.rmtree(path / "cache", ignore_errors=True)

    return once(work / f"genai-{precision}", make)
