"""The tokenizer of a bundle, and text that appears while it is decoded."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from leo_edge.runtime.errors import BundleError


class Tokenizer:
    """A Hugging Face fast tokenizer (tokenizer.json)."""

    def __init__(self, path: Path) -> None:
        """Loads the file.

        Raises:
            BundleError: it is not a tokenizer.
        """
        try:
            self._tokenizer = HfTokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every bad file
            raise BundleError(f"{path} is no tokenizer: {error}") from None

        added = self._tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = frozenset(token.content for token in added if token.special)

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Returns the token ids of a text. `special` adds what the tokenizer puts around a sequence, such as <s>."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, token_ids: list[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def id_of(self, token: str) -> int | None:
        """Returns the id of one token, or None if it is not in the vocabulary."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)


class TextStream:
    """Turns token ids into text piece by piece, ending before the first stop string.

    Text that may be the beginning of a stop string is held back until it is clear.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: tuple[str, ...]) -> None:
        if "" in stop_strings:
            raise ValueError("a stop string must not be empty: it would end every answer")
        self._tokenizer = tokenizer
        # Decoded again with each token: ids[_start:], of which the text of ids[_start:_seen] is out already.
        self._ids: list[int] = []
        self._start = self._seen = 0
        self._stop_strings = stop_strings
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Takes one token and returns the text that is new and final; sets `stopped` at a stop string."""
        self._held += self._decode(token_id)
        found = [at for stop in self._stop_strings if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, self._held[: min(found)]
        return self._release(0 if self.stopped else self._ambiguous())

    def _decode(self, token_id: int) -> str:
        """Returns the text that one more token completes. A character whose bytes are not all there waits for the rest."""
        self._ids.append(token_id)
        out = self._tokenizer.decode(self._ids[self._start : self._seen])
        text = self._tokenizer.decode(self._ids[self._start :])
        if len(text) <= len(out) or text.endswith("\ufffd"):
            return ""
        self._start, self._seen = self._seen, len(self._ids)
        return text[len(out) :]

    def finish(self) -> str:
        """Returns what was held back, the beginning of a character that was never finished as U+FFFD."""
        if not self.stopped:
            out = self._tokenizer.decode(self._ids[self._start : self._seen])
            self._held += self._tokenizer.decode(self._ids[self._start :])[len(out) :]
        return self._release(0)

    def _ambiguous(self) -> int:
        """Returns how many characters at the end may begin a stop string."""
        lengths = [n for stop in self._stop_strings for n in range(1, len(stop)) if self._held.endswith(stop[:n])]
        return max(lengths, default=0)

    def _release(self, held: int) -> str:
        cut = len(self._held) - held
        piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece
