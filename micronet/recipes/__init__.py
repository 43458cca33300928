"""The recipes and plans that come with the package; ``micronet.recipe.shipped`` finds them."""

# The modules that other packages may use: there are none, only files.
__all__: list[str] = []
