include "kernels.pxi"      # what every 64-bit processor has: vectors of 16 bytes, see setup.py
