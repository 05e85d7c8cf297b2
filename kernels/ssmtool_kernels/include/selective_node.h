/* One step of one channel of a Mamba-1 scan: the same bits in a decoding step, in a walk over a tree and in a replay.
 *
 * decay = exp(dt A), (N), and drive = dt x belong to the step and the channel. */

#ifndef SSMTOOL_SELECTIVE_NODE_H
#define SSMTOOL_SELECTIVE_NODE_H

#include "fused.h"

/* after = decay before + drive B, (N); they may be the same memory. */
static inline void selective_advance(const REAL *decay, REAL drive, const REAL *B, const REAL *before, REAL *after,
                                     int64_t N) {
    for (int64_t n = 0; n < N; n++) after[n] = fused(decay[n], before[n], drive * B[n]);
}

/* The same; returns C . after. Lane l sums over n = l, l + LANES, … */
static inline REAL selective_node(const REAL *decay, REAL drive, const REAL *B, const REAL *C, const REAL *before,
                                  REAL *after, int64_t N) {
    REAL lanes[LANES] = {0};
    int64_t n = 0;
    for (; n + LANES <= N; n += LANES)
        for (int l = 0; l < LANES; l++) {
            const REAL h = fused(decay[n + l], before[n + l], drive * B[n + l]);
            after[n + l] = h;
            lanes[l] = fused(C[n + l], h, lanes[l]);
        }
    for (int l = 0; n + l < N; l++) {
        const REAL h = fused(decay[n + l], before[n + l], drive * B[n + l]);
        after[n + l] = h;
        lanes[l] = fused(C[n + l], h, lanes[l]);
    }
    return folded(lanes);
}

#endif
