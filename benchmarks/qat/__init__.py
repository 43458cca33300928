"""A whole training step: its time, its memory, its layers, beside what users have."""
