"""The code that calls TensorRT and CUDA, held against their real Python bindings by the type checker."""
