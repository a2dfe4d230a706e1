"""One file per noun: parse, resolve the config, make one core call, show the result."""
