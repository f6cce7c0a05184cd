include "kernels.pxi"      # -mavx2 -mfma: vectors of 32 bytes, see setup.py
