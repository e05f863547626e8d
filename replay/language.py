"""BLEU-1..4, ROUGE-L and CIDEr of answers in sentences, as COCO's caption evaluation counts them, and DriveLM's challenge.

Definitions: BLEU (Papineni et al., ACL 2002) over the whole set, with the reference length that is closest; ROUGE-L (Lin, ACL
Workshop 2004) with beta 1.2; CIDEr-D (arXiv 1411.5726) times 10; all as in https://github.com/tylin/coco-caption (arXiv
1504.00325).

COCO cuts sentences with Stanford's Penn Treebank tokenizer, in Java. `tokenize` does the same with NLTK's, which needs none: on
the 395 questions and 395 answers of DriveLM's sample, to the word.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from nltk.tokenize import TreebankWordTokenizer

from leo_edge.runtime.errors import DatasetError

Tokens = tuple[str, ...]
Grams = Counter[Tokens]

LONGEST_GRAM = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
# What COCO takes off after tokenizing. Brackets stay: it looks for -LRB- when they are -lrb- already.
_PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
# Where Stanford's tokenizer cuts and NLTK's does not: at a full stop within a text, and between a word and a number.
_FULL_STOP = re.compile(r"(?<=[\w>)\]][\w>)\]])\.(?=\s)")
_BEFORE_NUMBER = re.compile(r"(?<=[A-Za-z_])(?=,\d)")
# COCO adds these to BLEU's counts, so that no share divides by zero or is zero.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class LanguageScores:
    """BLEU-1..4 and ROUGE-L are 0 to 1, CIDEr 0 to 10."""

    bleu: tuple[float, float, float, float]
    rouge_l: float
    cider: float

    @property
    def drivelm(self) -> float:
        """DriveLM's language score: the mean of mean BLEU, ROUGE-L and a tenth of CIDEr."""
        return (fmean(self.bleu) + self.rouge_l + self.cider / 10) / 3

    def to_json(self) -> dict[str, float]:
        """Returns them as JSON values."""
        bleu = {f"bleu_{i}": value for i, value in enumerate(self.bleu, start=1)}
        return bleu | {"rouge_l": self.rouge_l, "cider": self.cider, "language": self.drivelm}


def language_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> LanguageScores:
    """Scores answers [N] against one or more references of each [N].

    Raises:
        DatasetError: there is no answer, or not as many as references, or an answer has none.
    """
    if not answers or len(answers) != len(references) or not all(references):
        raise DatasetError(
            f"got {len(answers)} answers and {len(references)} lists of references, expected as many, at least one, and "
            "none empty: give each answer its references"
        )
    cut = [tokenize(answer) for answer in answers]
    known = [tuple(tokenize(reference) for reference in group) for group in references]
    return LanguageScores(bleu(cut, known), fmean(map(rouge_l, cut, known)), cider(cut, known))


def tokenize(sentence: str) -> Tokens:
    """Cuts a sentence into lower-case words, without punctuation."""
    text = _BEFORE_NUMBER.sub(" ", _FULL_STOP.sub(" .", " ".join(sentence.split())))
    words = _treebank().tokenize(text, convert_parentheses=True)
    return tuple(word.lower() for word in words if word not in _PUNCTUATION)


def bleu(answers: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, float, float, float]:
    """Returns BLEU-1..4 of a set."""
    right, given = [0] * LONGEST_GRAM, [0] * LONGEST_GRAM
    own_length = closest_length = 0
    for answer, group in zip(answers, references, strict=True):
        own_length += len(answer)
        closest_length += min((abs(len(one) - len(answer)), len(one)) for one in group)[1]
        for n in range(1, LONGEST_GRAM + 1):
            most: Grams = Counter()
            for one in group:
                most |= _grams(one, n)
            right[n - 1] += (_grams(answer, n) & most).total()
            given[n - 1] += max(0, len(answer) - n + 1)
    ratio = (own_length + _TINY) / (closest_length + _SMALL)
    brevity = min(1.0, math.exp(1 - 1 / ratio)) if ratio else 0.0
    logs = [math.log((hit + _TINY) / (all_ + _SMALL)) for hit, all_ in zip(right, given, strict=True)]
    means = [brevity * math.exp(fmean(logs[:n])) for n in range(1, LONGEST_GRAM + 1)]
    return means[0], means[1], means[2], means[3]


def rouge_l(answer: Tokens, references: Sequence[Tokens]) -> float:
    """Returns ROUGE-L of one answer: F of the longest common subsequence, best precision and best recall of all references."""
    common = [(_longest_common(answer, one), len(one)) for one in references]
    # A sentence without a word counts one, an empty one, as COCO's splitting makes it.
    precision = max(length / max(1, len(answer)) for length, _ in common)
    recall = max(length / max(1, size) for length, size in common)
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def cider(answers: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Returns CIDEr-D of a set, 0 to 10. Of a single answer it is 0: no word is rarer than another."""
    found: Counter[Tokens] = Counter()
    for group in references:
        found.update({gram for one in group for n in range(1, LONGEST_GRAM + 1) for gram in _grams(one, n)})
    rarity = {gram: math.log(len(references)) - math.log(count) for gram, count in found.items()}
    unseen = math.log(len(references))
    scores = []
    for answer, group in zip(answers, references, strict=True):
        mine = _weighted(answer, rarity, unseen)
        scores.append(10 * fmean(_likeness(answer, mine, one, _weighted(one, rarity, unseen)) for one in group))
    return fmean(scores)


_Vectors = tuple[Mapping[Tokens, float], ...]  # for n-grams of 1 to LONGEST_GRAM words


def _weighted(sentence: Tokens, rarity: Mapping[Tokens, float], unseen: float) -> _Vectors:
    """Weighs a sentence's n-grams by how often they stand in it and how rare they are in the references."""
    return tuple(
        {gram: count * rarity.get(gram, unseen) for gram, count in _grams(sentence, n).items()}
        for n in range(1, LONGEST_GRAM + 1)
    )


def _likeness(answer: Tokens, mine: _Vectors, reference: Tokens, theirs: _Vectors) -> float:
    """Mean over n of the clipped cosine, less for lengths that differ; COCO takes the number of bigrams for the length."""
    gap = max(0, len(answer) - 1) - max(0, len(reference) - 1)
    cosines = []
    for one, other in zip(mine, theirs, strict=True):
        shared = sum(min(one.get(gram, 0.0), weight) * weight for gram, weight in other.items())
        norm = math.hypot(*one.values()) * math.hypot(*other.values())
        cosines.append(shared / norm if norm else shared)
    return math.exp(-(gap**2) / (2 * _CIDER_SIGMA**2)) * fmean(cosines)


def _grams(sentence: Tokens, n: int) -> Grams:
    return Counter(sentence[i : i + n] for i in range(len(sentence) - n + 1))


def _longest_common(first: Tokens, second: Tokens) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        corner = 0
        for j, other in enumerate(second, start=1):
            corner, row[j] = row[j], corner + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


@lru_cache(maxsize=1)
def _treebank() -> TreebankWordTokenizer:
    return TreebankWordTokenizer()
