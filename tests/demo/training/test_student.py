"""The model that is trained answers as its exported bundle does, and its batched parts are the exported modules."""

from pathlib import Path

import pytest
import torch

from leo_edge.demo.answer_file import SHIPPED
from leo_edge.demo.answering import BundleAnswerer, TorchAnswerer
from leo_edge.demo.training.drawing import frame_set_of
from leo_edge.demo.training.student import Fused, Student, mix
from leo_edge.demo.world.observe import Keyframe
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import LeoMiniConfig, parse_config
from leo_edge.export.exporter import ExportOptions, export_bundle
from leo_edge.export.llm_config import MMoEConfig
from leo_edge.export.modeling.mmoe import MMoE
from leo_edge.runtime.pipeline import open_pipeline

QUESTIONS = [
    "How many cars are there to the back left?",
    "What should I do now, and for what reason?",
    "Is there a bus to the front?",
    "What is the nearest thing to the front right?",
]


@pytest.fixture(scope="module")
def answerer(random_student: Path) -> TorchAnswerer:
    return TorchAnswerer.open(random_student)


def test_answers_as_its_bundle_does_and_another_frame_set_differs(
    answerer: TorchAnswerer, random_student: Path, keyframe: Keyframe, tmp_path: Path, session_cache: Path
) -> None:
    assert session_cache
    export_bundle(random_student, tmp_path / "bundle", ExportOptions(), lambda _: None)
    bundle = BundleAnswerer(open_pipeline(tmp_path / "bundle"))
    frames = frame_set_of(keyframe)
    wanted = answerer.answer(answerer.encode(frames), QUESTIONS)
    assert bundle.answer(bundle.encode(frames), QUESTIONS) == wanted
    assert len(set(wanted)) > 1
    tokens = answerer.encode(frames)
    assert answerer.answer([each.flip(1) for each in tokens], QUESTIONS) != wanted  # cameras in another order


def test_questions_side_by_side_are_answered_as_one_by_one(answerer: TorchAnswerer, keyframe: Keyframe) -> None:
    tokens = answerer.encode(frame_set_of(keyframe))
    alone = [answerer.answer(tokens, [question])[0] for question in QUESTIONS]
    assert answerer.answer(tokens, QUESTIONS) == alone


def test_fuses_as_the_exported_module_does(keyframe: Keyframe) -> None:
    """With trained weights: random ones make CoTR's softmax all but a maximum."""
    answerer = TorchAnswerer.open(SHIPPED)
    student = answerer.student
    tokens = answerer.encode(frame_set_of(keyframe))
    ids, other = ([answerer.tokenizer.encode(text, special=False)] for text in QUESTIONS[:2])
    with torch.inference_mode():
        got = student.fuse_questions(tokens, [1], ids).visual[0]
        student.checkpoint_modules()
        wanted = student.fusion([each[0] for each in tokens], student.table[torch.tensor(ids[0])])
        student.training_modules()
        again = student.fuse_questions(tokens, [1], ids).visual[0]
        of_another_question = student.fuse_questions(tokens, [1], other).visual[0]
    assert torch.allclose(got, wanted, atol=1e-3)
    assert torch.allclose(got, again, atol=1e-4)
    assert not torch.allclose(of_another_question, wanted, atol=1e-1)


def test_without_text_all_questions_see_the_same(keyframe: Keyframe) -> None:
    checkpoint = Checkpoint.open(SHIPPED)
    config = parse_config(checkpoint.config)
    assert isinstance(config, LeoMiniConfig)
    student = Student(config, checkpoint, text=False)
    answerer = TorchAnswerer.open(SHIPPED)
    tokens = answerer.encode(frame_set_of(keyframe))
    with torch.inference_mode():
        one, other = (
            student.fuse_questions(tokens, [1], [answerer.tokenizer.encode(text, special=False)]).visual
            for text in QUESTIONS[:2]
        )
    assert torch.equal(one, other)


@pytest.fixture
def mmoe() -> MMoE:
    torch.manual_seed(0)
    module = MMoE(24, 16, MMoEConfig(num_experts=3, top_k=1, rank=2, lora_alpha=4.0, router_hidden_size=8), bias=False)
    return module.requires_grad_(True)


class TestMix:
    def test_is_the_exported_mmoe(self, mmoe: MMoE) -> None:
        x, context = torch.randn(2, 5, 24), torch.randn(2, 8)
        got, _ = mix(mmoe, x, context)
        for row in range(2):
            assert torch.allclose(got[row], mmoe(x[row], context[row], torch.ones(1)), atol=1e-5)
        assert not torch.allclose(got[0], mmoe(x[0], context[1] + 3, torch.ones(1)), atol=1e-3)

    def test_answers_teach_the_router(self, mmoe: MMoE) -> None:
        mix(mmoe, torch.randn(2, 5, 24), torch.randn(2, 8))[0].square().sum().backward()
        assert mmoe.router_out.weight.grad is not None
        assert mmoe.router_out.weight.grad.abs().max() > 0

    def test_balance_loss_is_one_for_even_use_and_larger_for_a_favourite(self, mmoe: MMoE) -> None:
        x, context = torch.randn(4, 500, 24), torch.randn(4, 8)
        with torch.no_grad():
            mmoe.router_out.weight.zero_()
            mmoe.router_out.bias.copy_(torch.tensor([0.0, 0.0, 6.0]))
        favourite = float(mix(mmoe, x, context)[1].detach())
        assert favourite == pytest.approx(3, abs=0.05)
        with torch.no_grad():
            mmoe.router_out.weight.normal_(std=20)
            mmoe.router_out.bias.zero_()
        assert float(mix(mmoe, x, context)[1].detach()) < favourite


def test_causal(answerer: TorchAnswerer, keyframe: Keyframe) -> None:
    """What comes later in a sequence changes nothing before it."""
    student = answerer.student
    width = student.config.llm.hidden_size
    torch.manual_seed(1)
    embeds, fused = torch.randn(1, 9, width), Fused(torch.randn(1, 6, 4, width), torch.randn(1, width))
    changed = embeds.clone()
    changed[:, 6] += 1
    with torch.inference_mode():
        one, other = student.hidden(embeds, fused)[0], student.hidden(changed, fused)[0]
    assert torch.allclose(one[:, :6], other[:, :6], atol=1e-5)
    assert not torch.allclose(one[:, 6:], other[:, 6:], atol=1e-2)
    assert keyframe
