"""The CPU form of a bundle's graphs: what onnxruntime runs faster there, equal to the standard graphs that they are made from.

Microsoft-domain operators that fuse attention and norms, products of one input packed into one. Weights stay where they are: a
form names the same data files, and onnxruntime puts packed ones together when it loads them.
"""
