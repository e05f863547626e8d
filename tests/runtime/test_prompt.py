"""runtime/prompt.py: the five templates letter by letter, and visual embeddings exactly where the cameras stand."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer as HfTokenizer

from leo_edge.runtime.errors import LeoEdgeError, PromptError
from leo_edge.runtime.manifest import PromptManifest
from leo_edge.runtime.prompt import TEMPLATES, Prompt, build_prompt, write_user_turn
from leo_edge.runtime.tokenizer import Tokenizer
from tests.runtime.test_tokenizer import byte_level

SYSTEM, QUESTION = "Be brief.", "What is ahead?"
CAMERAS = (("CAM_FRONT", 2), ("CAM_BACK", 1))
CAMERA_LINE = "{camera}: <image>\n"
CONTEXT = "<IMG_CONTEXT>"

# What the model reads, for SYSTEM, QUESTION and CAMERAS. LEO marks where an image begins and ends, LEO-MINI does not.
FULL_TEXT = {
    "internlm2-chat": "<|im_start|>system\nBe brief.<|im_end|>"
    "<|im_start|>user\nCAM_FRONT: <img><IMG_CONTEXT><IMG_CONTEXT></img>\nCAM_BACK: <img><IMG_CONTEXT></img>\n"
    "What is ahead?<|im_end|><|im_start|>assistant\n",
    "Hermes-2": "<|im_start|>system\nBe brief.<|im_end|>"
    "<|im_start|>user\nCAM_FRONT: <img><IMG_CONTEXT><IMG_CONTEXT></img>\nCAM_BACK: <img><IMG_CONTEXT></img>\n"
    "What is ahead?<|im_end|><|im_start|>assistant\n",
    "phi3-chat": "<|system|>\nBe brief.<|end|>"
    "<|user|>\nCAM_FRONT: <img><IMG_CONTEXT><IMG_CONTEXT></img>\nCAM_BACK: <img><IMG_CONTEXT></img>\n"
    "What is ahead?<|end|><|assistant|>\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
    "CAM_FRONT: <IMG_CONTEXT><IMG_CONTEXT>\nCAM_BACK: <IMG_CONTEXT>\nWhat is ahead?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen2": "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nCAM_FRONT: <IMG_CONTEXT><IMG_CONTEXT>\nCAM_BACK: <IMG_CONTEXT>\nWhat is ahead?<|im_end|>\n"
    "<|im_start|>assistant\n",
}
MARKS = {
    "<|im_start|>": "internlm2-chat Hermes-2 qwen2",
    "<|start_header_id|>": "llama3",
    "<|end_header_id|>": "llama3",
    "<|system|>": "phi3-chat",
    "<|user|>": "phi3-chat",
    "<|assistant|>": "phi3-chat",
}

# `chat_template` of tokenizer_config.json, as published with Meta-Llama-3-8B-Instruct and Qwen2-7B-Instruct.
LLAMA3_JINJA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2_JINJA = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def library_tokenizer(template: str, bos: str | None = None) -> HfTokenizer:
    stops, marks = TEMPLATES[template].stop_tokens, [mark for mark, users in MARKS.items() if template in users.split()]
    specials = dict.fromkeys([*([bos] if bos else []), *stops, *marks, "<img>", CONTEXT, "</img>"])
    return byte_level(tuple(specials), bos=bos)


def prompt_manifest(template: str, system: str = SYSTEM, camera_line: str = CAMERA_LINE) -> PromptManifest:
    prefix, suffix = TEMPLATES[template].split(system)
    start, end = ("", "") if template in ("llama3", "qwen2") else ("<img>", "</img>")
    return PromptManifest(prefix, suffix, start, CONTEXT, end, camera_line, stop_ids=(0,))


class Prompter:
    """A template with a real tokenizer for it, and the text that a prompt's tokens stand for."""

    def __init__(self, directory: Path, template: str, *, bos: str | None = None) -> None:
        self.template, self.library = template, library_tokenizer(template, bos)
        self.library.save(str(directory / "tokenizer.json"))
        self.tokenizer = Tokenizer(directory / "tokenizer.json")

    def build(
        self, question: str = QUESTION, cameras: Sequence[tuple[str, int]] = CAMERAS, manifest: PromptManifest | None = None
    ) -> Prompt:
        return build_prompt(question, cameras, manifest or prompt_manifest(self.template), self.tokenizer)

    def text(self, prompt: Prompt) -> str:
        return self.library.decode(list(prompt.token_ids), skip_special_tokens=False)


@pytest.fixture
def leo(tmp_path: Path) -> Prompter:
    return Prompter(tmp_path, "internlm2-chat")


def rendered(jinja: str, user: str, system: str = SYSTEM, bos: str = "") -> str:
    """A published template, rendered with transformers' settings."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(jinja)
    return template.render(messages=messages, add_generation_prompt=True, bos_token=bos)


class TestTemplates:
    def test_every_template_is_written_out_here(self) -> None:
        assert FULL_TEXT.keys() == TEMPLATES.keys()

    @pytest.mark.parametrize("template", FULL_TEXT)
    def test_full_text(self, tmp_path: Path, template: str) -> None:
        prompter = Prompter(tmp_path, template)
        assert prompter.text(prompter.build()) == FULL_TEXT[template]

    @pytest.mark.parametrize("template", FULL_TEXT)
    def test_every_mark_is_one_token(self, tmp_path: Path, template: str) -> None:
        prompter = Prompter(tmp_path, template)
        marks = [mark for mark in (*MARKS, *TEMPLATES[template].stop_tokens) if mark in FULL_TEXT[template]]
        ids = prompter.build().token_ids
        assert len(marks) >= 2
        for mark in marks:
            assert ids.count(prompter.tokenizer.id_of(mark) or 0) == FULL_TEXT[template].count(mark)

    def test_no_system_message_no_system_turn(self) -> None:
        assert TEMPLATES["internlm2-chat"].split("")[0] == "<|im_start|>user\n"

    def test_braces_in_a_system_message_are_text(self) -> None:
        prefix, suffix = TEMPLATES["phi3-chat"].split("Use {user} and {system}.")
        assert prefix == "<|system|>\nUse {user} and {system}.<|end|><|user|>\n"
        assert suffix == "<|end|><|assistant|>\n"

    def test_internlm2_is_what_leo_states(self, leo: Prompter) -> None:
        """One image, its mark on a line before the question, as in github.com/Mozhgan91/LEO."""
        system = (
            "You are LEO, a multimodal large language model developed by Waterloo WISE lab. "
            "You are a helpful and harmless AI assistant"
        )
        manifest = prompt_manifest("internlm2-chat", system, camera_line="<image>\n")
        contexts = CONTEXT * 512
        stated = (
            f"<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<img>{contexts}</img>\n{QUESTION}<|im_end|>"
            "<|im_start|>assistant\n"
        )
        assert leo.text(leo.build(cameras=[("CAM_FRONT", 512)], manifest=manifest)) == stated
        assert leo.text(leo.build(f"<image>\n{QUESTION}", [("CAM_FRONT", 512)], manifest)) == stated
        assert set(TEMPLATES["internlm2-chat"].stop_tokens) == {"</s>", "<|im_end|>", "<|im_start|>"}

    @pytest.mark.parametrize(("template", "jinja"), [("llama3", LLAMA3_JINJA), ("qwen2", QWEN2_JINJA)])
    def test_equals_the_published_chat_template(self, tmp_path: Path, template: str, jinja: str) -> None:
        prompter = Prompter(tmp_path, template)
        user = f"CAM_FRONT: {CONTEXT}{CONTEXT}\nCAM_BACK: {CONTEXT}\n{QUESTION}"
        text = prompter.text(prompter.build())
        assert text == rendered(jinja, user)
        assert text != rendered(jinja, user, system="Be brief")
        assert text != rendered(QWEN2_JINJA if template == "llama3" else LLAMA3_JINJA, user)

    def test_llama3_with_the_tokenizers_beginning_equals_the_published_one_with_its_own(self, tmp_path: Path) -> None:
        prompter = Prompter(tmp_path, "llama3", bos="<|begin_of_text|>")
        user = f"CAM_FRONT: {CONTEXT}\n{QUESTION}"
        text = prompter.text(prompter.build(cameras=[("CAM_FRONT", 1)]))
        assert text == rendered(LLAMA3_JINJA, user, bos="<|begin_of_text|>")


class TestSpans:
    @pytest.mark.parametrize("template", FULL_TEXT)
    def test_spans_are_where_the_context_tokens_are(self, tmp_path: Path, template: str) -> None:
        prompter = Prompter(tmp_path, template)
        prompt = prompter.build(cameras=[("A", 3), ("B", 1), ("C", 7)])
        places = [i for i, token in enumerate(prompt.token_ids) if token == prompter.tokenizer.id_of(CONTEXT)]
        assert [length for _, length in prompt.image_spans] == [3, 1, 7]
        assert [place for start, length in prompt.image_spans for place in range(start, start + length)] == places

    def test_each_span_follows_its_cameras_name(self, leo: Prompter) -> None:
        prompt = leo.build()
        for (start, length), (channel, count) in zip(prompt.image_spans, CAMERAS, strict=True):
            assert length == count
            before = leo.library.decode(list(prompt.token_ids[:start]), skip_special_tokens=False)
            assert before.endswith(f"{channel}: <img>")

    def test_no_camera_no_span(self, leo: Prompter) -> None:
        prompt = leo.build(cameras=[])
        assert prompt.image_spans == ()
        assert f"user\n{QUESTION}<|im_end|>" in leo.text(prompt)

    def test_a_tokenizer_without_the_context_token_is_refused(self, leo: Prompter) -> None:
        with pytest.raises(LeoEdgeError, match="<IMAGE>"):
            leo.build(manifest=replace(prompt_manifest("internlm2-chat"), image_context="<IMAGE>"))


class TestQuestion:
    def test_marks_in_the_question_stay_where_they_are(self, leo: Prompter) -> None:
        prompt = leo.build("Is <image> left of <image>?")
        _, _, turn = leo.text(prompt).partition("user\n")
        assert turn.startswith("Is <img><IMG_CONTEXT><IMG_CONTEXT></img> left of <img><IMG_CONTEXT></img>?<|im_end|>")
        assert [length for _, length in prompt.image_spans] == [2, 1]

    @pytest.mark.parametrize("question", ["<image> what?", "<image><image><image> what?"])
    def test_marks_that_do_not_fit_the_cameras(self, leo: Prompter, question: str) -> None:
        count = question.count("<image>")
        with pytest.raises(PromptError, match=f"the question has {count} <image> marks for 2 cameras: write one per camera"):
            leo.build(question)

    def test_the_instruction_alone_is_what_the_reduction_sees(self, leo: Prompter) -> None:
        assert leo.tokenizer.decode(list(leo.build().question_ids)) == QUESTION
        assert leo.tokenizer.decode(list(leo.build("Is <image> left of <image>?").question_ids)) == "Is  left of ?"

    @pytest.mark.parametrize("question", ["", " ", "\n\t "])
    def test_empty(self, leo: Prompter, question: str) -> None:
        with pytest.raises(PromptError, match="the question is empty: ask something"):
            leo.build(question)

    def test_nothing_but_marks(self, leo: Prompter) -> None:
        with pytest.raises(PromptError, match="the question is empty"):
            leo.build("<image> <image>")

    @pytest.mark.parametrize("token", [CONTEXT, "<|im_end|>", "<img>"])
    def test_special_tokens_are_refused(self, leo: Prompter, token: str) -> None:
        """A question must not end its own turn, nor stand for pixels."""
        with pytest.raises(PromptError, match=re.escape(f"the question holds {token}, which only the prompt itself may hold")):
            leo.build(f"What is {token}?")

    def test_the_order_of_cameras_is_the_order_of_the_prompt(self) -> None:
        turn = write_user_turn("Why?", ["CAM_BACK", "CAM_FRONT"], CAMERA_LINE)
        assert turn == "CAM_BACK: <image>\nCAM_FRONT: <image>\nWhy?"

    def test_a_camera_line_without_a_name(self) -> None:
        assert write_user_turn("Why?", ["CAM_BACK"], "<image>\n") == "<image>\nWhy?"


class TestBeginning:
    def test_the_tokenizers_own_beginning_comes_once_and_first(self, tmp_path: Path) -> None:
        prompter = Prompter(tmp_path, "internlm2-chat", bos="<s>")
        prompt = prompter.build()
        bos = prompter.tokenizer.id_of("<s>")
        assert prompt.token_ids[0] == bos
        assert prompt.token_ids.count(bos or 0) == 1
        assert bos not in prompt.question_ids

    def test_a_tokenizer_without_one_gives_none(self, leo: Prompter) -> None:
        assert leo.build().token_ids[0] == leo.tokenizer.id_of("<|im_start|>")

    def test_spans_count_it(self, tmp_path: Path, leo: Prompter) -> None:
        (start, _), *_ = leo.build().image_spans
        (shifted, _), *_ = Prompter(tmp_path, "internlm2-chat", bos="<s>").build().image_spans
        assert shifted == start + 1
