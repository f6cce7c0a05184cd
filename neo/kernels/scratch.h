/* Memory to work in: one block a thread, grown as needed, freed when the thread ends. */
#include <pthread.h>

#ifdef __SANITIZE_ADDRESS__
#define SCRATCH_KEPT 0 /* a new block each time, of just the size, so that a step past its end is seen */
#else
#define SCRATCH_KEPT 1
#endif

typedef struct {
    void *start;
    size_t bytes;
} Scratch;

static _Thread_local Scratch *scratch_of_thread = NULL;
static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_free(void *given) {
    Scratch *scratch = given;
    free(scratch->start);
    free(scratch);
}
static void scratch_make_key(void) { pthread_key_create(&scratch_key, scratch_free); }

/* `bytes` of memory aligned to a cache line, or NULL; the same block at every call of a thread. */
static void *scratch_take(size_t bytes) {
    if (scratch_of_thread == NULL) {
        pthread_once(&scratch_once, scratch_make_key);
        Scratch *fresh = calloc(1, sizeof(Scratch));
        if (fresh == NULL || pthread_setspecific(scratch_key, fresh)) {
            free(fresh);
            return NULL;
        }
        scratch_of_thread = fresh;
    }
    Scratch *scratch = scratch_of_thread;
    if (scratch->bytes < bytes || !SCRATCH_KEPT) {
        free(scratch->start);
        if (posix_memalign(&scratch->start, 64, bytes)) scratch->start = NULL;
        scratch->bytes = scratch->start == NULL ? 0 : bytes;
    }
    return scratch->start;
}
