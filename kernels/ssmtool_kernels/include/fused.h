/* Arithmetic whose bits do not depend on where the compiler inlines it.
 *
 * With contraction left to the compiler, a * b + c * d is rounded in one of two ways, and the choice may differ from one
 * call to the next; a decoding step and the same step inside a larger pass then differ in the last bit. */

#ifndef SSMTOOL_FUSED_H
#define SSMTOOL_FUSED_H

#include <stdint.h>

#define LANES 16 /* partial sums: of one vector register of floats, two of doubles */

/* a b + c: rounded once where the processor can, twice (and never otherwise) where it cannot. */
static inline REAL fused(REAL a, REAL b, REAL c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return sizeof(REAL) == sizeof(float) ? (REAL)__builtin_fmaf((float)a, (float)b, (float)c)
                                         : (REAL)__builtin_fma((double)a, (double)b, (double)c);
#else
    return a * b + c;
#endif
}

/* The sum of LANES partial sums, by halves. */
static inline REAL folded(REAL *lanes) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

#endif
