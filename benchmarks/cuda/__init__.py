"""What is known of the CUDA kernels before they run: the table of their compiled code."""
