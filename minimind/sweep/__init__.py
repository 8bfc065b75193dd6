"""One setting after another: what a sweep varies, how its points compare, and how that is shown.

Not here: what runs them (`tasks.sweep`), and in which flow (`flows.sweep`).
"""
