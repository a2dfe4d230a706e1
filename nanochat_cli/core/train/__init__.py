"""Training: schedules, one loop, and a file per stage."""
