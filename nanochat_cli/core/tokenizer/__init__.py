"""Text to token ids and back: the byte-pair tokenizer and the rendering of conversations. Free of torch."""
