/* One step of one row of a Mamba-2 head: the same bits in a decoding step, in a walk over a tree and in a replay.
 *
 * decay = exp(dt A) and drive = dt x belong to the step; the row is that of one channel p. */

#ifndef SSMTOOL_SSD_NODE_H
#define SSMTOOL_SSD_NODE_H

#include "fused.h"
#include <math.h>

static inline REAL ssd_decay(REAL dt, REAL A) {
    const REAL product = dt * A;
    return sizeof(REAL) == sizeof(float) ? (REAL)expf((float)product) : (REAL)exp((double)product);
}

/* after = decay before + drive B, (N); they may be the same memory. */
static inline void ssd_advance(REAL decay, REAL drive, const REAL *B, const REAL *before, REAL *after, int64_t N) {
    for (int64_t n = 0; n < N; n++) after[n] = fused(decay, before[n], drive * B[n]);
}

/* The same; returns C . after. Lane l sums over n = l, l + LANES, … */
static inline REAL ssd_node(REAL decay, REAL drive, const REAL *B, const REAL *C, const REAL *before, REAL *after,
                            int64_t N) {
    REAL lanes[LANES] = {0};
    int64_t n = 0;
    for (; n + LANES <= N; n += LANES)
        for (int l = 0; l < LANES; l++) {
            const REAL h = fused(decay, before[n + l], drive * B[n + l]);
            after[n + l] = h;
            lanes[l] = fused(C[n + l], h, lanes[l]);
        }
    for (int l = 0; n + l < N; l++) {
        const REAL h = fused(decay, before[n + l], drive * B[n + l]);
        after[n + l] = h;
        lanes[l] = fused(C[n + l], h, lanes[l]);
    }
    return folded(lanes);
}

#endif
