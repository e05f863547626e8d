"""A small drawn driving world in nuScenes format, its questions and a tiny LEO-MINI trained on it."""
