"""Whether the sizes that a manifest states are those of its graphs."""

from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.manifest import BundleManifest


def check_sizes(manifest: BundleManifest) -> None:
    """Checks that the manifest's sizes are those of its graphs, whose own shapes the sessions check.

    Raises:
        BundleError: they are not.
    """
    decoder, px = manifest.decoder, manifest.tiling.tile_px
    past: tuple[int | str, ...] = ("P", decoder.num_kv_heads, decoder.head_dim)
    if decoder.cache == "scatter":
        past = (1, decoder.num_kv_heads, "C", decoder.head_dim)
    wanted: dict[tuple[str, str], tuple[int | str, ...]]
    wanted = {("llm", "embeds"): ("S", decoder.hidden_size), ("llm", "logits"): ("Q", decoder.vocab_size)}
    wanted |= {("llm", f"past_{part}.{i}"): past for part in ("key", "value") for i in range(decoder.num_layers)}
    for expert in manifest.experts:
        wanted[f"vision.{expert.name}", "tiles"] = ("T", px, px, 3)
        wanted[f"vision.{expert.name}", "tokens"] = ("T", expert.num_tokens, expert.width)
    lead = "I" if manifest.fuse.unit == "image" else "T"
    wanted["fuse", "visual_embeds"] = (lead, manifest.fuse.num_tokens, decoder.hidden_size)
    for (name, port), shape in wanted.items():
        graph = manifest.graphs[name]
        found = {spec.name: spec.shape for spec in (*graph.inputs, *graph.outputs)}.get(port)
        if found != shape:
            raise BundleError(f"graph {name} has {port} of shape {found}, the manifest's sizes say {shape}: export again")
