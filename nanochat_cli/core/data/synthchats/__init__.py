"""Conversations about who the model is, made of a topic file: through an endpoint, or from templates without one."""
