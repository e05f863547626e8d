"""A small drawn driving world: scenes from a seed, six cameras, frames with the depth and the object behind every pixel."""
