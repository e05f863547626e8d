"""The tiny LEO-MINI: its config.json, its tokenizer, and the recipe that it is trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from leo_edge.demo.questions.words import corpus
from leo_edge.demo.training.labels import PATCH_PX, TILE_PX
from leo_edge.runtime.frames import NUSCENES_CAMERAS

Json = dict[str, Any]

_BOS, _EOT, _IMAGE = "<|begin_of_text|>", "<|eot_id|>", "<IMG_CONTEXT>"
_SPECIAL = (_BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", _EOT, _IMAGE)


@dataclass(frozen=True)
class Sizes:
    """What an ablation may change of the model. `experts` are names of its vision experts; `text` conditions CoTR on text."""

    num_queries: int = 12
    experts: tuple[str, ...] = ("semantics", "geometry")
    mmoe: bool = True
    text: bool = True


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train. Counts are keyframes (experts) and questions (the rest).

    world_seed: of the scenes. scenes, dev_scenes: of the train and dev splits. expert_keyframes: presentations to each expert.
    aux_questions: CoTR and projector with the auxiliary head alone. joint_questions: then with the language model.
    mmoe_questions: then everything, with MMoE and its balance loss, while the rate decays. last_questions: the same again, from
    the full rate (SGDR, arXiv 1608.03983).
    """

    world_seed: int = 0
    seed: int = 0
    scenes: int = 2400
    dev_scenes: int = 50
    expert_keyframes: int = 18_000
    aux_questions: int = 400_000
    joint_questions: int = 60_000
    mmoe_questions: int = 300_000
    last_questions: int = 180_000
    expert_rate: float = 1.5e-3
    rate: float = 1.5e-3

    def shortened(self, share: float) -> Recipe:
        """Returns the recipe with a share of the questions; the experts and their data stay."""
        names = ("aux_questions", "joint_questions", "mmoe_questions", "last_questions")
        return replace(self, **{name: round(getattr(self, name) * share) for name in names})


SMOKE = Recipe(
    scenes=12,
    dev_scenes=4,
    expert_keyframes=160,
    aux_questions=1_280,
    joint_questions=2_560,
    mmoe_questions=1_280,
    last_questions=1_280,
)
"""Everything once, far too short to learn much."""


def model_config(sizes: Sizes, vocab_size: int) -> Json:
    """Returns the config.json of the tiny model."""
    experts: dict[str, Json] = {
        "semantics": {
            "model_type": "convnext",
            "image_size": TILE_PX,
            "patch_size": PATCH_PX // 2,
            "num_stages": 2,
            "hidden_sizes": [64, 128],
            "depths": [1, 4],
        },
        "geometry": {
            "model_type": "sam_vision_model",
            "image_size": TILE_PX,
            "patch_size": PATCH_PX,
            "hidden_size": 96,
            "num_hidden_layers": 4,
            # Two: most of its time on a CPU goes into attention weights, 324 x 324 for each head.
            "num_attention_heads": 2,
            "mlp_dim": 384,
            "window_size": 6,
            "global_attn_indexes": [3],
            "output_channels": 96,
            "qkv_bias": True,
            "use_rel_pos": True,
            "use_abs_pos": True,
        },
    }
    raw: Json = {
        "model_type": "leo_mini",
        "vision_configs": [{"name": name} | experts[name] for name in sizes.experts],
        "llm_config": {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 256,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 1024,
            "rope_theta": 10000.0,
        },
        "cotr_config": {"num_queries": sizes.num_queries, "query_dim": 64, "proj_dim": 64},
        "projector_hidden_size": 256,
        "force_image_size": TILE_PX,
        "max_dynamic_patch": 1,
        "use_thumbnail": False,
        "template": "llama3",
        "system_message": "",
        # The name again behind the visual embeddings: there, it can gather what they say.
        "camera_line": "{camera}<image>{camera}",
        "torch_dtype": "float16",
        "note": "This model knows the drawn world of leo_edge alone: what it says of real images means nothing.",
    }
    if sizes.mmoe:
        raw["mmoe_config"] = {"num_experts": 3, "top_k": 1, "rank": 4, "lora_alpha": 4.0, "router_hidden_size": 32}
    return raw


def make_tokenizer() -> Tokenizer:
    """Trains a byte-level BPE tokenizer on the questions' and answers' words: each word becomes one token, any text some."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2048, min_frequency=1, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken(channel, normalized=False) for channel in NUSCENES_CAMERAS])
    bos = tokenizer.token_to_id(_BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{_BOS} $A", special_tokens=[(_BOS, bos)])
    return tokenizer
