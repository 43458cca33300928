"""``make gpu``: everything that a device is wanted for, measured by one command in minutes.

The stages of ``table``, each a process with a limit of its own, done in order of worth; what they
found is written after each. The measuring itself is in ``stages/``.
"""
