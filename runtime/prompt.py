"""Prompts: a chat template, one line per camera, the question, and where the visual embeddings go.

Templates are those that the language models were trained with. LEO's own code joins turns without a newline; the others
follow their models' published templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leo_edge.runtime.errors import PromptError
from leo_edge.runtime.manifest import PromptManifest
from leo_edge.runtime.tokenizer import Tokenizer

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class ChatTemplate:
    """How a model family writes one system message and one user turn. Stop tokens are looked up in the tokenizer."""

    system: str
    user: str
    assistant: str
    stop_tokens: tuple[str, ...]

    def split(self, system_message: str) -> tuple[str, str]:
        """Returns what stands before and after the user's text."""
        system = self.system.replace("{system}", system_message) if system_message else ""
        before, _, after = self.user.partition("{user}")
        return system + before, after + self.assistant


_LEO_TURNS = ("<|im_start|>system\n{system}<|im_end|>", "<|im_start|>user\n{user}<|im_end|>", "<|im_start|>assistant\n")

TEMPLATES: dict[str, ChatTemplate] = {
    "internlm2-chat": ChatTemplate(*_LEO_TURNS, stop_tokens=("</s>", "<|im_end|>", "<|im_start|>")),
    "Hermes-2": ChatTemplate(*_LEO_TURNS, stop_tokens=("</s>", "<|im_end|>", "<|endoftext|>")),
    "phi3-chat": ChatTemplate(
        "<|system|>\n{system}<|end|>",
        "<|user|>\n{user}<|end|>",
        "<|assistant|>\n",
        stop_tokens=("</s>", "<|endoftext|>", "<|end|>"),
    ),
    # https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/ - <|begin_of_text|> is the tokenizer's
    "llama3": ChatTemplate(
        "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    ),
    # ChatML with a newline between turns, as in Qwen2's tokenizer_config.json
    "qwen2": ChatTemplate(
        "<|im_start|>system\n{system}<|im_end|>\n",
        "<|im_start|>user\n{user}<|im_end|>\n",
        "<|im_start|>assistant\n",
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
    ),
}


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt. `image_spans[i]` = (start, length) of the visual embeddings of camera i.

    `question_ids` are the instruction's tokens alone, on which CoTR is conditioned.
    """

    token_ids: tuple[int, ...]
    image_spans: tuple[tuple[int, int], ...]
    question_ids: tuple[int, ...]


def write_user_turn(question: str, channels: Sequence[str], camera_line: str) -> str:
    """Returns the user's text: a line per camera, in order, and the question.

    A question that places its own `<image>` marks keeps them, one per camera in the same order.

    Raises:
        PromptError: the question is empty, is no text, or has another number of marks than there are cameras.
    """
    if not question.isascii() and question.encode(errors="ignore").decode() != question:
        raise PromptError("the question holds bytes that are no characters: write it in UTF-8")
    if not question.replace(IMAGE_MARK, "").strip():
        raise PromptError("the question is empty: ask something")
    marks = question.count(IMAGE_MARK)
    if marks not in (0, len(channels)):
        raise PromptError(
            f"the question has {marks} {IMAGE_MARK} marks for {len(channels)} cameras: write one per camera, or none"
        )
    lines = "" if marks else "".join(camera_line.replace("{camera}", channel) for channel in channels)
    return lines + question


def build_prompt(question: str, images: Sequence[tuple[str, int]], manifest: PromptManifest, tokenizer: Tokenizer) -> Prompt:
    """Tokenizes a question about `images`, pairs of a camera's channel and its number of visual embeddings, in order.

    Raises:
        PromptError: the question is empty, its `<image>` marks do not fit the cameras, or it holds a special token.
    """
    forbidden = [token for token in sorted(tokenizer.special_tokens | {manifest.image_context}) if token in question]
    if forbidden:
        raise PromptError(f"the question holds {', '.join(forbidden)}, which only the prompt itself may hold: leave it out")
    turn = write_user_turn(question, [channel for channel, _ in images], manifest.camera_line)
    placeholder = manifest.image_start + manifest.image_context + manifest.image_end
    text = manifest.prefix + turn.replace(IMAGE_MARK, placeholder) + manifest.suffix
    context_id = tokenizer.id_of(manifest.image_context)
    token_ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for token_id in tokenizer.encode(text, special=True):
        if token_id != context_id:
            token_ids.append(token_id)
            continue
        spans.append((len(token_ids), images[len(spans)][1]))
        token_ids += [token_id] * spans[-1][1]
    if len(spans) != len(images):
        raise PromptError(
            f"the prompt shows {len(spans)} of {len(images)} cameras: no {manifest.image_context} in the tokenizer"
        )
    question_ids = tokenizer.encode(question.replace(IMAGE_MARK, ""), special=False)
    if not question_ids:
        raise PromptError("the tokenizer makes nothing of the question: ask it in the model's language")
    return Prompt(tuple(token_ids), tuple(spans), tuple(question_ids))
