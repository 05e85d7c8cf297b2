/* h[t] = a[t] h[t-1] + v[t] and its adjoint, real or complex (interleaved), in contiguous arrays.
 *
 * One unit of work is a sequence and a block of channels; units are independent, so that results do not depend on the
 * number of threads. */

#include <stdint.h>
#include <string.h>

#define BLOCK 64 /* reals of a channel block: states stay in registers or in the first-level cache */

static inline void advance(const REAL *a, const REAL *v, REAL *h, int64_t width, int64_t is_complex) {
    if (is_complex) {
        for (int64_t i = 0; i < width; i += 2) {
            const REAL re = a[i] * h[i] - a[i + 1] * h[i + 1] + v[i];
            const REAL im = a[i] * h[i + 1] + a[i + 1] * h[i] + v[i + 1];
            h[i] = re;
            h[i + 1] = im;
        }
    } else {
        for (int64_t i = 0; i < width; i++) h[i] = a[i] * h[i] + v[i];
    }
}

/* a, v, h: (total, width); h0, last: (count, width); offsets: (count + 1); resets: (total) or null. width in reals. */
void forward(const REAL *a, const REAL *v, const REAL *h0, const uint8_t *resets, const int64_t *offsets, REAL *h,
             REAL *last, int64_t count, int64_t width, int64_t is_complex, int64_t threads) {
    const int64_t blocks = (width + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t s = 0; s < count; s++) {
        for (int64_t k = 0; k < blocks; k++) {
            const int64_t first = k * BLOCK, size = width - first < BLOCK ? width - first : BLOCK;
            REAL state[BLOCK];
            memcpy(state, h0 + s * width + first, sizeof(REAL) * size);
            for (int64_t t = offsets[s]; t < offsets[s + 1]; t++) {
                if (resets && resets[t]) memset(state, 0, sizeof state);
                advance(a + t * width + first, v + t * width + first, state, size, is_complex);
                memcpy(h + t * width + first, state, sizeof(REAL) * size);
            }
            memcpy(last + s * width + first, state, sizeof(REAL) * size);
        }
    }
}

/* dh, dlast: what is lost by h and last; da, dv, dh0: what is lost by a, v, h0. */
void backward(const REAL *a, const REAL *h, const REAL *h0, const uint8_t *resets, const int64_t *offsets,
              const REAL *dh, const REAL *dlast, REAL *da, REAL *dv, REAL *dh0, int64_t count, int64_t width,
              int64_t is_complex, int64_t threads) {
    const int64_t blocks = (width + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t s = 0; s < count; s++) {
        for (int64_t k = 0; k < blocks; k++) {
            const int64_t first = k * BLOCK, size = width - first < BLOCK ? width - first : BLOCK;
            static const REAL zeros[BLOCK];
            REAL g[BLOCK];
            memcpy(g, dlast + s * width + first, sizeof(REAL) * size);
            for (int64_t t = offsets[s + 1] - 1; t >= offsets[s]; t--) {
                const int64_t at = t * width + first;
                const int fresh = resets && resets[t];
                const REAL *before = fresh ? zeros : t > offsets[s] ? h + at - width : h0 + s * width + first;
                if (is_complex) {
                    for (int64_t i = 0; i < size; i += 2) {
                        const REAL re = g[i] + dh[at + i], im = g[i + 1] + dh[at + i + 1];
                        dv[at + i] = re;
                        dv[at + i + 1] = im;
                        da[at + i] = re * before[i] + im * before[i + 1];
                        da[at + i + 1] = im * before[i] - re * before[i + 1];
                        g[i] = a[at + i] * re + a[at + i + 1] * im;
                        g[i + 1] = a[at + i] * im - a[at + i + 1] * re;
                    }
                } else {
                    for (int64_t i = 0; i < size; i++) {
                        const REAL lost = g[i] + dh[at + i];
                        dv[at + i] = lost;
                        da[at + i] = lost * before[i];
                        g[i] = a[at + i] * lost;
                    }
                }
                if (fresh) memset(g, 0, sizeof g);
            }
            memcpy(dh0 + s * width + first, g, sizeof(REAL) * size);
        }
    }
}
