"""``make coverage``: what works of each family of networks, and the sentence where it does not."""
