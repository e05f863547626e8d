"""Replays recorded drives through a pipeline and scores the answers."""
