"""The tokenizer of a bundle, and text that appears while it is decoded."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer
from tokenizers.decoders import DecodeStream

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
        self._hf = tokenizer._tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop_strings = stop_strings
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Takes one token and returns the text that is new and final; sets `stopped` at a stop string."""
        self._held += self._stream.step(self._hf, token_id) or ""
        found = [at for stop in self._stop_strings if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, self._held[: min(found)]
        return self._release(0 if self.stopped else self._ambiguous())

    def finish(self) -> str:
        """Returns what was held back."""
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
