/* Attention's core (heads.h), a head at a time: products of matrices that fit a core's caches, and passes over the rows
 * of weights between them, as many as neo/functions/attention_core.py has formulas. */

/* A head's matrix of a stack. */
INLINE REAL *NAME(head_of)(const NeoHeads *stack, long sequence, long head) {
    return (REAL *)stack->start + sequence * stack->sequence + head * stack->head;
}

/* out (m, n) = left (m, k) right (k, n), or added to what is there; by the strides of their rows and columns. */
typedef struct {
    const REAL *start;
    long row, column;
} NAME(Matrix);

static int NAME(multiply)(long m, long n, long k, NAME(Matrix) left, NAME(Matrix) right, REAL *out, long row, int add) {
    const NeoProduct product = {left.start, left.row, left.column, right.start, right.row, right.column,
                                add ? out : NULL, row, 1, out, row, 1, m, n, k};
    return NAME(product_rows)(&product, 0, m);
}

/* BODY for each vector at column c of `columns`, READ and WRITE whole ones, then what is left: zeros beyond the end. */
#define OVER_COLUMNS(columns, BODY)                             \
    {                                                           \
        long c = 0;                                             \
        for (; c + VL <= (columns); c += VL) BODY(WHOLE, KEEP)  \
        if (c < (columns)) BODY(SOME, KEEP_SOME)                \
    }
#define WHOLE(p) NAME(load)((p) + c)
#define KEEP(p, v) NAME(store)((p) + c, v)
#define SOME(p) NAME(load_some)((p) + c, count - c)
#define KEEP_SOME(p, v) NAME(store_some)((p) + c, v, count - c)

/* row = softmax(row) over its first `count` entries, zeros after; NaN as torch has it: where all are -inf, or one +inf. */
static void NAME(softmax_row)(REAL *row, long count, long columns) {
    REAL most = row[0];
    for (long c = 1; c < count; c++) most = row[c] > most ? row[c] : most;
    vec sum = NAME(zero)();
#define RAISE(READ, WRITE)                                          \
    {                                                               \
        const vec e = NAME(exp_of_negative)(READ(row) - most);      \
        WRITE(row, e);                                              \
    }
    OVER_COLUMNS(count, RAISE)
#undef RAISE
#define ADD(READ, WRITE) sum += READ(row);
    OVER_COLUMNS(count, ADD)
#undef ADD
    const REAL scale = 1 / NAME(sum_of_vector)(sum);
    for (long c = 0; c < count; c++) row[c] *= scale;
    for (long c = count; c < columns; c++) row[c] = 0;
}

/* d = scale p (d - <d, p>): from the cotangent of the weights p to that of the scores' sums, in place. */
static void NAME(softmax_gradient_row)(REAL *d, const REAL *p, long count, REAL scale) {
    vec sum = NAME(zero)();
#define DOT(READ, WRITE) sum += READ(d) * READ(p);
    OVER_COLUMNS(count, DOT)
#undef DOT
    const REAL mean = NAME(sum_of_vector)(sum);
#define STEP(READ, WRITE) WRITE(d, READ(p) * (READ(d) - mean) * scale);
    OVER_COLUMNS(count, STEP)
#undef STEP
}

/* From z, d and r, where z / scale is the cotangent of the scores' own one, d the weights' cotangent and r what comes to
 * the weights p besides: z = p (z - <z, p>), what goes on to d; d = scale p (d - <d, p>), as above; and
 * r = scale p (e - <e, p>), e = z (d - <d, p>) - d <z, p> + r, what goes on to the sums. */
static void NAME(second_order_row)(REAL *z, REAL *d, REAL *r, const REAL *p, long count, REAL scale) {
    vec zp = NAME(zero)(), dp = NAME(zero)(), ep = NAME(zero)();
#define DOT(READ, WRITE) zp += READ(z) * READ(p), dp += READ(d) * READ(p);
    OVER_COLUMNS(count, DOT)
#undef DOT
    const REAL z_mean = NAME(sum_of_vector)(zp) * scale, d_mean = NAME(sum_of_vector)(dp);
#define REST(READ, WRITE)                                                                         \
    {                                                                                             \
        const vec p_c = READ(p), z_c = READ(z) * scale, d_c = READ(d), away = d_c - d_mean;       \
        const vec e = z_c * away - d_c * z_mean + READ(r);                                        \
        ep += e * p_c;                                                                            \
        WRITE(r, e);                                                                              \
        WRITE(z, p_c * (z_c - z_mean));                                                           \
        WRITE(d, p_c * away * scale);                                                             \
    }
    OVER_COLUMNS(count, REST)
#undef REST
    const REAL e_mean = NAME(sum_of_vector)(ep);
#define STEP(READ, WRITE) WRITE(r, READ(p) * (READ(r) - e_mean) * scale);
    OVER_COLUMNS(count, STEP)
#undef STEP
}
#undef WHOLE
#undef KEEP
#undef SOME
#undef KEEP_SOME
#undef OVER_COLUMNS

#define PLAIN(stack) ((NAME(Matrix)){NAME(head_of)(&a->stack, sequence, head), a->stack.row, 1})
#define TURNED(stack) ((NAME(Matrix)){NAME(head_of)(&a->stack, sequence, head), 1, a->stack.row})
#define SCORES(matrix) ((NAME(Matrix)){matrix, others, 1})        /* (places, others) */
#define SCORES_TURNED(matrix) ((NAME(Matrix)){matrix, 1, others}) /* (others, places) */
#define INTO(stack) NAME(head_of)(&a->stack, sequence, head), a->stack.row
#define TRY(m, n, k, left, right, ...)                                                \
    do {                                                                              \
        if (NAME(multiply)(m, n, k, left, right, __VA_ARGS__) != 0) return -1;        \
    } while (0)
#define EACH_HEAD                                                                                              \
    const long places = a->places, others = a->others, width = a->width, value_width = a->value_width;         \
    for (long i = first; i < last; i++)
#define THIS_HEAD                                                        \
    const long sequence = i / a->heads, head = i % a->heads;             \
    REAL *const p = (REAL *)a->weights + i * places * others;

static int NAME(attention)(const NeoAttention *a, void *work, long first, long last) {
    REAL *const scaled = work;
    EACH_HEAD {
        THIS_HEAD
        const REAL *q = NAME(head_of)(&a->q, sequence, head), scale = (REAL)a->scale;
        for (long row = 0; row < places; row++)
            for (long c = 0; c < width; c++) scaled[row * width + c] = q[row * a->q.row + c] * scale;
        TRY(places, others, width, ((NAME(Matrix)){scaled, width, 1}), TURNED(k), p, others, 0);
        for (long row = 0; row < places; row++)
            NAME(softmax_row)(p + row * others, a->causal && row < others ? row + 1 : others, others);
        TRY(places, value_width, others, SCORES(p), PLAIN(v), INTO(out), 0);
    }
    return 0;
}

static int NAME(attention_gradient)(const NeoAttention *a, void *work, long first, long last) {
    REAL *const d = work;
    EACH_HEAD {
        THIS_HEAD
        if (a->v_out.start != NULL) TRY(others, value_width, places, SCORES_TURNED(p), PLAIN(g), INTO(v_out), 0);
        if (a->q_out.start == NULL && a->k_out.start == NULL) continue;
        TRY(places, others, value_width, PLAIN(g), TURNED(v), d, others, 0);
        for (long row = 0; row < places; row++)
            NAME(softmax_gradient_row)(d + row * others, p + row * others, others, (REAL)a->scale);
        if (a->q_out.start != NULL) TRY(places, width, others, SCORES(d), PLAIN(k), INTO(q_out), 0);
        if (a->k_out.start != NULL) TRY(others, width, places, SCORES_TURNED(d), PLAIN(q), INTO(k_out), 0);
    }
    return 0;
}

static int NAME(attention_second_order)(const NeoAttention *a, void *work, long first, long last) {
    REAL *const z = work, *const d = z + a->places * a->others, *const r = d + a->places * a->others;
    const int of_q = a->of_q.start != NULL, of_k = a->of_k.start != NULL, of_v = a->of_v.start != NULL;
    const int bent = a->q_out.start != NULL || a->k_out.start != NULL; /* else only what goes on to out and v is asked for */
    EACH_HEAD {
        THIS_HEAD
        if (of_q) TRY(places, others, width, PLAIN(of_q), TURNED(k), z, others, 0);
        if (of_k) TRY(places, others, width, PLAIN(q), TURNED(of_k), z, others, of_q);
        if (!of_q && !of_k) memset(z, 0, places * others * sizeof(REAL));
        if (bent) {
            TRY(places, others, value_width, PLAIN(g), TURNED(v), d, others, 0);
            if (of_v) TRY(places, others, value_width, PLAIN(g), TURNED(of_v), r, others, 0);
            else memset(r, 0, places * others * sizeof(REAL));
        }
        for (long row = 0; row < places; row++) {
            const long at = row * others;
            if (bent) NAME(second_order_row)(z + at, d + at, r + at, p + at, others, (REAL)a->scale);
            else NAME(softmax_gradient_row)(z + at, p + at, others, (REAL)a->scale);
        }
        if (a->out.start != NULL) {
            TRY(places, value_width, others, SCORES(z), PLAIN(v), INTO(out), 0);
            if (of_v) TRY(places, value_width, others, SCORES(p), PLAIN(of_v), INTO(out), 1);
        }
        if (a->v_out.start != NULL) TRY(others, value_width, places, SCORES_TURNED(z), PLAIN(g), INTO(v_out), 0);
        if (a->q_out.start != NULL) {
            TRY(places, width, others, SCORES(r), PLAIN(k), INTO(q_out), 0);
            if (of_k) TRY(places, width, others, SCORES(d), PLAIN(of_k), INTO(q_out), 1);
        }
        if (a->k_out.start != NULL) {
            TRY(others, width, places, SCORES_TURNED(r), PLAIN(q), INTO(k_out), 0);
            if (of_q) TRY(others, width, places, SCORES_TURNED(d), PLAIN(of_q), INTO(k_out), 1);
        }
    }
    return 0;
}
#undef PLAIN
#undef TURNED
#undef SCORES
#undef SCORES_TURNED
#undef INTO
#undef TRY
#undef EACH_HEAD
#undef THIS_HEAD
