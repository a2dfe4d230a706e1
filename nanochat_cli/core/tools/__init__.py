"""What a model may use while it writes."""
