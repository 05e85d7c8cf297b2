/* Single-input single-output diagonal systems in chunks of Q steps, and their adjoint.
 *
 * With X the state before a chunk (n modes, as n real and n imaginary parts) and u its inputs,
 *     y = X Wout + u T,     X' = lam^Q X + u Win,
 *     Win[j] = lam^(Q-1-j) B,   Wout[., j] = C lam^(j+1),   T[i, j] = Re C lam^(j-i) B, i <= j, plus D on the diagonal.
 * These are products of small matrices, 16 chunks at a time: 4 multiply-adds per mode and step plus Q per step, where
 * the recurrence needs 8 and waits for each step. Powers are taken in double, so that rounding grows with the square root
 * of the number of chunks, not of steps. Gradients are those of the tables, from which lam, B and C get theirs once per unit.
 *
 * One unit of work is a system and a group of sequences; groups depend on the shape alone, so that results do not
 * depend on the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gemm.h"

#define ROWS 16       /* chunks at a time */
#define GROUP_ROWS 64 /* a group of sequences has at least so many chunks: the tables cost as much as some */

enum { CONTINUED, INITIAL, ZERO }; /* where the state before a chunk comes from */

typedef struct {
    int64_t at, sequence; /* place of the first step in system 0 */
    int32_t size, origin, last;
} Chunk;

typedef struct {
    Chunk *chunks;
    int64_t *groups; /* bounds */
    int64_t count;
} Plan;

/* Chunks in the order of time: full ones, and shorter ones where a sequence ends or before a reset. An empty sequence
 * is an empty chunk, which hands on its state. */
static Plan plan(const int64_t *offsets, const uint8_t *resets, int64_t sequences, int64_t length, int64_t systems) {
    Plan p = {0};
    for (int pass = 0; pass < 2; pass++) {
        int64_t number = 0, groups = 0, opened = 0;
        for (int64_t s = 0; s < sequences; s++) {
            if (pass && number - opened >= GROUP_ROWS) p.groups[++groups] = opened = number;
            int64_t t = offsets[s];
            int origin = INITIAL;
            do {
                int64_t stop = t;
                if (resets && t < offsets[s + 1] && resets[t]) origin = ZERO;
                while (stop < offsets[s + 1] && stop - t < Q && !(stop > t && resets && resets[stop])) stop++;
                if (pass) {
                    const int64_t at = length ? t / length * systems * length + t % length : 0;
                    p.chunks[number] = (Chunk){at, s, stop - t, origin, stop == offsets[s + 1]};
                }
                number++;
                origin = CONTINUED;
                t = stop;
            } while (t < offsets[s + 1]);
        }
        if (!pass) {
            p.chunks = malloc(sizeof(Chunk) * number);
            p.groups = calloc(sequences + 1, sizeof(int64_t));
        } else {
            p.groups[++groups] = number;
            p.count = groups;
        }
    }
    return p;
}

/* A row of a panel: real parts of Q / 2 modes, then their imaginary parts. */
#define HALF (Q / 2)
typedef REAL half_row __attribute__((vector_size(HALF * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

typedef struct {
    int64_t modes, panels, w;      /* w = Q panels reals for the modes and zeros behind them */
    double *power, *b, *c;         /* (Q + 1, w): lam^e; (w) */
    REAL *step, *rest;             /* (Q + 1, w): the same, rounded, and what rounding took away */
    REAL *in, *in_t, *out, *out_t; /* (panels, Q, Q): Win, Wout and their transposes */
    REAL t[BLOCK], t_t[BLOCK];
} Tables;

static void *reserve(size_t count, size_t size) {
    void *memory = aligned_alloc(64, (count * size + 63) / 64 * 64);
    if (!memory) abort();
    return memory;
}

static Tables tables_for(int64_t n) {
    Tables s = {.modes = n, .panels = (n + HALF - 1) / HALF};
    s.w = s.panels * Q;
    s.power = reserve((Q + 3) * s.w, sizeof(double));
    s.b = s.power + (Q + 1) * s.w;
    s.c = s.b + s.w;
    s.in = reserve((6 * Q + 2) * s.w, sizeof(REAL));
    s.in_t = s.in + Q * s.w;
    s.out = s.in_t + Q * s.w;
    s.out_t = s.out + Q * s.w;
    s.step = s.out_t + Q * s.w;
    s.rest = s.step + (Q + 1) * s.w;
    return s;
}

static void release(Tables *s) {
    free(s->power);
    free(s->in);
}

/* Place of a mode's real part in a row (panels, Q); its imaginary part is HALF behind. */
INLINE int64_t place(int64_t mode) { return mode / HALF * Q + mode % HALF; }

/* z = x y; z may be either. */
INLINE void multiply(const double *x, const double *y, double *z, int64_t w) {
    for (int64_t p = 0; p < w; p += Q)
        for (int64_t i = p; i < p + HALF; i++) {
            const double re = x[i] * y[i] - x[HALF + i] * y[HALF + i];
            const double im = x[i] * y[HALF + i] + x[HALF + i] * y[i];
            z[i] = re;
            z[HALF + i] = im;
        }
}

static void unpack(const REAL *z, double *row, const Tables *s) {
    memset(row, 0, sizeof(double) * s->w);
    for (int64_t i = 0; i < s->modes; i++) {
        row[place(i)] = z[2 * i];
        row[place(i) + HALF] = z[2 * i + 1];
    }
}

static void transpose(const REAL *a, REAL *b) {
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < Q; j++) b[j * Q + i] = a[i * Q + j];
}

/* The tables of one system; `row` (w) is for numbers in between. */
static void fill(Tables *s, const REAL *lam, const REAL *b, const REAL *c, REAL d, double *row) {
    const int64_t w = s->w;
    double *power = s->power;
    unpack(b, s->b, s);
    unpack(c, s->c, s);
    for (int64_t i = 0; i < w; i++) power[i] = i % Q < HALF;
    unpack(lam, power + w, s);
    for (int e = 2; e <= Q; e++) multiply(power + (e - 1) * w, power + w, power + e * w, w);
    for (int64_t i = 0; i < (Q + 1) * w; i++) {
        s->step[i] = power[i];
        s->rest[i] = power[i] - s->step[i];
    }
    for (int j = 0; j < Q; j++) {
        multiply(power + (Q - 1 - j) * w, s->b, row, w);
        for (int64_t p = 0; p < w; p += Q)
            for (int64_t i = 0; i < Q; i++) s->in[p * Q + j * Q + i] = row[p + i];
        multiply(power + (j + 1) * w, s->c, row, w);
        for (int64_t p = 0; p < w; p += Q)
            for (int64_t i = 0; i < Q; i++) s->out_t[p * Q + j * Q + i] = i < HALF ? row[p + i] : -row[p + i];
    }
    for (int64_t p = 0; p < w; p += Q) {
        transpose(s->in + p * Q, s->in_t + p * Q);
        transpose(s->out_t + p * Q, s->out + p * Q);
    }
    multiply(s->b, s->c, row, w);
    double kernel[Q] = {d};
    for (int e = 0; e < Q; e++)
        for (int64_t p = 0; p < w; p += Q)
            for (int64_t i = p; i < p + HALF; i++)
                kernel[e] += row[i] * power[e * w + i] - row[HALF + i] * power[e * w + HALF + i];
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < Q; j++) s->t[i * Q + j] = s->t_t[j * Q + i] = j < i ? 0 : kernel[j - i];
}

/* A chunk's steps with zeros behind them, and with zeros before them. */
INLINE void take(const REAL *from, int64_t size, REAL *right, REAL *left) {
    if (size == Q) {
        memcpy(right, from, sizeof(REAL) * Q);
        memcpy(left, from, sizeof(REAL) * Q);
        return;
    }
    for (int64_t j = 0; j < Q; j++) {
        right[j] = j < size ? from[j] : 0;
        left[j] = j < Q - size ? 0 : from[j - (Q - size)];
    }
}

INLINE void put(REAL *to, const REAL *from, int64_t size) {
    if (size == Q) memcpy(to, from, sizeof(REAL) * Q);
    else memcpy(to, from, sizeof(REAL) * size);
}

/* Where the state before a chunk is not the one behind the chunk before it. */
INLINE void begin(const Tables *s, const Chunk *chunk, const REAL *x0, int64_t stride, REAL *x) {
    if (chunk->origin == CONTINUED) return;
    memset(x, 0, sizeof(REAL) * s->w);
    const REAL *from = x0 + chunk->sequence * stride;
    if (chunk->origin == INITIAL)
        for (int64_t i = 0; i < s->modes; i++) {
            x[place(i)] = from[2 * i];
            x[place(i) + HALF] = from[2 * i + 1];
        }
}

INLINE void finish(const Tables *s, const Chunk *chunk, const REAL *x, int64_t stride, REAL *last) {
    if (!last || !chunk->last) return;
    REAL *to = last + chunk->sequence * stride;
    for (int64_t i = 0; i < s->modes; i++) {
        to[2 * i] = x[place(i)];
        to[2 * i + 1] = x[place(i) + HALF];
    }
}

/* x becomes lam^e x + v, lam^e as step + rest: what rounding takes from a slow mode's power is lost again in every chunk,
 * and would be the largest error. */
INLINE void advance(const REAL *step, const REAL *rest, half_row *re, half_row *im, half_row v, half_row w) {
    const half_row a = *(const half_row *)step, b = *(const half_row *)(step + HALF), x = *re, y = *im;
    const half_row c = *(const half_row *)rest, d = *(const half_row *)(rest + HALF);
    if (sizeof(REAL) == sizeof(float)) { /* sums in two branches: the next chunk waits for them */
        *re = (a * x + (c * x + v)) - (b * y + d * y);
        *im = (a * y + (c * y + w)) + (b * x + d * x);
    } else {
        *re = a * x + (v - b * y);
        *im = a * y + (w + b * x);
    }
}

/* `count` panels over consecutive full chunks: the state before each replaces what it adds. */
INLINE void roll(const REAL *step, const REAL *rest, REAL *states, REAL *x, const int count) {
    half_row re[4], im[4];
    for (int p = 0; p < count; p++) {
        re[p] = *(half_row *)(x + p * Q);
        im[p] = *(half_row *)(x + p * Q + HALF);
    }
    for (int r = 0; r < ROWS; r++) {
        for (int p = 0; p < count; p++) {
            half_row *row = (half_row *)(states + p * BLOCK + r * Q);
            const half_row v = row[0], w = row[1];
            row[0] = re[p];
            row[1] = im[p];
            advance(step + p * Q, rest + p * Q, re + p, im + p, v, w);
        }
    }
    for (int p = 0; p < count; p++) {
        *(half_row *)(x + p * Q) = re[p];
        *(half_row *)(x + p * Q + HALF) = im[p];
    }
}

/* Whether `rows` chunks are ROWS full ones of which each continues the one before. */
INLINE int plain(const Chunk *chunks, int64_t rows) {
    int regular = rows == ROWS;
    for (int64_t r = 0; r < rows; r++) regular &= chunks[r].size == Q && (!r || chunks[r].origin == CONTINUED);
    return regular;
}

/* States before each chunk in place of what the chunks add to them, (panels, ROWS, Q); x (w) is carried. */
INLINE void carry(const Tables *s, const Chunk *chunks, int64_t rows, int whole, const REAL *x0, REAL *last, int64_t stride,
                  REAL *states, REAL *x) {
    if (whole) {
        const REAL *step = s->step + Q * s->w, *rest = s->rest + Q * s->w;
        int64_t p = 0;
        begin(s, chunks, x0, stride, x);
        for (; p + 4 <= s->panels; p += 4) roll(step + p * Q, rest + p * Q, states + p * BLOCK, x + p * Q, 4);
        for (; p + 2 <= s->panels; p += 2) roll(step + p * Q, rest + p * Q, states + p * BLOCK, x + p * Q, 2);
        for (; p < s->panels; p++) roll(step + p * Q, rest + p * Q, states + p * BLOCK, x + p * Q, 1);
        finish(s, chunks + ROWS - 1, x, stride, last);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const REAL *step = s->step + chunks[r].size * s->w, *rest = s->rest + chunks[r].size * s->w;
        begin(s, chunks + r, x0, stride, x);
        for (int64_t p = 0; p < s->panels; p++) {
            half_row *row = (half_row *)(states + p * BLOCK + r * Q), *now = (half_row *)(x + p * Q);
            const half_row v = row[0], w = row[1];
            row[0] = now[0];
            row[1] = now[1];
            advance(step + p * Q, rest + p * Q, now, now + 1, v, w);
        }
        finish(s, chunks + r, x, stride, last);
    }
}

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
                    for (int i = 0; i < ROWS; i++) __builtin_prefetch(from + (i + 2 * ROWS) * Q);
                    for (int64_t r = 0; !whole && r < rows; r++)
                        take(u + chunks[r].at + k * length, chunks[r].size, right + r * Q, left + r * Q);
                    for (int64_t i = 0; i < s.panels; i++)
                        gemm_block(states + i * BLOCK, before, 0, s.in + i * BLOCK, 0);
                    carry(&s, chunks, rows, whole, x0 + 2 * k * n, last + 2 * k * n, stride, states, x);
                    gemm_chain(whole ? to : result, whole ? from : right, s.t, states, BLOCK, 0, s.out, BLOCK, s.panels, 0);
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
        REAL *all = reserve(blocks * size, sizeof(REAL)), *lost = reserve(size + 3 * s.w, sizeof(REAL));
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
                        take(u + chunks[first + r].at + k * length, chunks[first + r].size, right + r * Q, left + r * Q);
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
                    gemm_chain(early, 0, 0, lost, BLOCK, 0, s.in_t, BLOCK, s.panels, 0);
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
