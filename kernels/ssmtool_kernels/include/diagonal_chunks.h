/* Diagonal systems of one input and one output: chunks of Q time steps, what they do as tables, and the states before
 * them. Equations are in diagonal_scan/native.c. */

#ifndef SSMTOOL_DIAGONAL_CHUNKS_H
#define SSMTOOL_DIAGONAL_CHUNKS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "diagonal_roll.h"
#include "gemm.h"

#define GROUP_ROWS 64 /* a group of sequences has at least so many chunks: the tables cost as much as some */

enum { CONTINUED, INITIAL, ZERO }; /* where the state before a chunk comes from */

typedef struct {
    int64_t at, sequence; /* place of the first step in system 0 */
    int32_t size, origin, last;
    int32_t plain; /* how many chunks from here on are full, each continuing the one before: at most ROWS */
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
            const int64_t row = length ? t / length * (systems - 1) * length : 0; /* of other systems before this one */
            do {
                const int64_t most = offsets[s + 1] - t < Q ? offsets[s + 1] : t + Q;
                int64_t stop = most;
                if (resets && t < most) {
                    if (resets[t]) origin = ZERO;
                    for (stop = t + 1; stop < most && !resets[stop];) stop++;
                }
                if (pass) p.chunks[number] = (Chunk){row + t, s, stop - t, origin, stop == offsets[s + 1], 0};
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
            for (int64_t i = number, run = 0; i--;) {
                run = p.chunks[i].size == Q ? (run < ROWS ? run + 1 : ROWS) : 0;
                p.chunks[i].plain = run;
                if (p.chunks[i].origin != CONTINUED) run = 0;
            }
        }
    }
    return p;
}

typedef struct {
    int64_t modes, panels, w;      /* w = Q panels reals for the modes and zeros behind them */
    double *power, *b, *c;         /* (Q + 1, w): lam^e; (w) */
    REAL *step, *rest;             /* (Q + 1, w): the same, rounded, and what rounding took away */
    REAL *in, *in_t, *out, *out_t; /* (panels, Q, Q): Win, Wout and their transposes */
    _Alignas(64) REAL t[BLOCK];
    _Alignas(64) REAL t_t[BLOCK];
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

/* y = states Wout + u T for ROWS rows. The first `rolled` panels of states still are what the chunks add to them: they
 * are rolled meanwhile, as a chain of few panels is all waiting, and the product with T does not need them. Modes that
 * do not exist are not multiplied. */
INLINE void respond(const Tables *s, const REAL *u, REAL *states, REAL *x, REAL *y, const int rolled) {
    const REAL *step = s->step + Q * s->w, *rest = s->rest + Q * s->w;
    Roll roll;
    roll_begin(&roll, step, rest, states, x, rolled);
    for (int first = 0; first < Q; first += TILE) {
        vec sum[ACCUMULATORS] = {0};
        for (int k = 0; k < Q; k++) {
            if (!first) roll_step(&roll, step, rest, states, k, rolled);
            if (!first) __builtin_prefetch(u + (2 * ROWS + k) * Q);
            gemm_step(sum, u + first * Q + k, Q, s->t + k * Q);
        }
        for (int64_t p = 0; p < s->panels; p++) {
            const int64_t live = s->modes - p * HALF < HALF ? s->modes - p * HALF : HALF;
            if (live == HALF) {
                for (int k = 0; k < Q; k++)
                    gemm_step(sum, states + p * BLOCK + first * Q + k, Q, s->out + p * BLOCK + k * Q);
                continue;
            }
            for (int part = 0; part < Q; part += HALF)
                for (int64_t k = part; k < part + live; k++)
                    gemm_step(sum, states + p * BLOCK + first * Q + k, Q, s->out + p * BLOCK + k * Q);
        }
        gemm_store(y + first * Q, sum);
    }
    roll_end(&roll, x, rolled);
}

/* Functions of their own: inlined, their pointers would not stay in registers. */
#define APART static __attribute__((noinline)) void
APART respond_rolling_one(const Tables *s, const REAL *u, REAL *states, REAL *x, REAL *y) {
    respond(s, u, states, x, y, 1);
}

APART respond_rolling_two(const Tables *s, const REAL *u, REAL *states, REAL *x, REAL *y) {
    respond(s, u, states, x, y, 2);
}

/* Whether `rows` chunks are ROWS full ones of which each continues the one before. */
INLINE int plain(const Chunk *chunks, int64_t rows) { return rows == ROWS && chunks->plain == ROWS; }

/* States before each chunk in place of what the chunks add to them, (panels, ROWS, Q); x (w) is carried. */
INLINE void carry(const Tables *s, const Chunk *chunks, int64_t rows, int whole, const REAL *x0, REAL *last,
                  int64_t stride, REAL *states, REAL *x) {
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

#endif
