"""What each key of a recipe is worth: many trainings from one dense start, and their table."""
