"""Doubles of the modules `tensorrt` and `cuda.bindings.runtime`, for tests on machines without a GPU.

They are not TensorRT and not CUDA. They are held against the real bindings (tensorrt 10.3, 10.16 and 11.4, cuda-bindings 12.9
and 13.5), and refuse with the real texts what the real ones refuse; a graph is computed by onnxruntime on the
CPU. What the real ones leave undefined, and what would crash them, raises `Undefined`, `Race` or `Crash`, which no
`except Exception` catches.

`fixtures.py` says how tests use them.
"""
