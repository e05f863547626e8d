"""OpenVINO's models: the language model as optimum-intel would write it (stateful), and a vision expert from its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from weights import make_bundles, make_hf, once, textured_image


def make_openvino_llm(work: Path, precision: str) -> Path:
    """Writes the language model with its cache as state, in fp32 or, as OpenVINO GenAI has it, with int8 weights by nncf."""
    import openvino as ov

    hf = make_hf(work)

    def make(path: Path) -> None:
        if precision == "fp32":
            model = stateful_llm(hf)
        else:
            import nncf

            model = ov.Core().read_model(make_openvino_llm(work, "fp32") / "openvino_model.xml")
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        path.mkdir()
        ov.save_model(model, path / "openvino_model.xml", compress_to_fp16=False)

    return once(work / f"openvino-{precision}", make)


def stateful_llm(hf: Path) -> Any:
    """Converts transformers' model: the past goes in and out as tensors, which then become OpenVINO's state."""
    import openvino as ov
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import LlamaForCausalLM
    from transformers.cache_utils import DynamicCache

    model = LlamaForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="sdpa").eval()
    config = model.config
    row = (1, config.num_key_value_heads, 1, config.head_dim)

    class Given(DynamicCache):
        """A cache of given tensors, which are only ever appended to."""

        def __init__(self, flat: tuple[torch.Tensor, ...]) -> None:
            super().__init__(config=config)
            self.pairs = [[flat[i], flat[i + 1]] for i in range(0, len(flat), 2)]

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return self.pairs[layer_idx][0].shape[2]

        def update(self, key: Any, value: Any, layer_idx: int, *_: Any, **__: Any) -> Any:
            pair = self.pairs[layer_idx]
            pair[:] = [torch.cat([pair[0], key], 2), torch.cat([pair[1], value], 2)]
            return tuple(pair)

    class Flat(torch.nn.Module):
        """The model over tensors alone, with the last position's logits."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> Any:
            cache = Given(past)
            slots = torch.arange(attention_mask.shape[1])
            mask = (slots[None, None] <= position_ids[..., None])[:, None] & attention_mask[:, None, None].bool()
            out = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                logits_to_keep=1,
            )
            return (out.logits, *(tensor for pair in cache.pairs for tensor in pair))

    past = tuple(torch.zeros(row) for _ in range(2 * config.num_hidden_layers))
    example = (torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64), torch.tensor([[1, 2]]), *past)
    with torch.inference_mode():
        converted = ov.convert_model(Flat(), example_input=example)
    pasts = []
    names = ["input_ids", "attention_mask", "position_ids"]
    names += [f"past_key_values.{i}.{part}" for i in range(config.num_hidden_layers) for part in ("key", "value")]
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        if name.startswith("past"):
            pasts.append(name)
            port.get_node().set_partial_shape(ov.PartialShape([-1, row[1], -1, row[3]]))
        else:
            port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
    presents = [name.replace("past_key_values", "present") for name in pasts]
    for port, name in zip(converted.outputs, ["logits", *presents], strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    _reorder_by_beam(converted, pasts)
    apply_make_stateful_transformation(converted, dict(zip(pasts, presents, strict=True)))
    _start_empty(converted)
    return converted


def _reorder_by_beam(model: Any, pasts: list[str]) -> None:
    """Puts the gather by `beam_idx` behind each past, by which OpenVINO knows a cache (optimum-intel's fuse_cache_reorder)."""
    import openvino as ov
    from openvino import opset13 as ops

    beam_idx = ops.parameter(name="beam_idx", dtype=ov.Type.i32, shape=ov.PartialShape([-1]))
    beam_idx.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beam_idx])
    for name in pasts:
        port = model.input(name)
        consumers = port.get_target_inputs()
        gather = ops.gather(port, beam_idx, ops.constant(0))
        for consumer in consumers:
            consumer.replace_source_output(gather.output(0))
    model.validate_nodes_and_infer_types()


def _start_empty(model: Any) -> None:
    """Gives each state an empty first value (optimum-intel's build_state_initializer)."""
    from openvino import opset13 as ops

    batch = ops.gather(ops.shape_of(model.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, width = (dim.min_length for dim in node.get_output_partial_shape(0))
            dims = [batch, *(ops.constant(np.array([dim], np.int64)) for dim in (heads, 0, width))]
            empty = ops.constant(0.0, dtype=node.get_output_element_type(0))
            node.set_arguments([ops.broadcast(empty, ops.concat(dims, axis=0))])
    model.validate_nodes_and_infer_types()


def make_openvino_expert(work: Path) -> Path:
    """Quantizes the expert InternViT by nncf's post-training quantization, from the float graph."""
    floating, _ = make_bundles(work, "mini")

    def make(path: Path) -> None:
        import nncf
        import openvino as ov

        model = ov.Core().read_model(floating / "vision.internvit.onnx")
        tiles = [textured_image(seed, 448, 448)[None] for seed in range(4)]
        quantized = nncf.quantize(model, nncf.Dataset(tiles), subset_size=len(tiles), model_type=nncf.ModelType.TRANSFORMER)
        path.mkdir()
        ov.save_model(quantized, path / "openvino_model.xml", compress_to_fp16=False)

    return once(work / "openvino-expert-int8", make)


def make_onnxruntime_expert(work: Path) -> Path:
    """Quantizes the expert InternViT by onnxruntime's dynamic quantization, from the float graph."""
    floating, _ = make_bundles(work, "mini")

    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path.mkdir()
        quantize_dynamic(
            floating / "vision.internvit.onnx",
            path / "model.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            use_external_data_format=True,
        )

    return once(work / "onnxruntime-expert-int8", make)
