"""CUDA's runtime as the double's `cuda.bindings.runtime` shows it, held against cuda-bindings 12.9.10 and 13.5.0."""
