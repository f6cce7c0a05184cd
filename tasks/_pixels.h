/* One uint8 image as float32: moved, divided by 255 and normalised in one pass, with the bits that torch's
 * x.to(float32).div_(255).sub_(mean).div_(std) has.
 *
 * (3 x) * float32(1/765) has the bits of x / 255 for every x in 0..255, and costs a product in place of a quotient. To
 * hold, each operation must be rounded by itself: -ffp-contract=off.
 *
 * What is left is the time of memory. The next image is fetched while this one is computed; and where all of them
 * together are larger than the cache, so that none would be found there, they are written past it (`streamed`), which
 * saves the reading of every line before it is written. glibc's memcpy does so, too.
 *
 * One text, compiled for the vectors of several kinds of processors, of which the widest at hand is chosen. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define FETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define INLINE static inline
#define FETCH(address) ((void)(address))
#endif

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { BLOCK = 64 }; /* pixels: a cache line of them, four of floats */

typedef struct {
  int64_t channels, height, width;
  const float *mean, *std; /* of each channel, or NULL */
  int streamed;
} Images;

/* next: the image that follows. move: down, right, mirrored; or NULL. plane: scratch of height * width bytes, where there
 * is a move. */
typedef void (*TakeImage)(const Images *, const uint8_t *, const uint8_t *next, float *, const int64_t *move,
                          uint8_t *plane);

/* Branches outside of the loops, so that the compiler makes vectors of each. */
INLINE void convert(const uint8_t *x, float *y, int64_t n, const float *mean, const float *std) {
  const float unit = 1.0f / 765.0f, m = mean == NULL ? 0.0f : *mean, s = std == NULL ? 1.0f : *std;
  if (mean != NULL && std != NULL) {
    for (int64_t i = 0; i < n; i++) y[i] = ((float)(3 * (int32_t)x[i]) * unit - m) / s;
  } else if (mean != NULL) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(3 * (int32_t)x[i]) * unit - m;
  } else if (std != NULL) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(3 * (int32_t)x[i]) * unit / s;
  } else {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(3 * (int32_t)x[i]) * unit;
  }
}

INLINE void convert_fetching(const uint8_t *x, const uint8_t *next, float *y, int64_t n, const float *mean,
                             const float *std) {
  int64_t i = 0;
  for (; i + BLOCK <= n; i += BLOCK) {
    FETCH(next + i);
    convert(x + i, y + i, BLOCK, mean, std);
  }
  convert(x + i, y + i, n - i, mean, std);
}

#if defined(__SSE2__)
INLINE void convert_streaming(const uint8_t *x, const uint8_t *next, float *y, int64_t n, const float *mean,
                              const float *std) {
  int64_t i = (int64_t)(-(uintptr_t)y % 64 / sizeof(float)); /* up to where a line begins */
  if (i > n) i = n;
  convert(x, y, i, mean, std);
  for (; i + BLOCK <= n; i += BLOCK) {
    float lines[BLOCK];
    FETCH(next + i);
    convert(x + i, lines, BLOCK, mean, std);
    for (int k = 0; k < BLOCK; k += 4) _mm_stream_ps(y + i + k, _mm_loadu_ps(lines + k));
  }
  convert(x + i, y + i, n - i, mean, std);
}
#else
#define convert_streaming convert_fetching
#endif

INLINE int64_t within(int64_t value, int64_t most) { return value < -most ? -most : value > most ? most : value; }

/* The window of the plane's own size that begins (down, right) of its corner, mirrored or not; 0 outside of the plane. */
INLINE void move_plane(const uint8_t *x, uint8_t *y, int64_t height, int64_t width, const int64_t *move) {
  const int64_t down = within(move[0], height), right = within(move[1], width); /* further is as far outside */
  const int64_t mirrored = move[2], shift = mirrored ? -right : right;
  const int64_t first = shift < 0 ? -shift : 0, last = shift > 0 ? width - shift : width;
  for (int64_t row = 0; row < height; row++, y += width) {
    if (row + down < 0 || row + down >= height) {
      memset(y, 0, (size_t)width);
      continue;
    }
    const uint8_t *from = x + (row + down) * width + right;
    for (int64_t column = 0; column < first; column++) y[column] = 0;
    if (mirrored) {
      for (int64_t column = first; column < last; column++) y[column] = from[width - 1 - column];
    } else {
      for (int64_t column = first; column < last; column++) y[column] = from[column];
    }
    for (int64_t column = last; column < width; column++) y[column] = 0;
  }
}

INLINE void take(const Images *images, const uint8_t *x, const uint8_t *next, float *y, const int64_t *move,
                 uint8_t *plane) {
  const int64_t plane_size = images->height * images->width;
  const int together = move == NULL && images->mean == NULL && images->std == NULL; /* all channels alike */
  const int64_t parts = together ? 1 : images->channels, size = together ? images->channels * plane_size : plane_size;
  for (int64_t part = 0; part < parts; part++, x += size, next += size, y += size) {
    const float *mean = images->mean == NULL ? NULL : images->mean + part;
    const float *std = images->std == NULL ? NULL : images->std + part;
    if (move != NULL) move_plane(x, plane, images->height, images->width, move);
    if (images->streamed) {
      convert_streaming(move == NULL ? x : plane, next, y, size, mean, std);
    } else {
      convert_fetching(move == NULL ? x : plane, next, y, size, mean, std);
    }
  }
#if defined(__SSE2__)
  if (images->streamed) _mm_sfence(); /* seen by other threads before what this one writes next */
#endif
}

#define TAKE(name, attribute)                                                                                   \
  attribute static void name(const Images *images, const uint8_t *x, const uint8_t *next, float *y,             \
                             const int64_t *move, uint8_t *plane) {                                             \
    take(images, x, next, y, move, plane);                                                                      \
  }

TAKE(take_baseline, )

#if defined(__GNUC__) && defined(__x86_64__)
TAKE(take_avx2, __attribute__((target("avx2"))))
TAKE(take_avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

enum { BASELINE, AVX2, AVX512, KINDS };

/* NULL where this processor has not these vectors, or the compiler was not asked for them. */
static TakeImage take_with(int kind) {
#if defined(__GNUC__) && defined(__x86_64__)
  __builtin_cpu_init();
  if (kind == AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return take_avx512;
  if (kind == AVX2 && __builtin_cpu_supports("avx2")) return take_avx2;
#endif
  return kind == BASELINE ? take_baseline : NULL;
}
