"""Programs that stand in for those that the benchmark of the engine starts."""


def program(path, text):
    """Write a script that can be run, and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path
