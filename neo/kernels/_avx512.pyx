include "kernels.pxi"      # -mavx512f: vectors of 64 bytes, see setup.py
