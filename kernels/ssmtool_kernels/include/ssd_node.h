/* One step of a block of rows of a Mamba-2 head, with the bits of ssd/native.c: those of scan and decoding step.
 *
 * decay = exp(dt A) belongs to the step, drive = dt x to the step and the row. The output of a row is summed over
 * n = 0, 1, … one after the other; vectors lie along the rows. */

#ifndef SSMTOOL_SSD_NODE_H
#define SSMTOOL_SSD_NODE_H

#include "vexp.h"

#define SSD_ROWS 32 /* of a state that walk together: (N, SSD_ROWS), transposed */

static inline REAL ssd_decay(REAL dt, REAL A) {
    return _Generic((REAL)0, float: expf, double: exp)(dt * A);
}

/* One row as it lies, (n): state = decay state + drive b. */
static inline void ssd_advance(REAL *restrict state, REAL decay, REAL drive, const REAL *restrict b, int64_t n) {
    for (int64_t k = 0; k < n; k++) state[k] = VFMA(decay, state[k], b[k] * drive);
}

/* before, after: (n, SSD_ROWS), apart; drive, y: (SSD_ROWS). after = decay before + b drive^T, y = after^T c. Inlined
 * with a constant `keep`: nothing below a leaf reads its state, and `after` is left alone. */
static inline __attribute__((always_inline)) void ssd_node(const REAL *restrict before, REAL *restrict after,
                                                           REAL decay, const REAL *restrict drive,
                                                           const REAL *restrict b, const REAL *restrict c,
                                                           REAL *restrict y, int64_t n, const int keep) {
    REAL sum[SSD_ROWS] = {0};
    for (int64_t k = 0; k < n; k++)
#pragma omp simd simdlen(64 / sizeof(REAL))
        for (int i = 0; i < SSD_ROWS; i++) {
            const REAL h = VFMA(decay, before[k * SSD_ROWS + i], b[k] * drive[i]);
            sum[i] = VFMA(c[k], h, sum[i]);
            if (keep) after[k * SSD_ROWS + i] = h;
        }
    for (int i = 0; i < SSD_ROWS; i++) y[i] = sum[i];
}

#endif
