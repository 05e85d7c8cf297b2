/* The scan of Mamba-2, one step of it, and the scan's adjoint, in contiguous arrays.
 *
 * The forward scan runs along time with the state of one head and a block of its rows, transposed to (N, ROWS), in the
 * first-level cache: four steps per pass over the state, vectors along the rows, no horizontal sums. The single step
 * does the same arithmetic in the same order on the state as it lies, so that decoding repeats the scan bit for bit;
 * FMA says which product is rounded. The adjoint keeps the state at every sqrt(L)-th step and runs each piece again.
 *
 * Units of work are independent and do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 32  /* of a state, per forward unit */
#define PIECE 32 /* the same in the adjoint, where the states of many steps are kept */
#define AHEAD 16 /* steps between a prefetch and its use */
#define KEPT (1 << 17) /* numbers */
#define LANES (64 / sizeof(REAL))

#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
static inline float fma_float(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fma_double(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else /* no instruction for it: the compiler cannot contract either */
static inline float fma_float(float a, float b, float c) { return a * b + c; }
static inline double fma_double(double a, double b, double c) { return a * b + c; }
#endif
#define FMA(a, b, c) _Generic((REAL)0, float: fma_float, double: fma_double)(a, b, c)
#define EXP(a) _Generic((REAL)0, float: expf, double: exp)(a)
#define LOG1P(a) _Generic((REAL)0, float: log1pf, double: log1p)(a)

static inline REAL silu(REAL z) { return z / (1 + EXP(-z)); }

static REAL *scratch(int64_t size) {
    return aligned_alloc(64, (size_t)((size * (int64_t)sizeof(REAL) + 127) / 64 * 64));
}

/* out[r] = sum over n of projector[r][n] v[n], in this order for every caller; projector is given as (N, r). */
static inline void project_one(const REAL *projector, const REAL *v, REAL *out, int64_t n, int64_t r) {
    for (int64_t j = 0; j < r; j++) out[j] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < r; j++) out[j] = FMA(projector[i * r + j], v[i], out[j]);
}

/* PyTorch's own has another last bit at the end of a row than within it, and steps could not repeat the scan. */
void softplus(const REAL *v, REAL *out, int64_t total, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < total; i++) out[i] = v[i] > 20 ? v[i] : LOG1P(EXP(v[i]));
}

/* v: (total, G, N), projector: (G, N, r), out: (total, G, r). */
void project(const REAL *v, const REAL *projector, REAL *out, int64_t total, int64_t groups, int64_t n, int64_t r,
             int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < total; t++)
        for (int64_t g = 0; g < groups; g++)
            project_one(projector + g * n * r, v + (t * groups + g) * n, out + (t * groups + g) * r, n, r);
}

/* `steps` steps of one block: h (n, ROWS); b and c of step t at t * apart. Inlined with a constant number of steps. */
static inline __attribute__((always_inline)) void advance(REAL *restrict h, const REAL *restrict b,
                                                          const REAL *restrict c, const REAL *restrict keep,
                                                          REAL (*restrict u)[ROWS], REAL (*restrict y)[ROWS],
                                                          int64_t n, int64_t apart, const int steps) {
    for (int64_t k = 0; k < n; k++) {
        REAL *restrict row = h + k * ROWS;
#pragma omp simd simdlen(LANES)
        for (int i = 0; i < ROWS; i++) {
            REAL s = row[i];
#pragma GCC unroll 4
            for (int t = 0; t < steps; t++) {
                s = FMA(keep[t], s, b[t * apart + k] * u[t][i]);
                y[t][i] = FMA(c[t * apart + k], s, y[t][i]);
            }
            row[i] = s;
        }
    }
}

/* x, z, y, raw: (total, H, P); dt: (total, H); A: (H); B, C: (total, G, N); D: (H, P) or null; h0, last: (k, H, P, N);
 * resets: (total) or null; offsets: (k + 1). z null: no gate. raw, if not null, gets y before the gate. */
void forward(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D, const REAL *h0,
             const REAL *z, const uint8_t *resets, const int64_t *offsets, REAL *y, REAL *last, REAL *raw,
             int64_t count, int64_t heads, int64_t width, int64_t groups, int64_t n, int64_t threads) {
    const int64_t blocks = (width + ROWS - 1) / ROWS, apart = groups * n;
#pragma omp parallel num_threads(threads)
    {
        REAL *h = scratch(n * ROWS);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < count * heads * blocks; unit++) {
            const int64_t s = unit / (heads * blocks), j = unit / blocks % heads, first = unit % blocks * ROWS;
            const int64_t size = width - first < ROWS ? width - first : ROWS, g = j / (heads / groups);
            const int64_t at = ((s * heads + j) * width + first) * n;
            REAL u[4][ROWS] = {{0}}, out[4][ROWS], keep[4];
            memset(h, 0, sizeof(REAL) * n * ROWS);
            for (int64_t p = 0; p < size; p++)
                for (int64_t k = 0; k < n; k++) h[k * ROWS + p] = h0[at + p * n + k];
            for (int64_t t = offsets[s]; t < offsets[s + 1];) {
                int steps = offsets[s + 1] - t >= 4 ? 4 : 1;
                if (resets) {
                    if (resets[t]) memset(h, 0, sizeof(REAL) * n * ROWS);
                    for (int i = 1; i < steps; i++)
                        if (resets[t + i]) steps = 1;
                }
                for (int i = 0; i < steps; i++) {
                    const REAL delta = dt[(t + i) * heads + j];
                    const int64_t later = ((t + i + AHEAD) * heads + j) * width + first;
                    __builtin_prefetch(x + later); /* rows of one head lie far apart: not foreseen by the processor */
                    __builtin_prefetch(x + later + size - 1);
                    __builtin_prefetch(y + later, 1);
                    __builtin_prefetch(y + later + size - 1, 1);
                    keep[i] = EXP(delta * A[j]);
                    for (int64_t p = 0; p < size; p++) u[i][p] = delta * x[((t + i) * heads + j) * width + first + p];
                }
                memset(out, 0, sizeof out);
                const REAL *b = B + (t * groups + g) * n, *c = C + (t * groups + g) * n;
                if (steps == 4)
                    advance(h, b, c, keep, u, out, n, apart, 4);
                else
                    advance(h, b, c, keep, u, out, n, apart, 1);
                for (int i = 0; i < steps; i++, t++) {
                    const int64_t to = (t * heads + j) * width + first;
                    if (D)
                        for (int64_t p = 0; p < size; p++)
                            out[i][p] = FMA(D[j * width + first + p], x[to + p], out[i][p]);
                    if (raw) memcpy(raw + to, out[i], sizeof(REAL) * size);
                    if (z)
                        for (int64_t p = 0; p < size; p++) out[i][p] *= silu(z[to + p]);
                    memcpy(y + to, out[i], sizeof(REAL) * size);
                }
            }
            for (int64_t p = 0; p < size; p++)
                for (int64_t k = 0; k < n; k++) last[at + p * n + k] = h[k * ROWS + p];
        }
        free(h);
    }
}

/* One step. x, z, y: (b, H, P); dt: (b, H); B, C: (b, G, wide); projectors (G, wide, n), or null where n = wide;
 * h, next: (b, H, P, n). */
void step(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D, const REAL *h,
          const REAL *z, const REAL *project_b, const REAL *project_c, REAL *y, REAL *next, int64_t batch,
          int64_t heads, int64_t width, int64_t groups, int64_t wide, int64_t n, int64_t threads) {
    REAL *rows = project_b ? scratch(2 * batch * groups * n) : NULL;
    REAL *const both[2] = {rows, rows ? rows + batch * groups * n : NULL};
#pragma omp parallel num_threads(threads)
    {
        if (project_b) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < batch * groups; i++) {
                project_one(project_b + i % groups * wide * n, B + i * wide, both[0] + i * n, wide, n);
                project_one(project_c + i % groups * wide * n, C + i * wide, both[1] + i * n, wide, n);
            }
        }
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < batch * heads; unit++) {
            const int64_t j = unit % heads, i = unit / heads * groups + j / (heads / groups);
            const REAL *b = (rows ? both[0] : B) + i * n, *c = (rows ? both[1] : C) + i * n;
            const REAL delta = dt[unit], keep = EXP(delta * A[j]);
            for (int64_t first = 0; first < width; first += 8) {
                const int64_t size = width - first < 8 ? width - first : 8, at = unit * width + first;
                REAL sum[8] = {0};
                for (int64_t p = 0; p < size; p++) {
                    const REAL u = delta * x[at + p], *before = h + (at + p) * n;
                    REAL *restrict after = next + (at + p) * n;
                    for (int64_t k = 0; k < n; k++) after[k] = FMA(keep, before[k], b[k] * u);
                }
                if (size == 8) { /* eight sums at once, each in the order of the scan */
                    const REAL *after = next + at * n;
                    for (int64_t k = 0; k < n; k++)
                        for (int p = 0; p < 8; p++) sum[p] = FMA(c[k], after[p * n + k], sum[p]);
                } else {
                    for (int64_t p = 0; p < size; p++)
                        for (int64_t k = 0; k < n; k++) sum[p] = FMA(c[k], next[(at + p) * n + k], sum[p]);
                }
                for (int64_t p = 0; p < size; p++) {
                    REAL out = sum[p];
                    if (D) out = FMA(D[j * width + first + p], x[at + p], out);
                    y[at + p] = z ? out * silu(z[at + p]) : out;
                }
            }
        }
    }
    free(rows);
}

/* A vector as wide as the widest registers; compilers split it where they are narrower. */
typedef REAL Vector __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));
typedef REAL Half __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef REAL Quarter __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

static inline REAL total(Vector v) {
    const Half half = *(const Half *)&v + *((const Half *)&v + 1);
    const Quarter quarter = *(const Quarter *)&half + *((const Quarter *)&half + 1);
    REAL sum = quarter[0] + quarter[1];
    for (size_t i = 2; i < LANES / 4; i++) sum += quarter[i];
    return sum;
}

typedef struct { /* what the adjoint knows of one step of one block of rows */
    REAL keep, delta, u[PIECE], x[PIECE], dy[PIECE];
} Step;

/* ahead: reals between x, dy and what will be wanted some steps later. Rows of one head lie far apart, so that the
 * processor does not foresee them. */
static inline void load_step(Step *to, const REAL *x, const REAL *dy, REAL delta, REAL keep, int64_t size,
                             int64_t ahead) {
    __builtin_prefetch(x + ahead);
    __builtin_prefetch(dy + ahead);
    __builtin_prefetch(x + ahead + PIECE - 1);
    __builtin_prefetch(dy + ahead + PIECE - 1);
    to->keep = keep;
    to->delta = delta;
    if (size == PIECE) {
        for (int p = 0; p < PIECE; p++) to->x[p] = x[p];
        for (int p = 0; p < PIECE; p++) to->dy[p] = dy[p];
    } else {
        memset(to->x, 0, sizeof to->x);
        memset(to->dy, 0, sizeof to->dy);
        for (int64_t p = 0; p < size; p++) to->x[p] = x[p], to->dy[p] = dy[p];
    }
    for (int p = 0; p < PIECE; p++) to->u[p] = delta * to->x[p];
}

/* after = keep before + u b^T on (rows, n) with n whole vectors; both may be the same. */
static inline void drive(const REAL *before, REAL *after, const Step *step, const REAL *b, int64_t rows, int64_t n) {
    const REAL keep = step->keep;
    for (int64_t k = 0; k < n; k += LANES) {
        const Vector bk = *(const Vector *)(b + k);
        for (int64_t p = 0; p < rows; p++)
            *(Vector *)(after + p * n + k) = keep * *(const Vector *)(before + p * n + k) + step->u[p] * bk;
    }
}

/* One step back: g (rows, n), the loss of the state after the step but for its own output, becomes that of the state
 * before it; to_b, to_c (n) are set and du (rows) is. Returns <loss of the state after the step, state before>. */
static inline REAL retreat(REAL *g, const REAL *before, const Step *step, const REAL *b, const REAL *c, REAL *to_b,
                           REAL *to_c, REAL *du, int64_t rows, int64_t n) {
    Vector product = {0};
    REAL inner = 0;
    const REAL keep = step->keep;
    for (int64_t p = 0; p < rows; p += 4) {
        const REAL y0 = step->dy[p], y1 = step->dy[p + 1], y2 = step->dy[p + 2], y3 = step->dy[p + 3];
        const REAL u0 = step->u[p], u1 = step->u[p + 1], u2 = step->u[p + 2], u3 = step->u[p + 3];
        Vector d0 = {0}, d1 = {0}, d2 = {0}, d3 = {0};
        for (int64_t k = 0; k < n; k += LANES) {
            const Vector bk = *(const Vector *)(b + k), ck = *(const Vector *)(c + k);
            Vector *g0 = (Vector *)(g + p * n + k), *g1 = (Vector *)(g + (p + 1) * n + k);
            Vector *g2 = (Vector *)(g + (p + 2) * n + k), *g3 = (Vector *)(g + (p + 3) * n + k);
            const Vector l0 = *g0 + y0 * ck, l1 = *g1 + y1 * ck, l2 = *g2 + y2 * ck, l3 = *g3 + y3 * ck;
            const Vector h0 = *(const Vector *)(before + p * n + k), h1 = *(const Vector *)(before + (p + 1) * n + k);
            const Vector h2 = *(const Vector *)(before + (p + 2) * n + k);
            const Vector h3 = *(const Vector *)(before + (p + 3) * n + k);
            d0 += l0 * bk;
            d1 += l1 * bk;
            d2 += l2 * bk;
            d3 += l3 * bk;
            Vector sum_b = u0 * l0, sum_c = y0 * h0;
            sum_b += u1 * l1;
            sum_c += y1 * h1;
            sum_b += u2 * l2;
            sum_c += y2 * h2;
            sum_b += u3 * l3;
            sum_c += y3 * h3;
            product += l0 * h0;
            product += l1 * h1;
            product += l2 * h2;
            product += l3 * h3;
            if (p) sum_b += *(const Vector *)(to_b + k);
            *(Vector *)(to_b + k) = sum_b;
            if (p) sum_c += *(const Vector *)(to_c + k);
            *(Vector *)(to_c + k) = sum_c;
            *g0 = keep * l0;
            *g1 = keep * l1;
            *g2 = keep * l2;
            *g3 = keep * l3;
        }
        du[p] = total(d0);
        du[p + 1] = total(d1);
        du[p + 2] = total(d2);
        du[p + 3] = total(d3);
        inner += (y0 * u0 + y1 * u1) + (y2 * u2 + y3 * u3);
    }
    for (int64_t k = 0; k < n; k += LANES) {
        Vector *ck = (Vector *)(to_c + k);
        *ck = keep * *ck + inner * *(const Vector *)(b + k);
    }
    return total(product);
}

/* The block (rows, n) of a state with rows of `from`, zeros beyond. */
static void load_state(REAL *to, const REAL *state, int64_t size, int64_t from, int64_t rows, int64_t n) {
    memset(to, 0, sizeof(REAL) * rows * n);
    for (int64_t p = 0; p < size; p++) memcpy(to + p * n, state + p * from, sizeof(REAL) * from);
}

/* dy: what is lost by y before the gate; dlast by last. dA: (k, H), dD: (k, H, P), dB, dC: (parts, total, G, N), to be
 * summed over the first axis; part z has the heads z, z + parts, ... of every group. ddt, dA, dB, dC come as zeros. */
void backward(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D,
              const REAL *h0, const uint8_t *resets, const int64_t *offsets, const REAL *dy, const REAL *dlast,
              REAL *dx, REAL *ddt, REAL *dA, REAL *dB, REAL *dC, REAL *dD, REAL *dh0, int64_t count, int64_t heads,
              int64_t width, int64_t groups, int64_t states, int64_t parts, int64_t threads) {
    const int64_t share = heads / groups, all = offsets[count], blocks = (width + PIECE - 1) / PIECE;
    const int64_t n = (states + LANES - 1) / LANES * LANES, tile = PIECE * n;
    int64_t longest = 1, chunk = 16;
    for (int64_t s = 0; s < count; s++)
        if (offsets[s + 1] - offsets[s] > longest) longest = offsets[s + 1] - offsets[s];
    while (chunk * chunk < longest) chunk *= 2;
    /* Fewer steps where the states of a piece would leave the second-level cache and those at its bounds may grow. */
    while (chunk > 16 && chunk * tile > KEPT && longest / chunk * tile < 32 * KEPT) chunk /= 2;
#pragma omp parallel num_threads(threads)
    {
        REAL *bounds = scratch((longest + chunk - 1) / chunk * tile), *kept = scratch(chunk * tile), *g = scratch(tile);
        REAL *decay = scratch(longest), *b = scratch(n), *c = scratch(n), *to_b = scratch(n), *to_c = scratch(n);
        Step *steps = malloc(sizeof(Step) * chunk);
        memset(b, 0, sizeof(REAL) * n);
        memset(c, 0, sizeof(REAL) * n);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < count * groups * parts; unit++) {
            const int64_t s = unit / (groups * parts), group = unit / parts % groups, z = unit % parts;
            const int64_t start = offsets[s], stop = offsets[s + 1], pieces = (stop - start + chunk - 1) / chunk;
            for (int64_t i = 0; i < (share - z + parts - 1) / parts * blocks; i++) {
                const int64_t j = group * share + z + i / blocks * parts, first = i % blocks * PIECE;
                const int64_t size = width - first < PIECE ? width - first : PIECE, rows = (size + 3) / 4 * 4;
                const int64_t at = ((s * heads + j) * width + first) * states;
                const int64_t ahead = AHEAD * heads * width;
                REAL to_A = 0, to_D[PIECE] = {0}, du[PIECE];
                if (first == 0)
                    for (int64_t t = start; t < stop; t++) decay[t - start] = EXP(dt[t * heads + j] * A[j]);
                load_state(bounds, h0 + at, size, states, rows, n);
                load_state(g, dlast + at, size, states, rows, n);
                for (int64_t k = 0; k + 1 < pieces; k++) {
                    memcpy(kept, bounds + k * tile, sizeof(REAL) * rows * n);
                    for (int64_t t = start + k * chunk; t < start + (k + 1) * chunk; t++) {
                        const int64_t to = (t * heads + j) * width + first;
                        if (resets && resets[t]) memset(kept, 0, sizeof(REAL) * rows * n);
                        load_step(steps, x + to, dy + to, dt[t * heads + j], decay[t - start], size, ahead);
                        memcpy(b, B + (t * groups + group) * states, sizeof(REAL) * states);
                        drive(kept, kept, steps, b, rows, n);
                    }
                    memcpy(bounds + (k + 1) * tile, kept, sizeof(REAL) * rows * n);
                }
                for (int64_t k = pieces - 1; k >= 0; k--) {
                    const int64_t begin = start + k * chunk, length = stop - begin < chunk ? stop - begin : chunk;
                    memcpy(kept, bounds + k * tile, sizeof(REAL) * rows * n);
                    for (int64_t m = 0; m < length; m++) {
                        const int64_t t = begin + m, to = (t * heads + j) * width + first;
                        if (resets && resets[t]) memset(kept + m * tile, 0, sizeof(REAL) * rows * n);
                        load_step(steps + m, x + to, dy + to, dt[t * heads + j], decay[t - start], size, ahead);
                        memcpy(b, B + (t * groups + group) * states, sizeof(REAL) * states);
                        if (m + 1 < length) drive(kept + m * tile, kept + (m + 1) * tile, steps + m, b, rows, n);
                    }
                    for (int64_t m = length - 1; m >= 0; m--) {
                        const int64_t t = begin + m, to = (t * heads + j) * width + first;
                        const int64_t row = (t * groups + group) * states;
                        REAL *sum_b = dB + z * all * groups * states + row, *sum_c = dC + z * all * groups * states + row;
                        const Step *now = steps + m;
                        __builtin_prefetch(dx + to - ahead, 1);
                        __builtin_prefetch(dx + to - ahead + PIECE - 1, 1);
                        memcpy(b, B + row, sizeof(REAL) * states);
                        memcpy(c, C + row, sizeof(REAL) * states);
                        const REAL product =
                            now->keep * retreat(g, kept + m * tile, now, b, c, to_b, to_c, du, rows, n);
                        REAL lost = A[j] * product;
                        for (int64_t q = 0; q < states; q++) sum_b[q] += to_b[q];
                        for (int64_t q = 0; q < states; q++) sum_c[q] += to_c[q];
                        for (int64_t p = 0; p < size; p++) {
                            lost += now->x[p] * du[p];
                            to_D[p] += now->dy[p] * now->x[p];
                            dx[to + p] = now->delta * du[p] + (D ? D[j * width + first + p] * now->dy[p] : 0);
                        }
                        ddt[t * heads + j] += lost;
                        to_A += now->delta * product;
                        if (resets && resets[t]) memset(g, 0, sizeof(REAL) * rows * n);
                    }
                }
                for (int64_t p = 0; p < size; p++) memcpy(dh0 + at + p * states, g + p * n, sizeof(REAL) * states);
                dA[s * heads + j] += to_A;
                memcpy(dD + (s * heads + j) * width + first, to_D, sizeof(REAL) * size);
            }
        }
        REAL *const all_scratch[] = {bounds, kept, g, decay, b, c, to_b, to_c};
        for (size_t i = 0; i < sizeof all_scratch / sizeof *all_scratch; i++) free(all_scratch[i]);
        free(steps);
    }
}
