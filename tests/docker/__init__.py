"""Tests of docker/: what can be known of images that nobody built here."""
