"""INT8 calibration: what activations look like on real questions, and the scales that follow."""
