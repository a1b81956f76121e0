"""One file for each step; `schema.py` says what a step may do."""
