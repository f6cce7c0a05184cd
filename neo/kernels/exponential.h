/* e^x for x <= 0, NaN for NaN: of float32 to two units of the last place and 0 below -87; of float64 the C library's. */
INLINE vec NAME(exp_of_negative)(vec x) {
    if (sizeof(REAL) == 8) {
        UNROLL for (int l = 0; l < VL; l++) x[l] = exp(x[l]);
        return x;
    }
    const vec round = NAME(splat)(12582912.0f), whole = x * 1.44269504f + round; /* 1.5 * 2^23: leaves no fraction */
    const vec n = whole - round;
    const vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
    vec p = NAME(splat)(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const ivec power = ((ivec)whole - (ivec)round + 127) << 23; /* the bits of 2^n */
    return NAME(where)(x < -87.0f, NAME(zero)(), p * (vec)power);
}
