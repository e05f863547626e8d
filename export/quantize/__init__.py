"""A float bundle and its calibration table become an INT8 bundle: standard ONNX with explicit Q/DQ."""
