"""Turns a LEO or LEO-MINI checkpoint into a bundle of ONNX graphs."""
