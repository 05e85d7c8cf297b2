/* Singular values of small dense matrices in double precision, to high relative accuracy: Householder's QR with column
 * pivoting, and Jacobi's method by one-sided rotations.
 *
 * Matrices are stored by columns, `ld` apart, a multiple of 8; rows from n to ld are 0. Columns are vectors of LANES:
 * with AVX-512 one register each, elsewhere as many as it takes.
 *
 * Source: Drmac & Veselic, SIAM J. Matrix Anal. Appl. 29 (2008), 1322-1362. */

#ifndef SSMTOOL_JACOBI_H
#define SSMTOOL_JACOBI_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define MAX_PAIRS 64
#define SWEEPS 30 /* at most; it takes less than ten */

typedef double lanes __attribute__((vector_size(64)));
typedef int64_t places __attribute__((vector_size(64)));

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif

/* Lane i of the result is the sum of the lanes of x[i]. */
static inline lanes sums(const lanes x[8]) {
    lanes two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = PICK(x[2 * i], x[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
                 PICK(x[2 * i], x[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; i++)
        four[i] = PICK(two[2 * i], two[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                  PICK(two[2 * i], two[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return PICK(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) + PICK(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

static inline double sum(lanes x) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

/* v and a column, rows from block `first` on: subtract v (v . column); returns the square of what is left in the rows
 * that `rest` keeps of the first block and in all others. Four columns at once hide the latency. */
static inline void reflect(const lanes *v, lanes *const column[4], int64_t first, int64_t blocks, lanes rest,
                           double *left) {
    lanes dots[8] = {{0}}, squares[8] = {{0}};
    for (int64_t i = first; i < blocks; i++)
        for (int c = 0; c < 4; c++) dots[c] += v[i] * column[c][i];
    const lanes dot = sums(dots);
    for (int c = 0; c < 4; c++) column[c][first] -= dot[c] * v[first];
    for (int c = 0; c < 4; c++) squares[c] = rest * column[c][first] * column[c][first];
    for (int64_t i = first + 1; i < blocks; i++)
        for (int c = 0; c < 4; c++) {
            const lanes x = column[c][i] - dot[c] * v[i];
            column[c][i] = x;
            squares[c] += x * x;
        }
    const lanes square = sums(squares);
    for (int c = 0; c < 4; c++) left[c] = square[c];
}

/* R of the QR factorisation of a matrix with graded rows, in place: R[k, j] is in row k of the column order[j]. Next
 * comes the column whose norm times its size is largest. */
static void pivoted_qr(double *matrix, const double *size, int64_t n, int64_t ld, int64_t *order) {
    const int64_t blocks = ld / LANES;
    double left[n + 4];
    lanes v[blocks], spare[blocks];
    memset(spare, 0, sizeof spare);
    for (int64_t j = 0; j < n; j++) {
        const lanes *x = (const lanes *)(matrix + j * ld);
        lanes square = {0};
        for (int64_t i = 0; i < blocks; i++) square += x[i] * x[i];
        left[j] = sum(square);
        order[j] = j;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t best = k;
        double largest = -1;
        for (int64_t j = k; j < n; j++) {
            const double norm = sqrt(left[j]) * size[order[j]];
            if (norm > largest) {
                largest = norm;
                best = j;
            }
        }
        const int64_t chosen = order[best];
        const double norm = sqrt(left[best]);
        order[best] = order[k];
        left[best] = left[k];
        order[k] = chosen;
        if (norm == 0) continue;
        double *pivot = matrix + chosen * ld;
        const int64_t first = k / LANES;
        lanes rest;
        for (int i = 0; i < LANES; i++) rest[i] = first * LANES + i > k ? 1 : 0;
        memcpy(v, pivot, sizeof v);
        double *entries = (double *)v;
        memset(entries, 0, sizeof(double) * k);
        const double head = entries[k], signed_norm = head < 0 ? -norm : norm;
        entries[k] += signed_norm;
        const double scale = 1 / sqrt(norm * fabs(entries[k])); /* v . v = 2 */
        for (int64_t i = first; i < blocks; i++) v[i] *= scale;
        pivot[k] = -signed_norm;
        for (int64_t j = k + 1; j < n; j += 4) {
            lanes *column[4];
            for (int c = 0; c < 4; c++) column[c] = j + c < n ? (lanes *)(matrix + order[j + c] * ld) : spare;
            reflect(v, column, first, blocks, rest, left + j);
        }
    }
}

/* Columns in the order of a round: pair g is column[0][g] and column[1][g]. Columns are kept apart from their scales, so
 * that squares of small ones do not underflow. */
typedef struct {
    lanes *column[2][MAX_PAIRS];
    double scale[2][MAX_PAIRS] __attribute__((aligned(64)));
    double square[2][MAX_PAIRS] __attribute__((aligned(64)));
} Table;

/* Rotates those of 8 pairs whose cosine is above the tolerance. Returns the largest product of a cosine and a tangent
 * among them, 0 if there is none. */
static inline __attribute__((always_inline)) double rotate(Table *t, int64_t start, int64_t count, int64_t blocks,
                                                           double tolerance) {
    lanes dots[8] = {{0}};
    double gamma[8] __attribute__((aligned(64))), cosine[8], to_first[8], to_second[8], cost[8];
    for (int g = 0; g < 8; g++) {
        const lanes *x = t->column[0][start + g], *y = t->column[1][start + g];
        lanes dot = x[0] * y[0];
        for (int64_t i = 1; i < blocks; i++) dot += x[i] * y[i];
        dots[g] = dot;
    }
    *(lanes *)gamma = sums(dots);
    double *scale0 = t->scale[0] + start, *scale1 = t->scale[1] + start;
    double *square0 = t->square[0] + start, *square1 = t->square[1] + start;
    double worst = 0;
#pragma omp simd reduction(max : worst)
    for (int g = 0; g < 8; g++) {
        /* x the column with the larger scale, y the other; r their ratio. The rotated columns are
         * cosine (x + r t y) and cosine (y - u x), t = r u the tangent. */
        const int flip = scale1[g] > scale0[g];
        const double c = gamma[g], r = flip ? scale0[g] / scale1[g] : scale1[g] / scale0[g];
        const double xx = flip ? square1[g] : square0[g], yy = flip ? square0[g] : square1[g];
        const double gap = xx - r * r * yy, span = fabs(gap) + sqrt(gap * gap + 4 * r * r * c * c);
        const int turn = c * c > tolerance * tolerance * xx * yy;
        const double u = turn ? 2 * c / (gap < 0 ? -span : span) : 0, tangent = r * u;
        const double cs = 1 / sqrt(1 + tangent * tangent), f = cs * r * tangent, h = cs * u;
        cosine[g] = cs;
        to_first[g] = flip ? -h : f;
        to_second[g] = flip ? -f : h;
        cost[g] = fabs(c * u);
        worst = cost[g] > worst ? cost[g] : worst;
        const double grown = xx + tangent * r * c, shrunk = yy - u * c;
        square0[g] = flip ? shrunk : grown;
        square1[g] = flip ? grown : shrunk;
    }
    for (int64_t g = 0; g < count; g++) {
        if (cost[g] == 0) continue;
        lanes *a = t->column[0][start + g], *b = t->column[1][start + g];
        const double c = cosine[g], f = to_first[g], h = to_second[g];
        for (int64_t i = 0; i < blocks; i++) {
            const lanes x = a[i], y = b[i];
            a[i] = c * x + f * y;
            b[i] = c * y - h * x;
        }
    }
    return worst;
}

/* The next round: the first of the upper row stays, the others move by one place around the table. */
static void turn_table(Table *t, int64_t pairs) {
#define TURN(row)                                                                                                      \
    do {                                                                                                               \
        const __typeof__(row[0][0]) from = row[0][pairs - 1], to = row[1][0];                                          \
        memmove(&row[0][2], &row[0][1], sizeof(row[0][0]) * (pairs - 2));                                              \
        memmove(&row[1][0], &row[1][1], sizeof(row[0][0]) * (pairs - 1));                                              \
        row[0][1] = to;                                                                                                \
        row[1][pairs - 1] = from;                                                                                      \
    } while (0)
    TURN(t->column);
    TURN(t->scale);
    TURN(t->square);
#undef TURN
}

/* Columns to norm 1, their norms into the scales. */
static void normalise(Table *t, int64_t pairs, int64_t blocks) {
    for (int64_t j = 0; j < 2 * pairs; j++) {
        lanes *x = t->column[j & 1][j >> 1], total = {0};
        for (int64_t i = 0; i < blocks; i++) total += x[i] * x[i];
        const double norm = sqrt(sum(total));
        t->square[j & 1][j >> 1] = norm > 0 ? 1 : 0;
        if (norm == 0) continue;
        const double inverse = 1 / norm;
        for (int64_t i = 0; i < blocks; i++) x[i] *= inverse;
        t->scale[j & 1][j >> 1] *= norm;
    }
}

/* Singular values of matrix * diag(scale), unsorted, into scale; n is even, columns of 0 have a scale > 0. `t` is room to
 * work in. */
static void jacobi(double *matrix, double *scale, int64_t n, int64_t ld, Table *t) {
    const int64_t pairs = n / 2, blocks = ld / LANES, padded = (pairs + 7) / 8 * 8;
    const double tolerance = n * DBL_EPSILON;
    for (int64_t g = 0; g < padded; g++)
        for (int row = 0; row < 2; row++) {
            const int64_t j = g < pairs ? row ? n - 1 - g : g : 0;
            t->column[row][g] = (lanes *)(matrix + j * ld);
            t->scale[row][g] = g < pairs ? scale[j] : 1;
            t->square[row][g] = 1e100; /* what fills up the last eight is never rotated */
        }
    normalise(t, pairs, blocks);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double worst = 0;
        for (int64_t r = 0; r < n - 1; r++) {
            for (int64_t start = 0; start < pairs; start += 8) {
                const int64_t count = pairs - start < 8 ? pairs - start : 8;
                const double found = blocks == 8 ? rotate(t, start, count, 8, tolerance)
                                                 : rotate(t, start, count, blocks, tolerance);
                worst = found > worst ? found : worst;
            }
            if (pairs > 1) turn_table(t, pairs);
        }
        normalise(t, pairs, blocks);
        /* What a sweep leaves is a product of cosine and tangent of what it found. */
        if (n * worst <= tolerance) break;
    }
    for (int64_t j = 0; j < n; j++) scale[j] = t->square[j & 1][j >> 1] > 0 ? t->scale[j & 1][j >> 1] : 0;
}

#endif
