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

static inline double larger(double x, double y) {
    return x > y ? x : y;
}

static inline double sum(lanes x) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

/* Subtracts v (v . column) from eight columns, in the rows from block `first` on; `left` gets the squares of what is left
 * of them in the rows that `rest` keeps of that block and in all behind it. */
static inline __attribute__((always_inline)) void reflect(const lanes *v, lanes *const column[8], int64_t first,
                                                          int64_t blocks, lanes rest, double *left) {
    lanes dots[8], squares[8];
    for (int c = 0; c < 8; c++) dots[c] = v[first] * column[c][first];
    for (int64_t i = first + 1; i < blocks; i++)
        for (int c = 0; c < 8; c++) dots[c] += v[i] * column[c][i];
    const lanes dot = sums(dots);
    for (int c = 0; c < 8; c++) {
        lanes *x = column[c];
        const double times = dot[c];
        const lanes head = x[first] - times * v[first];
        x[first] = head;
        squares[c] = rest * head * head;
        for (int64_t i = first + 1; i < blocks; i++) {
            const lanes entry = x[i] - times * v[i];
            x[i] = entry;
            squares[c] += entry * entry;
        }
    }
    *(lanes *)left = sums(squares);
}

/* R of the QR factorisation of a matrix with graded rows, in place: R[k, j] is in row k of the column order[j]. Next
 * comes the column whose norm times its size is largest. */
static void pivoted_qr(double *matrix, const double *size, int64_t n, int64_t ld, int64_t *order) {
    const int64_t blocks = ld / LANES;
    double left[n + 8]; /* norm of what is left of a column, times its size; in the order of `order` */
    lanes v[blocks], spare[blocks];
    memset(spare, 0, sizeof spare);
    for (int64_t j = 0; j < n; j++) {
        const lanes *x = (const lanes *)(matrix + j * ld);
        lanes square = {0};
        for (int64_t i = 0; i < blocks; i++) square += x[i] * x[i];
        left[j] = sqrt(sum(square)) * size[j];
        order[j] = j;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t best = k;
        for (int64_t j = k + 1; j < n; j++) best = left[j] > left[best] ? j : best;
        const int64_t chosen = order[best];
        const double norm = size[chosen] > 0 ? left[best] / size[chosen] : 0;
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
        for (int64_t j = k + 1; j < n; j += 8) {
            lanes *column[8];
            for (int c = 0; c < 8; c++) column[c] = j + c < n ? (lanes *)(matrix + order[j + c] * ld) : spare;
            double norms[8] __attribute__((aligned(64)));
            if (blocks == 8)
                reflect(v, column, first, 8, rest, norms);
            else
                reflect(v, column, first, blocks, rest, norms);
            for (int c = 0; c < 8; c++) norms[c] = sqrt(norms[c]);
            for (int c = 0; c < 8; c++) left[j + c] = j + c < n ? norms[c] * size[order[j + c]] : 0;
        }
    }
}

#define GROUP 16 /* columns that are paired with each other, or with another such group, while they are in the cache */

/* Columns of up to GROUP pairs: column[0][g] goes with column[1][g]. They are kept apart from their scales, so that
 * squares of small ones do not underflow. */
typedef struct {
    lanes *column[2][GROUP];
    double scale[2][GROUP] __attribute__((aligned(64)));
    double square[2][GROUP] __attribute__((aligned(64)));
} Table;

/* The largest cosine that was rotated away, and the largest factor by which a column was added to another. */
typedef struct {
    double cosine, factor;
} Largest;

/* Rotates those of 8 pairs whose cosine is above the tolerance. */
static inline __attribute__((always_inline)) void rotate(Table *t, int64_t start, int64_t count, int64_t blocks,
                                                         double tolerance, Largest *found) {
    lanes dots[8] = {{0}};
    double gamma[8] __attribute__((aligned(64))), cosine[8], to_first[8], to_second[8], factor[8];
    for (int g = 0; g < 8; g++) {
        const lanes *x = t->column[0][start + g], *y = t->column[1][start + g];
        lanes dot = x[0] * y[0];
        for (int64_t i = 1; i < blocks; i++) dot += x[i] * y[i];
        dots[g] = dot;
    }
    *(lanes *)gamma = sums(dots);
    for (int64_t g = count; g < 8; g++) gamma[g] = 0; /* what is left there from other groups */
    double *scale0 = t->scale[0] + start, *scale1 = t->scale[1] + start;
    double *square0 = t->square[0] + start, *square1 = t->square[1] + start;
    double most = found->cosine, strongest = found->factor, any = 0;
#pragma omp simd reduction(max : any)
    for (int g = 0; g < 8; g++)
        any = larger(any, gamma[g] * gamma[g] > tolerance * tolerance * square0[g] * square1[g] ? 1 : 0);
    if (any == 0) return;
#pragma omp simd reduction(max : most, strongest)
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
        factor[g] = fabs(u);
        strongest = larger(strongest, fabs(u));
        most = larger(most, turn ? fabs(c) : 0);
        const double grown = xx + tangent * r * c, shrunk = yy - u * c;
        square0[g] = flip ? shrunk : grown;
        square1[g] = flip ? grown : shrunk;
    }
    for (int64_t g = 0; g < count; g++) {
        if (factor[g] == 0) continue;
        lanes *a = t->column[0][start + g], *b = t->column[1][start + g];
        const double c = cosine[g], f = to_first[g], h = to_second[g];
        for (int64_t i = 0; i < blocks; i++) {
            const lanes x = a[i], y = b[i];
            a[i] = c * x + f * y;
            b[i] = c * y - h * x;
        }
    }
    found->cosine = most;
    found->factor = strongest;
}

static inline void rotate_some(Table *t, int64_t start, int64_t count, int64_t blocks, double tolerance,
                               Largest *found) {
    if (blocks == 8)
        rotate(t, start, count, 8, tolerance, found);
    else if (blocks == 16)
        rotate(t, start, count, 16, tolerance, found);
    else
        rotate(t, start, count, blocks, tolerance, found);
}

/* Entry i of a row is moved to i - 1, the first one to the end: pairs of one group with another. */
static void shift(Table *t, int64_t size) {
#define SHIFT(row)                                                                                                     \
    do {                                                                                                               \
        const __typeof__(row[0]) first = row[0];                                                                       \
        memmove(&row[0], &row[1], sizeof(row[0]) * (size - 1));                                                       \
        row[size - 1] = first;                                                                                        \
    } while (0)
    SHIFT(t->column[1]);
    SHIFT(t->scale[1]);
    SHIFT(t->square[1]);
#undef SHIFT
}

/* The next round of pairs within a group: the first of the upper row stays, the others move by one place around. */
static void turn(Table *t, int64_t pairs) {
#define TURN(row)                                                                                                      \
    do {                                                                                                               \
        const __typeof__(row[0][0]) down = row[0][pairs - 1], up = row[1][0];                                          \
        for (int64_t g = pairs - 1; g > 1; g--) row[0][g] = row[0][g - 1];                                             \
        for (int64_t g = 0; g < pairs - 1; g++) row[1][g] = row[1][g + 1];                                             \
        row[0][1] = up;                                                                                                \
        row[1][pairs - 1] = down;                                                                                      \
    } while (0)
    if (pairs == 1) return;
    TURN(t->column);
    TURN(t->scale);
    TURN(t->square);
#undef TURN
}

/* Puts `count` columns from `first` on into a row of the table, from place `at` on, or their squares back. */
static void load_row(Table *t, int row, int64_t at, double *matrix, const double *scale, const double *square,
                     int64_t first, int64_t count, int64_t ld) {
    for (int64_t g = 0; g < count; g++) {
        t->column[row][at + g] = (lanes *)(matrix + (first + g) * ld);
        t->scale[row][at + g] = scale[first + g];
        t->square[row][at + g] = square[first + g];
    }
}

static void store_squares(const Table *t, int row, const double *matrix, double *square, int64_t count, int64_t ld) {
    for (int64_t g = 0; g < count; g++) square[((const double *)t->column[row][g] - matrix) / ld] = t->square[row][g];
}

/* Columns to norm 1, their norms into the scales. */
static void normalise(double *matrix, double *scale, double *square, int64_t n, int64_t ld) {
    const int64_t blocks = ld / LANES;
    for (int64_t j = 0; j < n; j++) {
        lanes *x = (lanes *)(matrix + j * ld), total = {0};
        for (int64_t i = 0; i < blocks; i++) total += x[i] * x[i];
        const double norm = sqrt(sum(total));
        square[j] = norm > 0 ? 1 : 0;
        if (norm == 0) continue;
        const double inverse = 1 / norm;
        for (int64_t i = 0; i < blocks; i++) x[i] *= inverse;
        scale[j] *= norm;
    }
}

/* Two groups fit into the first-level cache. */
static inline int64_t group_size(int64_t n, int64_t ld) {
    const int64_t size = ld <= 64 ? GROUP : GROUP / 2;
    return n <= size ? n + n % 2 : size;
}

/* How many columns the caller provides for n of them; those behind n are 0, with scales > 0. */
static inline int64_t columns_for(int64_t n, int64_t ld) {
    const int64_t size = group_size(n, ld);
    return (n + size - 1) / size * size;
}

/* Whether columns of these norms are orthogonal enough, the cosines of their angles being at most `cosine`: it is below
 * n eps, or its square over the least relative gap of two squared norms, which is what it can still change them by, is
 * below eps. */
static int done(double cosine, const double *norm, int64_t n) {
    double sorted[n], gap = 1;
    if (cosine <= n * DBL_EPSILON) return 1;
    if (cosine > 1e-7) return 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t at = k;
        for (; at > 0 && sorted[at - 1] < norm[k]; at--) sorted[at] = sorted[at - 1];
        sorted[at] = norm[k];
    }
    for (int64_t k = 1; k < n; k++) {
        const double ratio = sorted[k] / sorted[k - 1], apart = (1 - ratio) * (1 + ratio);
        gap = apart < gap ? apart : gap;
    }
    return n * cosine * cosine <= DBL_EPSILON * gap && n * cosine <= 0.1 * gap;
}

/* Singular values of matrix * diag(scale), in no order, into scale. The matrix has columns_for(n, ld) columns. */
static void jacobi(double *matrix, double *scale, int64_t n, int64_t ld) {
    const int64_t blocks = ld / LANES, columns = columns_for(n, ld), size = group_size(n, ld);
    const double tolerance = n * DBL_EPSILON;
    double square[columns];
    Table table;
    for (int64_t g = 0; g < 2 * GROUP; g++) { /* what fills up eight pairs is never rotated */
        table.column[g / GROUP][g % GROUP] = (lanes *)matrix;
        table.scale[g / GROUP][g % GROUP] = 1;
        table.square[g / GROUP][g % GROUP] = 1e100;
    }
    normalise(matrix, scale, square, columns, ld);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        Largest found = {0, 0};
        for (int64_t first = 0; first < columns; first += size) {
            load_row(&table, 0, 0, matrix, scale, square, first, size / 2, ld);
            load_row(&table, 1, 0, matrix, scale, square, first + size / 2, size / 2, ld);
            for (int64_t round = 0; round < size - 1; round++) {
                rotate_some(&table, 0, size / 2, blocks, tolerance, &found);
                turn(&table, size / 2);
            }
            store_squares(&table, 0, matrix, square, size / 2, ld);
            store_squares(&table, 1, matrix, square, size / 2, ld);
            load_row(&table, 0, 0, matrix, scale, square, first, size, ld);
            for (int64_t second = first + size; second < columns; second += size) {
                load_row(&table, 1, 0, matrix, scale, square, second, size, ld);
                for (int64_t round = 0; round < size; round++) {
                    for (int64_t half = 0; half < size; half += 8)
                        rotate_some(&table, half, 8, blocks, tolerance, &found);
                    shift(&table, size);
                }
                store_squares(&table, 1, matrix, square, size, ld);
            }
            store_squares(&table, 0, matrix, square, size, ld);
        }
        normalise(matrix, scale, square, columns, ld);
        /* Cosines that a sweep leaves behind are sums of products of what it found. */
        if (done(n * found.cosine * found.factor, scale, n)) break;
    }
    for (int64_t j = 0; j < n; j++) scale[j] = square[j] > 0 ? scale[j] : 0;
}

#endif
