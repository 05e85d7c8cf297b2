/* Products of 16 x 16 blocks that stay in the first-level cache, near the peak of the multiply-add units.
 *
 * GCC and clang vectors, so that the kernel is wide on every processor without naming one. */

#ifndef SSMTOOL_GEMM_H
#define SSMTOOL_GEMM_H

#include <stdint.h>

#define Q 16
#define BLOCK (Q * Q)
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ACCUMULATORS 16
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ACCUMULATORS 8
#else
#define VECTOR_BYTES 16
#define ACCUMULATORS 8
#endif
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))
#define COLUMNS (Q / LANES) /* vectors of a row of Q: 1 to 8 */
#define TILE (ACCUMULATORS / COLUMNS)
typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* out = a0 w0 + sum over `count` blocks of a w, or, with `add`, that plus what is there. Blocks are contiguous rows of
 * Q; `transposed` reads the columns of a as rows. Consecutive blocks of a and w are a_step and w_step apart. a0 may be
 * null. */
INLINE void gemm_chain(REAL *out, const REAL *a0, const REAL *w0, const REAL *a, const int64_t a_step,
                       const int transposed, const REAL *w, const int64_t w_step, const int64_t count, const int add) {
    const int ar = transposed ? 1 : Q, ak = transposed ? Q : 1;
    for (int first = 0; first < Q; first += TILE) {
        vec sum[ACCUMULATORS];
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < COLUMNS; c++)
                sum[r * COLUMNS + c] = add ? *(vec *)(out + (first + r) * Q + c * LANES) : (vec){0};
        for (int64_t p = a0 ? -1 : 0; p < count; p++) {
            const REAL *left = (p < 0 ? a0 : a + p * a_step) + first * ar, *right = p < 0 ? w0 : w + p * w_step;
            for (int k = 0; k < Q; k++) {
                for (int r = 0; r < TILE; r++) {
                    const REAL factor = left[r * ar + k * ak];
                    for (int c = 0; c < COLUMNS; c++)
                        sum[r * COLUMNS + c] += factor * *(const vec *)(right + k * Q + c * LANES);
                }
            }
        }
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < COLUMNS; c++) *(vec *)(out + (first + r) * Q + c * LANES) = sum[r * COLUMNS + c];
    }
}

/* out = or += a w. */
INLINE void gemm_block(REAL *out, const REAL *a, const int transposed, const REAL *w, const int add) {
    gemm_chain(out, 0, 0, a, 0, transposed, w, 0, 1, add);
}

#endif
