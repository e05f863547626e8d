"""Runs a bundle on camera frames and answers questions: what the vehicle carries. Imports nothing else of leo_edge."""
