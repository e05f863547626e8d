"""What TensorRT will refuse, or accept and silently not fuse, told before anybody stands at the device."""
