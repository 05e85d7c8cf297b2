/* x[t] = M x[t-1] + v[t] with M constant in time and its adjoint, in contiguous arrays of reals. M is diagonal, or of
 * 2 x 2 blocks on the diagonal: (M x)[i] = on[i] x[i] + off[i] x[i ^ 1]. A complex eigenvalue is such a block.
 *
 * One unit of work is a sequence and a block of channels; units are independent, so that results do not depend on the
 * number of threads. The state of a step is read from the row that was just written. */

#include <stdint.h>
#include <string.h>

#define WIDTH 512 /* reals of a channel block at most: long rows are fetched ahead, and states stay in the cache */
#define FLUSH 64  /* steps after which sums over time go from REAL to double */

/* Reals of a channel block: as many as there can be while every thread gets a unit. Channels do not mix, so that
 * results do not depend on it. */
static int64_t block_of(int64_t count, int64_t width, int64_t threads) {
    int64_t block = WIDTH;
    while (block > 64 && count * ((width + block - 1) / block) < threads) block /= 2;
    return block;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* to = on x + off (x with neighbours exchanged) + v */
static inline void advance(const REAL *restrict on, const REAL *restrict off, const REAL *restrict x,
                           const REAL *restrict v, REAL *restrict to, int64_t size) {
    if (off) {
        for (int64_t i = 0; i < size; i += 2) {
            to[i] = on[i] * x[i] + (off[i] * x[i + 1] + v[i]);
            to[i + 1] = on[i + 1] * x[i + 1] + (off[i + 1] * x[i] + v[i + 1]);
        }
    } else {
        for (int64_t i = 0; i < size; i++) to[i] = on[i] * x[i] + v[i];
    }
}

/* v, x: (total, width); x0, last: (count, width); on, off (null: diagonal): (groups, width), sequence s takes row
 * s % groups; resets: (total) or null; offsets: (count + 1). */
void forward(const REAL *on, const REAL *off, const REAL *v, const REAL *x0, const uint8_t *resets,
             const int64_t *offsets, REAL *x, REAL *last, int64_t count, int64_t width, int64_t groups,
             int64_t threads) {
    const int64_t block = block_of(count, width, threads), blocks = (width + block - 1) / block;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t s = 0; s < count; s++) {
        for (int64_t k = 0; k < blocks; k++) {
            static const REAL zeros[WIDTH];
            const int64_t first = k * block, size = smaller(width - first, block);
            const int64_t own = s % groups * width + first;
            const REAL *before = x0 + s * width + first;
            for (int64_t t = offsets[s]; t < offsets[s + 1]; t++) {
                REAL *row = x + t * width + first;
                if (resets && resets[t]) before = zeros;
                advance(on + own, off ? off + own : 0, before, v + t * width + first, row, size);
                before = row;
            }
            memcpy(last + s * width + first, before, sizeof(REAL) * size);
        }
    }
}

static inline void accumulate(const REAL *restrict lost, const REAL *restrict x, REAL *restrict to_on,
                              REAL *restrict to_off, int64_t size) {
    if (to_off) {
        for (int64_t i = 0; i < size; i += 2) {
            to_on[i] += lost[i] * x[i];
            to_on[i + 1] += lost[i + 1] * x[i + 1];
            to_off[i] += lost[i] * x[i + 1];
            to_off[i + 1] += lost[i + 1] * x[i];
        }
    } else {
        for (int64_t i = 0; i < size; i++) to_on[i] += lost[i] * x[i];
    }
}

static inline void flush(REAL *sums, double *totals) {
    for (int64_t i = 0; i < WIDTH; i++) {
        totals[i] += sums[i];
        sums[i] = 0;
    }
}

/* dx, dlast: what is lost by x and last; dv, dx0: by v and x0; don, doff (count, width): by on and off, of each
 * sequence. */
void backward(const REAL *on, const REAL *off, const REAL *x, const REAL *x0, const uint8_t *resets,
              const int64_t *offsets, const REAL *dx, const REAL *dlast, REAL *don, REAL *doff, REAL *dv, REAL *dx0,
              int64_t count, int64_t width, int64_t groups, int64_t threads) {
    const int64_t block = block_of(count, width, threads), blocks = (width + block - 1) / block;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t s = 0; s < count; s++) {
        for (int64_t k = 0; k < blocks; k++) {
            static const REAL zeros[WIDTH];
            const int64_t first = k * block, size = smaller(width - first, block);
            const int64_t own = s % groups * width + first, at = s * width + first;
            REAL across[WIDTH], sums[2][WIDTH] = {{0}};
            double totals[2][WIDTH] = {{0}};
            if (off)
                for (int64_t i = 0; i < size; i++) across[i] = off[own + (i ^ 1)]; /* of M transposed */
            const REAL *transposed = off ? across : 0;
            const REAL *behind = 0; /* what step t + 1 lost; null where it hands nothing on */
            int64_t pending = 0;
            for (int64_t t = offsets[s + 1] - 1; t >= offsets[s]; t--) {
                const REAL *given = dx + t * width + first;
                REAL *row = dv + t * width + first;
                if (t == offsets[s + 1] - 1)
                    for (int64_t i = 0; i < size; i++) row[i] = given[i] + dlast[at + i];
                else if (behind) advance(on + own, transposed, behind, given, row, size);
                else memcpy(row, given, sizeof(REAL) * size);
                behind = resets && resets[t] ? 0 : row;
                if (!behind) continue;
                const REAL *before = t > offsets[s] ? x + (t - 1) * width + first : x0 + at;
                accumulate(row, before, sums[0], off ? sums[1] : 0, size);
                if (++pending == FLUSH) {
                    flush(sums[0], totals[0]);
                    flush(sums[1], totals[1]);
                    pending = 0;
                }
            }
            flush(sums[0], totals[0]);
            flush(sums[1], totals[1]);
            if (offsets[s] == offsets[s + 1]) memcpy(dx0 + at, dlast + at, sizeof(REAL) * size);
            else if (behind) advance(on + own, transposed, behind, zeros, dx0 + at, size);
            else memset(dx0 + at, 0, sizeof(REAL) * size);
            for (int64_t i = 0; i < size; i++) don[at + i] = totals[0][i];
            if (doff)
                for (int64_t i = 0; i < size; i++) doff[at + i] = totals[1][i];
        }
    }
}
