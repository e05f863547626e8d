"""What the imaginary device does, below both doubles: memory, streams, events, graphs, and the order among them."""
