"""What makes a step fast on a GPU: Triton kernels, the layers and trunk built on them, bfloat16 forward passes."""
