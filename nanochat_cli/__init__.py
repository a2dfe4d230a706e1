"""nanochat: from raw text to a language model you can talk to, as one command-line tool."""

__version__ = "0.1.0"
