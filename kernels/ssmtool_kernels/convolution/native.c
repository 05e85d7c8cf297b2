/* y[t, c] = bias[c] + sum_k w[k, c] x[t - K + 1 + k, c] and its adjoint, in contiguous arrays; x[t < 0] is `tail`.
 *
 * One unit of work is a sequence and a block of channels, for the adjoint a block of channels, summed over sequences in
 * their order: results do not depend on the number of threads. The order of the sum over k and its roundings are the
 * same for every t: sequences cut in pieces give the same bits. */

#include <stdint.h>
#include <string.h>

#define BLOCK 256 /* channels whose rows of K inputs stay in the first-level cache */
#define TILE 64   /* steps whose sums are in REAL, before they are added in double */

/* a b + c, rounded once where the processor can, twice where it cannot: never as the compiler likes. */
static inline REAL fused(REAL a, REAL b, REAL c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return sizeof(REAL) == sizeof(float) ? (REAL)__builtin_fmaf((float)a, (float)b, (float)c)
                                         : (REAL)__builtin_fma((double)a, (double)b, (double)c);
#else
    return a * b + c;
#endif
}

/* The row of inputs at time t, from the tail where t is before the sequence. */
static inline const REAL *row(const REAL *x, const REAL *tail, int64_t s, int64_t t, int64_t length, int64_t channels,
                              int64_t taps) {
    return t >= 0 ? x + (s * length + t) * channels : tail + (s * (taps - 1) + t + taps - 1) * channels;
}

/* x, y: (count, length, channels); w: (taps, channels); bias: (channels); tail: (count, taps - 1, channels). */
void short_forward(const REAL *x, const REAL *w, const REAL *bias, const REAL *tail, REAL *y, int64_t count,
                   int64_t length, int64_t channels, int64_t taps, int64_t threads) {
    const int64_t blocks = (channels + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t s = 0; s < count; s++) {
        for (int64_t k = 0; k < blocks; k++) {
            const int64_t first = k * BLOCK, size = channels - first < BLOCK ? channels - first : BLOCK;
            for (int64_t t = 0; t < length; t++) {
                REAL sum[BLOCK];
                memcpy(sum, bias + first, sizeof(REAL) * size);
                for (int64_t j = 0; j < taps; j++) {
                    const REAL *in = row(x, tail, s, t - taps + 1 + j, length, channels, taps) + first;
                    const REAL *weight = w + j * channels + first;
                    for (int64_t i = 0; i < size; i++) sum[i] = fused(weight[i], in[i], sum[i]);
                }
                memcpy(y + (s * length + t) * channels + first, sum, sizeof(REAL) * size);
            }
        }
    }
}

/* dy: what is lost by y; dx, dw, dbias, dtail: what is lost by the inputs. Tiles of time are added in double. */
void short_backward(const REAL *x, const REAL *w, const REAL *tail, const REAL *dy, REAL *dx, REAL *dw, REAL *dbias,
                    REAL *dtail, int64_t count, int64_t length, int64_t channels, int64_t taps, int64_t threads) {
    const int64_t blocks = (channels + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < blocks; k++) {
        const int64_t first = k * BLOCK, size = channels - first < BLOCK ? channels - first : BLOCK;
        double whole[taps + 1][BLOCK]; /* of the taps, and of the bias, whose input is 1 */
        REAL part[taps + 1][BLOCK];
        memset(whole, 0, sizeof whole);
        for (int64_t s = 0; s < count; s++) {
            for (int64_t start = 0; start < length; start += TILE) {
                const int64_t stop = length - start < TILE ? length : start + TILE;
                memset(part, 0, sizeof part);
                for (int64_t t = start; t < stop; t++) {
                    const REAL *lost = dy + (s * length + t) * channels + first;
                    for (int64_t j = 0; j < taps; j++) {
                        const REAL *in = row(x, tail, s, t - taps + 1 + j, length, channels, taps) + first;
                        for (int64_t i = 0; i < size; i++) part[j][i] = fused(lost[i], in[i], part[j][i]);
                    }
                    for (int64_t i = 0; i < size; i++) part[taps][i] += lost[i];
                }
                for (int64_t j = 0; j <= taps; j++)
                    for (int64_t i = 0; i < size; i++) whole[j][i] += (double)part[j][i];
            }
        }
        for (int64_t j = 0; j <= taps; j++) {
            REAL *target = (j < taps ? dw + j * channels : dbias) + first;
            for (int64_t i = 0; i < size; i++) target[i] = (REAL)whole[j][i];
        }
        for (int64_t s = 0; s < count; s++) {
            for (int64_t t = 1 - taps; t < length; t++) {
                REAL sum[BLOCK] = {0};
                for (int64_t j = 0; j < taps; j++) {
                    const int64_t at = t + taps - 1 - j; /* the output that tap j brings input t to */
                    if (at < 0 || at >= length) continue;
                    const REAL *lost = dy + (s * length + at) * channels + first;
                    const REAL *weight = w + j * channels + first;
                    for (int64_t i = 0; i < size; i++) sum[i] = fused(weight[i], lost[i], sum[i]);
                }
                REAL *target = t >= 0 ? dx + (s * length + t) * channels
                                      : dtail + (s * (taps - 1) + t + taps - 1) * channels;
                memcpy(target + first, sum, sizeof(REAL) * size);
            }
        }
    }
}
