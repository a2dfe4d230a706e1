"""Architectures, one file each: the file's name is the value of `--arch`, its `ARCH` is the model class.

Shared machinery lies beside them: `shape` (torch-free sizes), `base` (skeleton), `attention`, `loss`, `build`.
"""
