"""Evaluation: compression of held-out text (bits per byte) and graded replies to tasks."""
