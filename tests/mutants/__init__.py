"""Faults put into the code on purpose: each must make a test fail. See docs/tests.md."""
