"""What both drivers have in common: the passes over one server, and what they need of whoever drives them.

A driver says what there is (`ServerView`), keeps the durable object (`DurableStore`) and tells people (`People`); the
worker does the rest, the same everywhere.
"""
