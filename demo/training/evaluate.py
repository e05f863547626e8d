"""How good a student is on the dev split while it is trained: exact match by type, in torch, on features that are there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from leo_edge.demo.questions.sets import choose_set
from leo_edge.demo.questions.words import put_into_words
from leo_edge.demo.training.drawing import Asking
from leo_edge.demo.training.joint import Halves
from leo_edge.demo.training.sequence import PromptParts
from leo_edge.demo.training.student import Student

_PER_TYPE, _MOST_TOKENS = 100, 16


def dev_accuracy(
    student: Student, parts: PromptParts, features: Sequence[Halves], asked: Sequence[Asking], tokenizer: Tokenizer
) -> dict[str, float]:
    """Returns the share of right answers by question type, and their mean as "mean"."""
    device = student.table.device
    by_keyframe = defaultdict(list)
    for item in choose_set(asked, _PER_TYPE, seed=0):
        by_keyframe[item.keyframe].append(item)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for keyframe, items in by_keyframe.items():
        tokens = [torch.from_numpy(np.array(kind[keyframe][None], np.float32)).to(device) for kind in features]
        texts = [put_into_words(item.question, item.phrasing) for item in items]
        ids = [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
        answers = student.greedy(tokens, [len(ids)], ids, parts, _MOST_TOKENS)
        for item, answer in zip(items, answers, strict=True):
            total[item.question.kind] += 1
            right[item.question.kind] += tokenizer.decode(answer) == item.question.answer
    shares = {kind: right[kind] / count for kind, count in total.items()}
    return shares | {"mean": sum(shares.values()) / len(shares)}
