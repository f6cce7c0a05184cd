"""splitmix64's finaliser over an array, in place of nine passes of torch's: see tasks/hashing.py."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    static void mix_words(uint64_t *z, int64_t n) {
      for (int64_t i = 0; i < n; i++) {
        uint64_t word = z[i];
        word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
        z[i] = word ^ (word >> 31);
      }
    }
    """
    void mix_words(uint64_t *z, int64_t n)


def mix(int64_t[::1] words not None):
    """Each word in place by its mix, as the 64 bits that they are."""
    if words.shape[0]:
        with nogil:
            mix_words(<uint64_t *> &words[0], words.shape[0])
