"""The report card of a run: one Markdown file and one HTML file, made from what the stages recorded."""
