"""What a user writes: recipes in YAML, ours and Distiller's, as checked, frozen dataclasses.

Knows layers by name only; what a recipe means for one network, the plan, is in ``training``.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["checks", "layer_patterns", "reader", "schema", "shipped", "strict", "yaml_source"]
