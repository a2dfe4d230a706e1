"""Tasks: questions with a way to grade the reply. A new one is one file here that defines `TASK`."""
