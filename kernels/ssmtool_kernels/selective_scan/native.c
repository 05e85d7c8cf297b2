/* The selective scan and its adjoint in contiguous arrays:
 *
 *   h[t] = exp(dt A) h[t-1] + dt x B,   y = (C . h + D x) silu(z),   dt := softplus(dt + bias) if asked.
 *
 * Vector lanes are channels, so that any number of states N is as fast per state, and nothing is summed across lanes on
 * the way forward. One unit of work is a sequence and a block of W channels of one group; units are independent, and what is
 * summed over blocks or sequences is summed afterwards in their order: results do not depend on the number of threads. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "vexp.h"

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__) && !defined(NARROW)
#pragma GCC target("prefer-vector-width=512")
#endif

#ifndef W
#define W 64 /* channels of a block */
#endif
#ifndef Q
#define Q 64 /* steps between the states that the forward pass keeps for the backward pass */
#endif
#define LOG2E ((REAL)1.4426950408889634074)

typedef struct {
    int64_t count, channels, groups, states, softplus;
    int64_t width, blocks; /* channels of a group, blocks of a group */
} Sizes;

/* A block of channels of one sequence. */
typedef struct {
    int64_t sequence, group, index, first, size; /* index: of the block among all; first: its first channel */
} Unit;

static Sizes sizes(int64_t count, int64_t channels, int64_t groups, int64_t states, int64_t softplus) {
    const int64_t width = channels / groups;
    return (Sizes){count, channels, groups, states, softplus, width, (width + W - 1) / W};
}

static Unit unit(const Sizes *of, int64_t i) {
    const int64_t all = of->groups * of->blocks, index = i % all, k = index % of->blocks, rest = of->width - k * W;
    const int64_t group = index / of->blocks;
    return (Unit){i / all, group, index, group * of->width + k * W, rest < W ? rest : W};
}

/* A row of the block, zeros behind its end. */
static inline void row(const REAL *from, int64_t size, REAL *to) {
    if (size == W) {
        memcpy(to, from, sizeof(REAL) * W);
    } else {
        memset(to, 0, sizeof(REAL) * W);
        memcpy(to, from, sizeof(REAL) * size);
    }
}

/* (W, N) rows of a (channels, N) matrix, as (N, W) times `factor`. */
static void turned(const REAL *from, int64_t size, int64_t states, REAL factor, REAL *to) {
    memset(to, 0, sizeof(REAL) * W * states);
    for (int64_t l = 0; l < size; l++)
        for (int64_t n = 0; n < states; n++) to[n * W + l] = factor * from[l * states + n];
}

static inline void steps_of(const REAL *dt, const REAL *bias, int64_t size, int64_t softplus, REAL *to) {
    row(dt, size, to);
    if (bias)
        for (int64_t l = 0; l < W; l++) to[l] += bias[l];
    if (softplus)
        for (int64_t l = 0; l < W; l++) to[l] = VSOFTPLUS(to[l]);
}

/* One step of all states; y: what comes out before D and the gate. */
static inline void advance(const REAL *restrict A2, const REAL *restrict dt, const REAL *restrict drive,
                           const REAL *restrict b, const REAL *restrict c, int64_t states, REAL *restrict h,
                           REAL *restrict y) {
    REAL sum[W] = {0};
    for (int64_t n = 0; n < states; n++)
        for (int64_t l = 0; l < W; l++) {
            const REAL now = VFMA(VEXP2(dt[l] * A2[n * W + l]), h[n * W + l], drive[l] * b[n]);
            h[n * W + l] = now;
            sum[l] = VFMA(now, c[n], sum[l]);
        }
    memcpy(y, sum, sizeof sum);
}

void forward(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D, const REAL *h0,
             const REAL *z, const REAL *bias, const uint8_t *resets, const int64_t *offsets, REAL *y, REAL *last,
             REAL *kept, REAL *scratch, int64_t count, int64_t channels, int64_t groups, int64_t states,
             int64_t softplus, int64_t threads) {
    const Sizes of = sizes(count, channels, groups, states, softplus);
    const int64_t units = count * groups * of.blocks, area = states * W;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < units; i++) {
        const Unit u = unit(&of, i);
        REAL *h = scratch + 2 * area * omp_get_thread_num(), *A2 = h + area;
        REAL add[W] = {0}, through[W] = {0}, steps[W], in[W], drive[W], out[W], gate[W];
        turned(A + u.first * states, u.size, states, LOG2E, A2);
        turned(h0 + (u.sequence * channels + u.first) * states, u.size, states, 1, h);
        if (bias) row(bias + u.first, u.size, add);
        if (D) row(D + u.first, u.size, through);
        const int64_t start = offsets[u.sequence];
        for (int64_t t = start; t < offsets[u.sequence + 1]; t++) {
            const int64_t at = t * channels + u.first, shared = (t * groups + u.group) * states;
            if (kept && (t - start) % Q == 0) {
                const int64_t slot = start / Q + u.sequence + (t - start) / Q;
                memcpy(kept + (slot * groups * of.blocks + u.index) * area, h, sizeof(REAL) * area);
            }
            if (resets && resets[t]) memset(h, 0, sizeof(REAL) * area);
            steps_of(dt + at, bias ? add : NULL, u.size, softplus, steps);
            row(x + at, u.size, in);
            for (int64_t l = 0; l < W; l++) drive[l] = steps[l] * in[l];
            advance(A2, steps, drive, B + shared, C + shared, states, h, out);
            if (D)
                for (int64_t l = 0; l < W; l++) out[l] = VFMA(through[l], in[l], out[l]);
            if (z) {
                row(z + at, u.size, gate);
                for (int64_t l = 0; l < W; l++) out[l] *= gate[l] * VLOGISTIC(gate[l]);
            }
            memcpy(y + at, out, sizeof(REAL) * u.size);
        }
        REAL *end = last + (u.sequence * channels + u.first) * states;
        for (int64_t l = 0; l < u.size; l++)
            for (int64_t n = 0; n < states; n++) end[l * states + n] = h[n * W + l];
    }
}

/* Step t again from h: what decays by how much, what arrives, and the output. `carried` is decay h[t-1]. */
static inline void repeat(const REAL *restrict A2, const REAL *restrict dt, const REAL *restrict drive,
                          const REAL *restrict b, const REAL *restrict c, int64_t states, REAL *restrict h,
                          REAL *restrict decay, REAL *restrict carried, REAL *restrict y) {
    REAL sum[W] = {0};
    for (int64_t n = 0; n < states; n++)
        for (int64_t l = 0; l < W; l++) {
            const REAL by = VEXP2(dt[l] * A2[n * W + l]), stays = by * h[n * W + l];
            const REAL now = VFMA(drive[l], b[n], stays);
            decay[n * W + l] = by;
            carried[n * W + l] = stays;
            h[n * W + l] = now;
            sum[l] = VFMA(now, c[n], sum[l]);
        }
    memcpy(y, sum, sizeof sum);
}

/* The adjoint of step t. g (N, W): what is lost by h[t], then by h[t-1]; dy before D and the gate. */
static inline void retreat(const REAL *restrict A2, const REAL *restrict dt, const REAL *restrict drive,
                           const REAL *restrict b, const REAL *restrict c, const REAL *restrict dy,
                           const REAL *restrict decay, const REAL *restrict carried, int64_t states, REAL *restrict g,
                           REAL *restrict dA, REAL *restrict db, REAL *restrict dc, REAL *restrict d_dt,
                           REAL *restrict d_drive) {
    REAL exponent[W] = {0}, driven[W] = {0};
    for (int64_t n = 0; n < states; n++) {
        REAL to_b = 0, to_c = 0;
#pragma omp simd reduction(+ : to_b, to_c)
        for (int64_t l = 0; l < W; l++) {
            const REAL lost = VFMA(dy[l], c[n], g[n * W + l]), through = lost * carried[n * W + l];
            to_c += dy[l] * VFMA(drive[l], b[n], carried[n * W + l]);
            to_b += lost * drive[l];
            driven[l] = VFMA(lost, b[n], driven[l]);
            dA[n * W + l] = VFMA(through, dt[l], dA[n * W + l]);
            exponent[l] = VFMA(through, A2[n * W + l], exponent[l]);
            g[n * W + l] = lost * decay[n * W + l];
        }
        db[n] = to_b;
        dc[n] = to_c;
    }
    for (int64_t l = 0; l < W; l++) d_dt[l] = exponent[l] / LOG2E;
    memcpy(d_drive, driven, sizeof driven);
}

/* Gradients of one unit. Sums over blocks and sequences are left to `backward`: part_* hold what each contributes. */
typedef struct {
    const REAL *x, *dt, *A, *B, *C, *D, *z, *bias, *kept, *dy, *dlast;
    const uint8_t *resets;
    const int64_t *offsets;
    REAL *dx, *d_dt, *dz, *dh0, *part_A, *part_B, *part_C, *part_D, *part_bias;
} Pass;

static void unit_backward(const Pass *p, const Sizes *of, const Unit u, REAL *scratch) {
    const int64_t states = of->states, area = states * W, channels = of->channels;
    REAL *h = scratch, *A2 = h + area, *g = A2 + area, *dA = g + area, *decay = dA + area;
    REAL *carried = decay + Q * area, *steps = carried + Q * area, *in = steps + Q * W, *out = in + Q * W;
    REAL add[W] = {0}, through[W] = {0}, dD[W] = {0}, d_bias[W] = {0}, drive[W], lost[W], gate[W], step[W], driven[W];
    turned(p->A + u.first * states, u.size, states, LOG2E, A2);
    turned(p->dlast + (u.sequence * channels + u.first) * states, u.size, states, 1, g);
    memset(dA, 0, sizeof(REAL) * area);
    if (p->bias) row(p->bias + u.first, u.size, add);
    if (p->D) row(p->D + u.first, u.size, through);
    const int64_t start = p->offsets[u.sequence], stop = p->offsets[u.sequence + 1];
    const int64_t total = p->offsets[of->count];
    for (int64_t chunk = (stop - start + Q - 1) / Q - 1; chunk >= 0; chunk--) {
        const int64_t from = start + chunk * Q, size = stop - from < Q ? stop - from : Q;
        const int64_t slot = start / Q + u.sequence + chunk;
        memcpy(h, p->kept + (slot * of->groups * of->blocks + u.index) * area, sizeof(REAL) * area);
        for (int64_t i = 0; i < size; i++) {
            const int64_t at = (from + i) * channels + u.first, shared = ((from + i) * of->groups + u.group) * states;
            if (p->resets && p->resets[from + i]) memset(h, 0, sizeof(REAL) * area);
            steps_of(p->dt + at, p->bias ? add : NULL, u.size, of->softplus, steps + i * W);
            row(p->x + at, u.size, in + i * W);
            for (int64_t l = 0; l < W; l++) drive[l] = steps[i * W + l] * in[i * W + l];
            repeat(A2, steps + i * W, drive, p->B + shared, p->C + shared, states, h, decay + i * area,
                   carried + i * area, out + i * W);
        }
        for (int64_t i = size - 1; i >= 0; i--) {
            const int64_t t = from + i, at = t * channels + u.first, shared = (t * of->groups + u.group) * states;
            const REAL *dt = steps + i * W, *x = in + i * W;
            row(p->dy + at, u.size, lost);
            if (p->z) {
                row(p->z + at, u.size, gate);
                for (int64_t l = 0; l < W; l++) {
                    const REAL s = VLOGISTIC(gate[l]), y = VFMA(through[l], x[l], out[i * W + l]);
                    step[l] = lost[l] * y * s * (1 + gate[l] * (1 - s));
                    lost[l] *= gate[l] * s;
                }
                memcpy(p->dz + at, step, sizeof(REAL) * u.size);
            }
            for (int64_t l = 0; l < W; l++) {
                drive[l] = dt[l] * x[l];
                dD[l] = VFMA(lost[l], x[l], dD[l]);
            }
            const int64_t part = (u.index * total + t) * states;
            retreat(A2, dt, drive, p->B + shared, p->C + shared, lost, decay + i * area, carried + i * area, states, g,
                    dA, p->part_B + part, p->part_C + part, step, driven);
            for (int64_t l = 0; l < W; l++) {
                step[l] = VFMA(driven[l], x[l], step[l]);
                lost[l] = VFMA(driven[l], dt[l], through[l] * lost[l]);
            }
            if (of->softplus) {
                row(p->dt + at, u.size, gate);
                for (int64_t l = 0; l < W; l++) step[l] *= VLOGISTIC(gate[l] + add[l]);
            }
            for (int64_t l = 0; l < W; l++) d_bias[l] += step[l];
            memcpy(p->dx + at, lost, sizeof(REAL) * u.size);
            memcpy(p->d_dt + at, step, sizeof(REAL) * u.size);
            if (p->resets && p->resets[t]) memset(g, 0, sizeof(REAL) * area);
        }
    }
    const int64_t at = u.sequence * channels + u.first;
    for (int64_t l = 0; l < u.size; l++)
        for (int64_t n = 0; n < states; n++) {
            p->dh0[(at + l) * states + n] = g[n * W + l];
            p->part_A[(at + l) * states + n] = dA[n * W + l];
        }
    memcpy(p->part_D + at, dD, sizeof(REAL) * u.size);
    memcpy(p->part_bias + at, d_bias, sizeof(REAL) * u.size);
}

/* to[i] = sum over k of from[k * stride + i], in the order of k. */
static void add_up(const REAL *from, int64_t parts, int64_t stride, int64_t size, REAL *to) {
    memset(to, 0, sizeof(REAL) * size);
    for (int64_t k = 0; k < parts; k++)
        for (int64_t i = 0; i < size; i++) to[i] += from[k * stride + i];
}

/* kept: from `forward`. part_A (count, channels, N), part_D, part_bias (count, channels), part_B, part_C (blocks of all
 * groups, total, N): working memory, as is scratch. */
void backward(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D, const REAL *z,
              const REAL *bias, const uint8_t *resets, const int64_t *offsets, const REAL *kept, const REAL *dy,
              const REAL *dlast, REAL *dx, REAL *d_dt, REAL *dA, REAL *dB, REAL *dC, REAL *dD, REAL *dh0, REAL *dz,
              REAL *d_bias, REAL *part_A, REAL *part_B, REAL *part_C, REAL *part_D, REAL *part_bias, REAL *scratch,
              int64_t scratch_size, int64_t count, int64_t channels, int64_t groups, int64_t states, int64_t softplus,
              int64_t threads) {
    const Sizes of = sizes(count, channels, groups, states, softplus);
    const Pass p = {x,  dt,   A,   B,      C,      D,      z,      bias,   kept,     dy, dlast, resets, offsets, dx,
                    d_dt, dz, dh0, part_A, part_B, part_C, part_D, part_bias};
    const int64_t units = count * groups * of.blocks, total = offsets[count];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < units; i++)
        unit_backward(&p, &of, unit(&of, i), scratch + scratch_size * omp_get_thread_num());
    const int64_t block = total * states;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < total; t++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t from = g * of.blocks * block + t * states, to = (t * groups + g) * states;
            add_up(part_B + from, of.blocks, block, states, dB + to);
            add_up(part_C + from, of.blocks, block, states, dC + to);
        }
    add_up(part_A, count, channels * states, channels * states, dA);
    if (D) add_up(part_D, count, channels, channels, dD);
    if (bias) add_up(part_bias, count, channels, channels, d_bias);
}

/* exp, 2^x, softplus and logistic of x (n), for their tests. */
void elementary(const REAL *x, REAL *to_exp, REAL *to_exp2, REAL *to_softplus, REAL *to_logistic, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        to_exp[i] = VEXP(x[i]);
        to_exp2[i] = VEXP2(x[i]);
        to_softplus[i] = VSOFTPLUS(x[i]);
        to_logistic[i] = VLOGISTIC(x[i]);
    }
}
