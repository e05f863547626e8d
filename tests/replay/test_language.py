"""Language scores against COCO's own scorers (pycocoevalcap), and on cases counted by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from leo_edge.replay.language import LanguageScores, bleu, cider, language_scores, rouge_l, tokenize
from leo_edge.runtime.errors import DatasetError

_DRIVELM = Path(__file__).parents[2] / "../shared/data/nuscenes-real/drivelm/drivelm_train_sample.json"
_WORDS = ("the", "ego", "vehicle", "should", "slow", "down", "because", "pedestrian", "is", "crossing", "ahead", "keep", "at")


def _sentences(number: int) -> list[str]:
    chosen = random.Random(0)
    return [" ".join(chosen.choices(_WORDS, k=chosen.randint(1, 14))) for _ in range(number)]


def _altered(sentences: Sequence[str]) -> list[str]:
    """Some with a word less, some in another order, some exchanged."""
    chosen, altered = random.Random(1), []
    for sentence in sentences:
        words = sentence.split()
        if chosen.random() < 0.5 and len(words) > 1:
            words.pop(chosen.randrange(len(words)))
        if chosen.random() < 0.3:
            chosen.shuffle(words)
        altered.append(" ".join(words) if chosen.random() < 0.9 else chosen.choice(sentences))
    return altered


def _coco(scorer: Any, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Any:
    known = {i: [" ".join(tokenize(one)) for one in group] for i, group in enumerate(references)}
    given = {i: [" ".join(tokenize(answer))] for i, answer in enumerate(answers)}
    with contextlib.redirect_stdout(io.StringIO()):
        return scorer.compute_score(known, given)[0]


def _scores_as_coco(answers: Sequence[str], references: Sequence[Sequence[str]]) -> LanguageScores:
    """Returns the scores, which must be those of COCO."""
    scores = language_scores(answers, references)
    assert scores.bleu == pytest.approx(_coco(Bleu(4), answers, references), rel=1e-9)
    assert scores.rouge_l == pytest.approx(_coco(Rouge(), answers, references), rel=1e-9)
    assert scores.cider == pytest.approx(_coco(Cider(), answers, references), rel=1e-9)
    return scores


@pytest.mark.parametrize("number", [1, 60])
@pytest.mark.parametrize("pick", [lambda s, i: [s[i]], lambda s, i: [s[i], s[i - 1], s[i // 2]]], ids=["one", "three"])
def test_scores_are_those_of_coco(number: int, pick: Callable[[list[str], int], list[str]]) -> None:
    sentences = _sentences(number)
    answers, references = _altered(sentences), [pick(sentences, i) for i in range(number)]
    scores = _scores_as_coco(answers, references)
    assert number == 1 or 0.2 < scores.rouge_l < 0.95  # neither nothing nor all is right


@pytest.mark.skipif(not _DRIVELM.exists(), reason="no DriveLM sample beside the project")
def test_scores_of_drivelm_answers_are_those_of_coco() -> None:
    scenes = json.loads(_DRIVELM.read_text(encoding="utf-8"))
    frames = [frame for scene in scenes.values() for frame in scene["key_frames"].values()]
    truths = [qa["A"] for frame in frames for group in frame["QA"].values() for qa in group]
    answers, references = _altered(truths), [[truth] for truth in truths]
    _scores_as_coco(answers, references)


def test_bleu_by_hand() -> None:
    # Five of six words; of five pairs "the cat", "on the" and "the mat" (Papineni et al., section 2).
    answer, reference = tokenize("the cat sat on the mat"), tokenize("the cat is on the mat")
    one, two, *_ = bleu([answer], [[reference]])
    assert one == pytest.approx(5 / 6)
    assert two == pytest.approx(math.sqrt(5 / 6 * 3 / 5))


def test_a_short_answer_pays_for_its_brevity() -> None:
    one, *_ = bleu([tokenize("the cat")], [[tokenize("the cat is on the mat")]])
    assert one == pytest.approx(math.exp(1 - 6 / 2))


def test_rouge_by_hand() -> None:
    # Lin's example: "police ... the gunman" shares 2 of 4 words in order; with equal lengths F is precision and recall.
    truth = tokenize("police killed the gunman")
    assert rouge_l(tokenize("the gunman kill police"), [truth]) == pytest.approx(0.5)
    assert rouge_l(tokenize("police kill the gunman"), [truth]) == pytest.approx(0.75)


def test_cider_gives_words_that_all_share_no_weight() -> None:
    truths = [tokenize("yes it is red"), tokenize("yes it is blue")]
    assert cider([tokenize("yes it is"), tokenize("yes it is")], [[truth] for truth in truths]) < 1e-9
    assert cider(truths, [[truth] for truth in truths]) > 5


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Yes.", "yes"),
        ("Slow down. The light is red!", "slow down the light is red"),
        ("It's the driver's car; don't stop (now)", "it 's the driver 's car do n't stop -lrb- now -rrb-"),
        ("<c1,CAM_BACK,1088.3,497.5>.", "< c1 cam_back ,1088.3,497.5 >"),
        ("", ""),
    ],
)
def test_sentences_are_cut_as_stanford_cuts_them(sentence: str, words: str) -> None:
    assert " ".join(tokenize(sentence)) == words


@pytest.mark.parametrize(("answers", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_what_cannot_be_scored_is_refused(answers: list[str], references: list[list[str]]) -> None:
    with pytest.raises(DatasetError, match="expected as many, at least one"):
        language_scores(answers, references)
