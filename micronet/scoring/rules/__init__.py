"""Rule sets of the scorer: what each recorded operation and stored tensor costs.

A rule set is a ``RuleSet``: data and functions, and a new one is a new object.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["ist_versions", "official", "rule_set", "tracks"]
