"""transformers' LlamaForCausalLM in float32: eager, compiled with a static cache, or dynamic INT8; see `protocol.py`."""

from __future__ import annotations

from typing import Any

import torch
from protocol import llm_arguments, serve_llm
from transformers import DynamicCache, LlamaForCausalLM, StaticCache

# Long enough for the prompt and the answer: a static cache is computed over the whole of it.
_STATIC_ROOM = 64


class TransformersEngine:
    """The model and its cache."""

    def __init__(self, directory: Any, *, form: str, max_len: int) -> None:
        self._model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self._form, self._cache = form, None
        if form == "int8":
            self._model = torch.ao.quantization.quantize_dynamic(self._model, {torch.nn.Linear}, dtype=torch.qint8)
        if form == "compile":
            self._cache = StaticCache(self._model.config, max_cache_len=max_len + _STATIC_ROOM)
            self._step = torch.compile(self._model.forward, dynamic=False)
        self._length = 0

    def prefill(self, ids: list[int]) -> Any:
        """See `LlmEngine`."""
        if self._form == "compile":
            self._cache.reset()
        else:
            self._cache = DynamicCache(config=self._model.config)
        self._length = 0
        return self._run(ids)

    def step(self, token_id: int) -> Any:
        """See `LlmEngine`."""
        return self._run([token_id])

    @torch.no_grad()  # a compiled model may not update its cache in inference mode
    def _run(self, ids: list[int]) -> Any:
        positions = torch.arange(self._length, self._length + len(ids))[None]
        forward = self._step if self._form == "compile" else self._model
        out = forward(
            input_ids=torch.tensor([ids]),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._length += len(ids)
        return out.logits[0, -1].numpy()


def main() -> None:
    """Serves."""
    parser = llm_arguments(__doc__, "a folder of transformers")
    parser.add_argument("--form", choices=("eager", "compile", "int8"), default="eager")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    serve_llm(TransformersEngine(args.model, form=args.form, max_len=args.prompt + args.answer), args)


if __name__ == "__main__":
    main()
