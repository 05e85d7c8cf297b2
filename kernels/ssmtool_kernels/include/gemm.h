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

/* One of the Q steps of a product of TILE rows: sum[r] += left[r ar] right. */
INLINE void gemm_step(vec *sum, const REAL *left, const int ar, const REAL *right) {
    for (int r = 0; r < TILE; r++) {
        const REAL factor = left[r * ar];
        for (int c = 0; c < COLUMNS; c++) sum[r * COLUMNS + c] += factor * *(const vec *)(right + c * LANES);
    }
}

INLINE void gemm_store(REAL *out, const vec *sum) {
    for (int r = 0; r < TILE; r++)
        for (int c = 0; c < COLUMNS; c++) *(vec *)(out + r * Q + c * LANES) = sum[r * COLUMNS + c];
}

/* out = or += sum over `count` blocks of a w. Blocks are contiguous rows of Q; `transposed` reads the columns of a as
 * rows. Consecutive blocks of a and w are a_step and w_step apart. */
INLINE void gemm_chain(REAL *out, const REAL *a, const int64_t a_step, const int transposed, const REAL *w,
                       const int64_t w_step, const int64_t count, const int add) {
    const int ar = transposed ? 1 : Q, ak = transposed ? Q : 1;
    for (int first = 0; first < Q; first += TILE) {
        vec sum[ACCUMULATORS];
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < COLUMNS; c++)
                sum[r * COLUMNS + c] = add ? *(vec *)(out + (first + r) * Q + c * LANES) : (vec){0};
        for (int64_t p = 0; p < count; p++)
            for (int k = 0; k < Q; k++)
                gemm_step(sum, a + p * a_step + first * ar + k * ak, ar, w + p * w_step + k * Q);
        gemm_store(out + first * Q, sum);
    }
}

/* out = or += a w. */
INLINE void gemm_block(REAL *out, const REAL *a, const int transposed, const REAL *w, const int add) {
    gemm_chain(out, a, 0, transposed, w, 0, 1, add);
}

#endif
