"""A tokenizer for random checkpoints: one token per byte, and the special tokens that the chat templates need.

Real checkpoints bring their own tokenizer. This one lets a checkpoint of any preset run from question to text: every text has
token ids, and every id below 256 + offset is a byte.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from leo_edge.export.config import ModelConfig
from leo_edge.runtime.prompt import TEMPLATES

# Ids that the published tokenizers give to these tokens, kept where the vocabulary is large enough.
_PUBLISHED_IDS = {
    "internlm2-chat": {
        "<s>": 1,
        "</s>": 2,
        "<|im_end|>": 92542,
        "<|im_start|>": 92543,
        "<img>": 92544,
        "</img>": 92545,
        "<IMG_CONTEXT>": 92546,
    },
    "llama3": {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eot_id|>": 128009,
    },
}
_BOS = {"internlm2-chat": "<s>", "llama3": "<|begin_of_text|>"}
_FIRST_BYTE_ID = 3


def byte_tokenizer(config: ModelConfig) -> Tokenizer:
    """Makes the tokenizer of a random checkpoint."""
    vocab_size, template = config.llm.vocab_size, TEMPLATES[config.template]
    turns = template.system + template.user + template.assistant
    marks = [token for token in ("<|im_start|>", "<|start_header_id|>", "<|end_header_id|>") if token in turns]
    roles = [token for token in ("<|system|>", "<|user|>", "<|assistant|>") if token in turns]
    bos = _BOS.get(config.template)
    wanted = [*([bos] if bos else []), *template.stop_tokens, *marks, *roles, *filter(None, config.image_tokens)]
    specials = _place(list(dict.fromkeys(wanted)), _PUBLISHED_IDS.get(config.template, {}), vocab_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: _FIRST_BYTE_ID + i for i, character in enumerate(alphabet)} | specials
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, specials[bos])])
    return tokenizer


def _place(tokens: list[str], published: dict[str, int], vocab_size: int) -> dict[str, int]:
    """Gives each special token its published id if the vocabulary reaches that far, else one behind the bytes."""
    placed = {token: published[token] for token in tokens if published.get(token, vocab_size) < vocab_size}
    free = (i for i in range(_FIRST_BYTE_ID + 256, vocab_size) if i not in placed.values())
    return {token: placed[token] if token in placed else next(free) for token in tokens}
