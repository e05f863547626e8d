"""runtime/tokenizer.py: streamed text is the text that decoding gives at once, and ends before the first stop string."""

import itertools
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as HfTokenizer

from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.tokenizer import TextStream, Tokenizer

WORLD = "Größe: 3 m, 前方 🚗 and 👩‍👩‍👧 – é"
BOS, END = "<s>", "<|im_end|>"


def byte_level(specials: tuple[str, ...] = (BOS, END), words: tuple[str, ...] = (), bos: str | None = None) -> HfTokenizer:
    """One token per byte, as GPT-2's family is built on, special tokens first and whole words last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = HfTokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))]
        )
    return tokenizer


def byte_fallback() -> HfTokenizer:
    """Words with a mark for the space before them, and bytes for the rest, as Llama 2's family (InternLM2, Phi-3) has."""
    tokens = ["<unk>", BOS, END, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b", "▁car"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = HfTokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([BOS, END])
    return tokenizer


def saved(tokenizer: HfTokenizer, directory: Path) -> Tokenizer:
    tokenizer.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory / "tokenizer.json")


def stream_all(tokenizer: Tokenizer, token_ids: list[int], *stop_strings: str) -> tuple[list[str], TextStream]:
    """Pushes tokens until the stream has stopped; returns the pieces, that of `finish` last."""
    stream = TextStream(tokenizer, stop_strings)
    pieces = []
    for token_id in token_ids:
        pieces.append(stream.push(token_id))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    assert "".join(pieces) == stream.text
    return pieces, stream


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return saved(byte_level(words=("now##then", "EOL##END")), tmp_path)


class TestTokenizer:
    def test_text_survives_there_and_back(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode(WORLD, special=False)) == WORLD

    def test_special_tokens_are_one_id_each_and_not_in_the_text(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode(f"{BOS}hi{END}", special=False)
        assert (ids[0], ids[-1], len(ids)) == (0, 1, 4)
        assert tokenizer.decode(ids) == "hi"

    def test_special_adds_what_stands_around_a_sequence(self, tmp_path: Path) -> None:
        tokenizer = saved(byte_level(bos=BOS), tmp_path)
        plain = tokenizer.encode("hi", special=False)
        assert tokenizer.encode("hi", special=True) == [0, *plain]

    def test_id_of_a_token(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.id_of(END) == 1
        assert tokenizer.id_of("<|end|>") is None

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b'{"version": "1.0", "model": null}', b"\xff\xfe", b"<s>"])
    def test_not_a_tokenizer(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer: "):
            Tokenizer(tmp_path / "tokenizer.json")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer: .*No such file"):
            Tokenizer(tmp_path / "tokenizer.json")


class TestStream:
    def test_pieces_make_the_decoded_text(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode(WORLD, special=False)
        pieces, stream = stream_all(tokenizer, ids)
        assert len(ids) == len(WORLD.encode()) > len(WORLD)
        assert stream.text == tokenizer.decode(ids) == WORLD
        assert "".join(tokenizer.decode([token_id]) for token_id in ids) != WORLD  # one by one they are no characters
        assert not any("�" in piece for piece in pieces)

    def test_a_character_appears_with_its_last_byte(self, tokenizer: Tokenizer) -> None:
        pieces, _ = stream_all(tokenizer, tokenizer.encode("a🚗é", special=False))
        assert pieces == ["a", "", "", "", "🚗", "", "é", ""]

    def test_any_bytes_make_the_decoded_text(self, tokenizer: Tokenizer) -> None:
        rng = random.Random(0)
        compared = 0
        for _ in range(300):
            ids = [rng.randrange(2, 258) for _ in range(rng.randrange(1, 12))]
            expected = tokenizer.decode(ids)
            assert stream_all(tokenizer, ids)[1].text == expected
            compared += "�" in expected
        assert compared > 50

    def test_the_beginning_of_a_character_at_the_end_is_a_replacement_character(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("a🚗", special=False)[:-1]
        assert stream_all(tokenizer, ids)[1].text == tokenizer.decode(ids) == "a�"

    def test_special_tokens_give_no_text(self, tokenizer: Tokenizer) -> None:
        pieces, stream = stream_all(tokenizer, tokenizer.encode(f"a{BOS}b{END}", special=False))
        assert pieces == ["a", "", "b", "", ""]
        assert not stream.stopped

    def test_spaces_before_words_are_kept_but_the_first(self, tmp_path: Path) -> None:
        tokenizer = saved(byte_fallback(), tmp_path)
        tokens = ["▁a", "b", "▁car", *(f"<0x{byte:02X}>" for byte in "🚗".encode()), "b", "▁", "▁a"]
        ids = [tokenizer.id_of(token) or 0 for token in tokens]
        pieces, stream = stream_all(tokenizer, ids)
        assert pieces == ["a", "b", " car", "", "", "", "🚗", "b", " ", " a", ""]
        assert stream.text == tokenizer.decode(ids) == "ab car🚗b  a"

    def test_bytes_that_are_no_characters_do_not_end_the_answer(self, tmp_path: Path) -> None:
        tokenizer = saved(byte_fallback(), tmp_path)
        ids = [tokenizer.id_of(token) or 0 for token in ("<0x41>", "<0xFF>", "b")]
        assert tokenizer.decode(ids) == "��b"
        assert stream_all(tokenizer, ids)[1].text.endswith("b")


class TestStopStrings:
    @pytest.mark.parametrize(
        ("text", "stop_strings", "pieces"),
        [
            ("a##b", ("##",), ["a", "", "", ""]),
            ("##b", ("##",), ["", "", ""]),
            ("a#b", ("##",), ["a", "", "#b", ""]),  # held back until it was clear
            ("a#", ("##",), ["a", "", "#"]),  # clear at the end
            ("aaab", ("aab",), ["", "", "a", "", ""]),
            ("xaby", ("abc", "b"), ["x", "", "a", ""]),  # the shorter one is complete first
            ("xabcy", ("bc", "abc"), ["x", "", "", "", ""]),  # the longer one begins first
            ("abd", ("abc", "bd"), ["", "", "a", ""]),
            ("a\n\nb", ("\n\n", "###"), ["a", "", "", ""]),
            ("a🚗b", ("🚗",), ["a", "", "", "", "", ""]),
            ("abc", ("d",), ["a", "b", "c", ""]),
            ("abc", (), ["a", "b", "c", ""]),
        ],
    )
    def test_across_tokens(self, tokenizer: Tokenizer, text: str, stop_strings: tuple[str, ...], pieces: list[str]) -> None:
        got, stream = stream_all(tokenizer, tokenizer.encode(text, special=False), *stop_strings)
        assert got == pieces
        assert stream.stopped == any(stop in text for stop in stop_strings)

    @pytest.mark.parametrize("stop", ["##", "#", "w##t", "w", "now##then", "then"])
    def test_within_one_token(self, tokenizer: Tokenizer, stop: str) -> None:
        ids = tokenizer.encode("now##then", special=False)
        pieces, stream = stream_all(tokenizer, ids, stop)
        assert len(ids) == 1
        assert stream.stopped
        assert pieces[0] == stream.text == "now##then".partition(stop)[0]

    def test_begun_in_one_token_and_ended_in_the_next(self, tokenizer: Tokenizer) -> None:
        ids = [tokenizer.id_of("now##then") or 0, tokenizer.id_of("EOL##END") or 0]
        pieces, stream = stream_all(tokenizer, ids, "enEOL")
        assert (pieces, stream.stopped) == (["now##th", "", ""], True)
        assert stream_all(tokenizer, ids, "enEOF")[1].text == "now##thenEOL##END"

    def test_of_two_in_one_token_the_first_in_the_text_ends_it(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("EOL##END", special=False)
        assert stream_all(tokenizer, ids, "END", "##")[1].text == "EOL"
        assert stream_all(tokenizer, ids, "END")[1].text == "EOL##"

    def test_every_short_text_ends_where_the_first_stop_string_is_complete(self, tokenizer: Tokenizer) -> None:
        stop_strings = ("ab", "bba", "aaaa")
        stopped = 0
        for letters in itertools.product("abc", repeat=6):
            text = "".join(letters)
            ends = [n for n in range(len(text) + 1) if any(stop in text[:n] for stop in stop_strings)]
            seen = text[: ends[0]] if ends else text
            expected = seen[: min(seen.find(stop) for stop in stop_strings if stop in seen)] if ends else seen
            _, stream = stream_all(tokenizer, tokenizer.encode(text, special=False), *stop_strings)
            assert (stream.text, stream.stopped) == (expected, bool(ends)), text
            stopped += stream.stopped
        assert 0 < stopped < 3**6

    def test_no_more_is_held_back_than_a_stop_string_needs(self, tokenizer: Tokenizer) -> None:
        stream = TextStream(tokenizer, ("abcd",))
        emitted = ""
        for count, token_id in enumerate(tokenizer.encode("xabcabcxab", special=False), start=1):
            emitted += stream.push(token_id)
            assert count - len(emitted) < len("abcd")
        assert emitted == "xabcabcx"

    def test_an_empty_stop_string_is_refused(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(ValueError, match="stop string"):
            TextStream(tokenizer, ("",))
