"""Latency and memory of a bundle: measured, held against a budget, predicted for a device."""
