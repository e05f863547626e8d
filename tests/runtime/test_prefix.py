"""runtime/prefix.py: how much of a prompt is the one before."""

import numpy as np

from leo_edge.runtime.prefix import CachedPrompt

FRONT, LEFT, OTHER = (np.full((2, 4), value, np.float32) for value in (1, 2, 1))
SPANS = ((1, 2), (4, 2))


def cached(*token_ids: int, visual: tuple[object, ...] = (FRONT, LEFT)) -> CachedPrompt:
    return CachedPrompt(token_ids, SPANS, visual)


BEFORE = cached(1, 0, 0, 2, 0, 0, 3, 4, 5)


def test_another_question_about_the_same_cameras_keeps_all_before_it() -> None:
    assert BEFORE.common(cached(1, 0, 0, 2, 0, 0, 3, 9, 9, 9)) == 7


def test_the_last_token_is_always_computed() -> None:
    assert BEFORE.common(cached(1, 0, 0, 2, 0, 0, 3, 4, 5)) == 8
    assert BEFORE.common(cached(1, 0, 0, 2, 0, 0)) == 5


def test_a_camera_that_was_encoded_anew_ends_it_even_if_its_numbers_are_the_same() -> None:
    assert BEFORE.common(cached(1, 0, 0, 2, 0, 0, 3, 9, visual=(FRONT, OTHER))) == 4
    assert BEFORE.common(cached(1, 0, 0, 2, 0, 0, 3, 9, visual=(OTHER, LEFT))) == 1


def test_a_camera_elsewhere_is_another_one() -> None:
    moved = CachedPrompt((1, 0, 0, 2, 0, 0, 3), ((1, 2), (3, 2)), (FRONT, LEFT))
    assert BEFORE.common(moved) == 3


def test_no_images() -> None:
    text = CachedPrompt((1, 2, 3), (), ())
    assert text.common(CachedPrompt((1, 2, 4, 5), (), ())) == 2
    assert text.common(CachedPrompt((7, 2), (), ())) == 0
