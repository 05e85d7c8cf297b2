/* Single-input single-output diagonal systems in chunks of Q steps, and their adjoint.
 *
 * With X the state before a chunk (n modes, as n real and n imaginary parts) and u its inputs,
 *     y = X Wout + u T,     X' = lam^Q X + u Win,
 *     Win[j] = lam^(Q-1-j) B,   Wout[., j] = C lam^(j+1),   T[i, j] = Re C lam^(j-i) B, i <= j, plus D on the diagonal.
 * These are products of small matrices, 16 chunks at a time: 4 multiply-adds per mode and step plus Q per step, where
 * the recurrence needs 8 and waits for each step. Powers are taken in double, so that rounding grows with the square
 * root of the number of chunks, not of steps. Gradients are those of the tables, from which lam, B and C get theirs
 * once per unit.
 *
 * One unit of work is a system and a group of sequences; groups depend on the shape alone, so that results do not
 * depend on the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "diagonal_chunks.h"

/* u, y: (batch, systems, length); lam, B, C: (systems, n) complex; D: (systems); x0, last: (sequences, systems, n)
 * complex; resets: (batch, length) or null; offsets: (sequences + 1) on the flat axis (batch length). */
void forward(const REAL *lam, const REAL *B, const REAL *C, const REAL *D, const REAL *u, const REAL *x0,
             const uint8_t *resets, const int64_t *offsets, REAL *y, REAL *last, int64_t sequences, int64_t systems,
             int64_t length, int64_t n, int64_t threads) {
    const Plan p = plan(offsets, resets, sequences, length, systems);
    const int64_t stride = 2 * systems * n;
#pragma omp parallel num_threads(threads)
    {
        Tables s = tables_for(n);
        REAL *states = reserve((ROWS + 1) * s.w, sizeof(REAL)), *x = states + ROWS * s.w;
        double *row = reserve(s.w, sizeof(double));
        REAL left[BLOCK], right[BLOCK], result[BLOCK];
#pragma omp for collapse(2) schedule(static)
        for (int64_t k = 0; k < systems; k++) {
            for (int64_t g = 0; g < p.count; g++) {
                fill(&s, lam + 2 * k * n, B + 2 * k * n, C + 2 * k * n, D[k], row);
                memset(left, 0, sizeof left);
                memset(right, 0, sizeof right);
                for (int64_t first = p.groups[g]; first < p.groups[g + 1]; first += ROWS) {
                    const Chunk *chunks = p.chunks + first;
                    const int64_t rows = p.groups[g + 1] - first < ROWS ? p.groups[g + 1] - first : ROWS;
                    const int whole = plain(chunks, rows); /* then u and y are ROWS rows of Q as they lie there */
                    const REAL *from = u + chunks->at + k * length, *before = whole ? from : left;
                    REAL *to = y + chunks->at + k * length;
                    for (int64_t r = 0; !whole && r < rows; r++)
                        take(u + chunks[r].at + k * length, chunks[r].size, right + r * Q, left + r * Q);
                    for (int64_t i = 0; i < s.panels; i++)
                        gemm_block(states + i * BLOCK, before, 0, s.in + i * BLOCK, 0);
                    const REAL *initial = x0 + 2 * k * n;
                    REAL *final = last + 2 * k * n;
                    if (whole && s.panels <= 2) {
                        begin(&s, chunks, initial, stride, x);
                        if (s.panels == 1) respond_rolling_one(&s, from, states, x, to);
                        else respond_rolling_two(&s, from, states, x, to);
                        finish(&s, chunks + ROWS - 1, x, stride, final);
                        continue;
                    }
                    carry(&s, chunks, rows, whole, initial, final, stride, states, x);
                    respond(&s, whole ? from : right, states, x, whole ? to : result, 0);
                    for (int64_t r = 0; !whole && r < rows; r++)
                        put(y + chunks[r].at + k * length, result + r * Q, chunks[r].size);
                }
            }
        }
        free(row);
        free(states);
        release(&s);
    }
    free(p.chunks);
    free(p.groups);
}

/* What the tables lost, and what lam, B and C lose by it. */
typedef struct {
    REAL *in, *out;        /* (panels, Q, Q): of Win, of the transpose of Wout */
    REAL gram[BLOCK];      /* sum of u[i] dy[j] over chunks */
    double *power;         /* (Q + 1, w) */
    double *lam, *b, *c;   /* (w) */
} Lost;

static Lost lost_for(const Tables *s) {
    Lost g;
    g.in = reserve(2 * Q * s->w, sizeof(REAL));
    g.out = g.in + Q * s->w;
    g.power = reserve((Q + 4) * s->w, sizeof(double));
    g.lam = g.power + (Q + 1) * s->w;
    g.b = g.lam + s->w;
    g.c = g.b + s->w;
    return g;
}

/* z += factor conj(x) y. */
INLINE void add_adjoint(const double *x, const double *y, double factor, double *z, int64_t w) {
    for (int64_t p = 0; p < w; p += Q)
        for (int64_t i = p; i < p + HALF; i++) {
            z[i] += factor * (x[i] * y[i] + x[HALF + i] * y[HALF + i]);
            z[HALF + i] += factor * (x[i] * y[HALF + i] - x[HALF + i] * y[i]);
        }
}

/* Row j of what a table lost, imaginary parts times sign. */
INLINE void row_of(const REAL *panels, int j, REAL sign, double *row, int64_t w) {
    for (int64_t p = 0; p < w; p += Q)
        for (int i = 0; i < Q; i++) row[p + i] = (i < HALF ? 1 : sign) * panels[p * Q + j * Q + i];
}

/* From the tables to lam, b, c; returns what D loses. rows: (3, w) for numbers in between. */
static double resolve(const Tables *s, Lost *g, double *rows) {
    const int64_t w = s->w;
    double *row = rows, *factor = rows + w, *both = rows + 2 * w;
    const double *power = s->power;
    memset(g->lam, 0, 3 * w * sizeof(double));
    for (int j = 0; j < Q; j++) {
        const int in = Q - 1 - j, out = j + 1;
        row_of(g->in, j, 1, row, w);
        add_adjoint(power + in * w, row, 1, g->b, w);
        if (in) {
            multiply(power + (in - 1) * w, s->b, factor, w);
            add_adjoint(factor, row, in, g->lam, w);
        }
        row_of(g->out, j, -1, row, w);
        add_adjoint(power + out * w, row, 1, g->c, w);
        multiply(power + (out - 1) * w, s->c, factor, w);
        add_adjoint(factor, row, out, g->lam, w);
    }
    multiply(s->b, s->c, both, w);
    double direct = 0;
    for (int e = 0; e < Q; e++) {
        double kernel = 0;
        for (int i = 0; i + e < Q; i++) kernel += g->gram[i * Q + i + e];
        if (!e) direct = kernel;
        for (int64_t i = 0; i < w; i++) row[i] = i % Q < HALF ? kernel : 0;
        multiply(power + e * w, s->b, factor, w);
        add_adjoint(factor, row, 1, g->c, w);
        multiply(power + e * w, s->c, factor, w);
        add_adjoint(factor, row, 1, g->b, w);
        if (!e) continue;
        multiply(power + (e - 1) * w, both, factor, w);
        add_adjoint(factor, row, e, g->lam, w);
    }
    for (int e = 1; e <= Q; e++) add_adjoint(power + (e - 1) * w, g->power + e * w, e, g->lam, w);
    return direct;
}

static void pack(const double *row, REAL *z, const Tables *s) {
    for (int64_t i = 0; i < s->modes; i++) {
        z[2 * i] = row[place(i)];
        z[2 * i + 1] = row[place(i) + HALF];
    }
}

/* From the last chunk to the first: `lost` holds what each chunk's outputs take from the state before it, and gets what
 * the state behind it loses in all; m (w) is carried, sums (w) are for full chunks. */
INLINE void carry_back(const Tables *s, const Chunk *chunks, int64_t rows, const REAL *states, const REAL *dlast,
                       REAL *dx0, int64_t stride, REAL *lost, REAL *m, REAL *sums, Lost *g) {
    memset(sums, 0, sizeof(REAL) * s->w);
    for (int64_t r = rows - 1; r >= 0; r--) {
        const Chunk *chunk = chunks + r;
        const REAL *step = s->step + chunk->size * s->w, *rest = s->rest + chunk->size * s->w;
        if (chunk->last) {
            const REAL *from = dlast + chunk->sequence * stride;
            memset(m, 0, sizeof(REAL) * s->w);
            for (int64_t i = 0; i < s->modes; i++) {
                m[place(i)] = from[2 * i];
                m[place(i) + HALF] = -from[2 * i + 1];
            }
        }
        for (int64_t p = 0; p < s->panels; p++) {
            /* m is conjugate: the adjoint of lam^e then is lam^e. */
            half_row *row = (half_row *)(lost + p * BLOCK + r * Q), *behind = (half_row *)(m + p * Q);
            half_row *total = (half_row *)(sums + p * Q);
            const half_row *x = (const half_row *)(states + p * BLOCK + r * Q);
            const half_row re = behind[0], im = behind[1], v = row[0], w = row[1];
            const half_row to_re = re * x[0] - im * x[1], to_im = re * x[1] + im * x[0];
            if (chunk->size == Q) {
                total[0] += to_re;
                total[1] -= to_im;
            } else {
                double *power = g->power + chunk->size * s->w + p * Q;
                for (int i = 0; i < HALF; i++) {
                    power[i] += to_re[i];
                    power[HALF + i] -= to_im[i];
                }
            }
            row[0] = re;
            row[1] = -im;
            advance(step + p * Q, rest + p * Q, behind, behind + 1, v, -w);
        }
        if (chunk->origin == INITIAL) {
            REAL *to = dx0 + chunk->sequence * stride;
            for (int64_t i = 0; i < s->modes; i++) {
                to[2 * i] = m[place(i)];
                to[2 * i + 1] = -m[place(i) + HALF];
            }
        }
        if (chunk->origin == ZERO) memset(m, 0, sizeof(REAL) * s->w);
    }
    for (int64_t i = 0; i < s->w; i++) g->power[Q * s->w + i] += sums[i];
}

/* dy, dlast: what is lost by y and last. du; dx0, zeros before; dlam, dB, dC (sequences, systems, n) complex and dD
 * (sequences, systems), zeros before: their sums over the first axis are the gradients. */
void backward(const REAL *lam, const REAL *B, const REAL *C, const REAL *D, const REAL *u, const REAL *x0,
              const uint8_t *resets, const int64_t *offsets, const REAL *dy, const REAL *dlast, REAL *dlam, REAL *dB,
              REAL *dC, REAL *dD, REAL *du, REAL *dx0, int64_t sequences, int64_t systems, int64_t length, int64_t n,
              int64_t threads) {
    const Plan p = plan(offsets, resets, sequences, length, systems);
    const int64_t stride = 2 * systems * n;
    int64_t longest = 0;
    for (int64_t g = 0; g < p.count; g++)
        if (p.groups[g + 1] - p.groups[g] > longest) longest = p.groups[g + 1] - p.groups[g];
    const int64_t blocks = (longest + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
    {
        Tables s = tables_for(n);
        Lost g = lost_for(&s);
        const int64_t size = s.panels * BLOCK; /* reals of the states before ROWS chunks */
        REAL *all = reserve(blocks * size + Q, sizeof(REAL)), *lost = reserve(size + 3 * s.w, sizeof(REAL));
        REAL *x = lost + size, *m = x + s.w, *sums = m + s.w;
        double *row = reserve(3 * s.w, sizeof(double));
        REAL left[BLOCK], right[BLOCK], given[BLOCK], result[BLOCK], early[BLOCK];
#pragma omp for collapse(2) schedule(static)
        for (int64_t k = 0; k < systems; k++) {
            for (int64_t i = 0; i < p.count; i++) {
                const Chunk *chunks = p.chunks + p.groups[i];
                const int64_t number = p.groups[i + 1] - p.groups[i], own = 2 * k * n;
                fill(&s, lam + own, B + own, C + own, D[k], row);
                memset(g.in, 0, sizeof(REAL) * 2 * size);
                memset(g.gram, 0, sizeof g.gram);
                memset(g.power, 0, sizeof(double) * (Q + 1) * s.w);
                memset(left, 0, sizeof left);
                for (int64_t first = 0; first < number; first += ROWS) {
                    const int64_t rows = number - first < ROWS ? number - first : ROWS;
                    REAL *states = all + first / ROWS * size;
                    if (rows < ROWS) memset(left, 0, sizeof left);
                    for (int64_t r = 0; r < rows; r++)
                        take(u + chunks[first + r].at + k * length, chunks[first + r].size, right + r * Q,
                             left + r * Q);
                    for (int64_t j = 0; j < s.panels; j++)
                        gemm_block(states + j * BLOCK, left, 0, s.in + j * BLOCK, 0);
                    carry(&s, chunks + first, rows, plain(chunks + first, rows), x0 + own, 0, stride, states, x);
                }
                for (int64_t first = (number - 1) / ROWS * ROWS; first >= 0; first -= ROWS) {
                    const int64_t rows = number - first < ROWS ? number - first : ROWS;
                    const REAL *states = all + first / ROWS * size;
                    memset(left, 0, sizeof left);
                    memset(right, 0, sizeof right);
                    memset(given, 0, sizeof given);
                    for (int64_t r = 0; r < rows; r++) {
                        const Chunk *chunk = chunks + first + r;
                        take(u + chunk->at + k * length, chunk->size, right + r * Q, left + r * Q);
                        put(given + r * Q, dy + chunk->at + k * length, chunk->size);
                    }
                    for (int64_t j = 0; j < s.panels; j++)
                        gemm_block(lost + j * BLOCK, given, 0, s.out_t + j * BLOCK, 0);
                    carry_back(&s, chunks + first, rows, states, dlast + own, dx0 + own, stride, lost, m, sums, &g);
                    for (int64_t j = 0; j < s.panels; j++) {
                        gemm_block(g.in + j * BLOCK, left, 1, lost + j * BLOCK, 1);
                        gemm_block(g.out + j * BLOCK, given, 1, states + j * BLOCK, 1);
                    }
                    gemm_block(g.gram, right, 1, given, 1);
                    gemm_block(result, given, 0, s.t_t, 0);
                    gemm_chain(early, lost, BLOCK, 0, s.in_t, BLOCK, s.panels, 0);
                    for (int64_t r = 0; r < rows; r++) {
                        const Chunk *chunk = chunks + first + r;
                        REAL *to = du + chunk->at + k * length;
                        for (int64_t t = 0; t < chunk->size; t++)
                            to[t] = result[r * Q + t] + early[r * Q + Q - chunk->size + t];
                    }
                }
                const int64_t at = (chunks->sequence * systems + k) * 2 * n;
                dD[chunks->sequence * systems + k] = resolve(&s, &g, row);
                pack(g.lam, dlam + at, &s);
                pack(g.b, dB + at, &s);
                pack(g.c, dC + at, &s);
            }
        }
        free(row);
        free(lost);
        free(all);
        free(g.power);
        free(g.in);
        release(&s);
    }
    free(p.chunks);
    free(p.groups);
}
