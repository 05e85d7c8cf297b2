/* States of diagonal systems from chunk to chunk. Equations are in diagonal_scan/native.c. */

#ifndef SSMTOOL_DIAGONAL_ROLL_H
#define SSMTOOL_DIAGONAL_ROLL_H

#include "gemm.h"

#define ROWS 16 /* chunks at a time */

/* A row of a panel: real parts of Q / 2 modes, then their imaginary parts. */
#define HALF (Q / 2)
typedef REAL half_row __attribute__((vector_size(HALF * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* x becomes lam^e x + v, lam^e as step + rest: what rounding takes from a slow mode's power is lost again in every
 * chunk, and would be the largest error. */
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

/* Full chunks roll on with the state of a few panels in registers: in half rows, or in whole ones where a register
 * holds a row, which halves the operations for a swap of the halves. */
#if defined(__AVX512F__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define WHOLE_ROWS (LANES == Q)
#define HALVES(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#endif
#endif
#ifndef WHOLE_ROWS
#define WHOLE_ROWS 0
#define HALVES(x, ...) (x)
#endif
#define FIRST 0, 1, 2, 3, 4, 5, 6, 7
#define SECOND 8, 9, 10, 11, 12, 13, 14, 15
#define ROLLED 4 /* panels that fit */
typedef REAL whole_row __attribute__((vector_size(Q * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* In whole rows x' = lam^Q x + v, where v has what rounding took from the power: rest x = rest (lam^Q x- + v-), with x-
 * and v- of the chunk before, less rest v-, which is below rounding and not repeated. So the next chunk waits for two
 * multiply-adds. */
typedef struct {
    half_row re[ROLLED], im[ROLLED];
    whole_row x[ROLLED], v[ROLLED];
    whole_row a[ROLLED], b[ROLLED], c[ROLLED], d[ROLLED]; /* lam^Q and lam^Q rest, for x and for x swapped */
} Roll;

INLINE void roll_begin(Roll *s, const REAL *step, const REAL *rest, const REAL *states, const REAL *x,
                       const int count) {
    const whole_row sign = {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int p = 0; p < count; p++) {
        if (WHOLE_ROWS) {
            const whole_row power = *(const whole_row *)(step + p * Q), lost = *(const whole_row *)(rest + p * Q);
            s->a[p] = HALVES(power, FIRST, FIRST);
            s->b[p] = sign * HALVES(power, SECOND, SECOND);
            const whole_row c = HALVES(lost, FIRST, FIRST), d = sign * HALVES(lost, SECOND, SECOND);
            s->c[p] = s->a[p] * c - s->b[p] * d;
            s->d[p] = s->a[p] * d + s->b[p] * c;
            s->x[p] = *(const whole_row *)(x + p * Q);
            s->v[p] = *(const whole_row *)(states + p * BLOCK) + c * s->x[p] + d * HALVES(s->x[p], SECOND, FIRST);
        } else {
            s->re[p] = *(const half_row *)(x + p * Q);
            s->im[p] = *(const half_row *)(x + p * Q + HALF);
        }
    }
}

/* The state before chunk r replaces what it adds. Reads a row further, in vain behind the last chunk. */
INLINE void roll_step(Roll *s, const REAL *step, const REAL *rest, REAL *states, const int r, const int count) {
    for (int p = 0; p < count; p++) {
        REAL *row = states + p * BLOCK + r * Q;
        if (WHOLE_ROWS) {
            const whole_row x = s->x[p], y = HALVES(x, SECOND, FIRST);
            *(whole_row *)row = x;
            s->x[p] = s->a[p] * x + s->v[p] + s->b[p] * y;
            s->v[p] = *(whole_row *)(row + Q) + s->c[p] * x + s->d[p] * y;
        } else {
            const half_row v = *(half_row *)row, w = *(half_row *)(row + HALF);
            *(half_row *)row = s->re[p];
            *(half_row *)(row + HALF) = s->im[p];
            advance(step + p * Q, rest + p * Q, s->re + p, s->im + p, v, w);
        }
    }
}

INLINE void roll_end(const Roll *s, REAL *x, const int count) {
    for (int p = 0; p < count; p++) {
        if (WHOLE_ROWS) {
            *(whole_row *)(x + p * Q) = s->x[p];
        } else {
            *(half_row *)(x + p * Q) = s->re[p];
            *(half_row *)(x + p * Q + HALF) = s->im[p];
        }
    }
}

/* `count` panels over ROWS full chunks, each continuing the one before. */
INLINE void roll(const REAL *step, const REAL *rest, REAL *states, REAL *x, const int count) {
    Roll s;
    roll_begin(&s, step, rest, states, x, count);
    for (int r = 0; r < ROWS; r++) roll_step(&s, step, rest, states, r, count);
    roll_end(&s, x, count);
}

#endif
