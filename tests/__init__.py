"""Tests of leo_edge; folders mirror the packages."""
