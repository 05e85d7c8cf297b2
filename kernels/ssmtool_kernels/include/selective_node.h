/* One step of a block of channels of a Mamba-1 scan, with the bits of selective_scan/native.c: those of scan and
 * decoding step.
 *
 * Vectors lie along the channels; the output of a channel is summed over n = 0, 1, … one after the other. Decays are
 * 2^(dt A2) with A2 = A times SELECTIVE_LOG2E. */

#ifndef SSMTOOL_SELECTIVE_NODE_H
#define SSMTOOL_SELECTIVE_NODE_H

#include "vexp.h"

#define SELECTIVE_WIDTH 32 /* channels that walk together: states are (n, SELECTIVE_WIDTH), transposed */
#define SELECTIVE_LOG2E ((REAL)1.4426950408889634074)

/* before, after, A2: (n, SELECTIVE_WIDTH); before and after may be the same. dt, drive = dt x, y: (SELECTIVE_WIDTH).
 * after = 2^(dt A2) before + b drive^T, y = after^T c. Inlined with a constant `keep`: nothing below a leaf reads its
 * state. */
static inline __attribute__((always_inline)) void selective_node(const REAL *before, REAL *after, const REAL *A2,
                                                                 const REAL *dt, const REAL *drive, const REAL *b,
                                                                 const REAL *c, REAL *y, int64_t n, const int keep) {
    REAL sum[SELECTIVE_WIDTH] = {0};
    for (int64_t k = 0; k < n; k++) {
        const int64_t row = k * SELECTIVE_WIDTH;
#pragma omp simd simdlen(64 / sizeof(REAL))
        for (int i = 0; i < SELECTIVE_WIDTH; i++) {
            const REAL now = VFMA(VEXP2(dt[i] * A2[row + i]), before[row + i], drive[i] * b[k]);
            sum[i] = VFMA(now, c[k], sum[i]);
            if (keep) after[row + i] = now;
        }
    }
    for (int i = 0; i < SELECTIVE_WIDTH; i++) y[i] = sum[i];
}

#endif
