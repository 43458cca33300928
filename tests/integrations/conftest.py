"""What other packages look for, and must not find here."""

import sys

# Transformers uses a package of this name where there is one; the folder beside the tests is ours,
# and is imported as micronet_kernels alone.
sys.modules["kernels"] = None
