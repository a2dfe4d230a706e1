"""Inference: one way to continue text, for evaluation, reinforcement learning and chat."""
