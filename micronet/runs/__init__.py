"""Run directories and checkpoints: what is written, and how a network comes back."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["checkpoint", "description", "directory", "folder", "folder_files", "run_config"]
