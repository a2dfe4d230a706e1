"""What runs in the isolated interpreter: only the standard library, and no secret of the process that started it."""

LANDLOCK, SECCOMP, SEATBELT, BARE = "landlock+seccomp", "seccomp, no files", "seatbelt", "none"
"""The tiers of one process: what it is locked up by. `none` keeps the limits only."""
