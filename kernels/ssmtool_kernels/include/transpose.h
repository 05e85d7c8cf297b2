/* Transposes of matrices, 8 x 8 numbers at a time in vector registers where the compiler has the shuffles for it. */

#ifndef SSMTOOL_TRANSPOSE_H
#define SSMTOOL_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif

#ifdef SHUFFLES
typedef REAL Eight __attribute__((vector_size(8 * sizeof(REAL))));

/* Rows of 8 at `apart` become columns: first pairs of rows swap 1 x 1 blocks, then 2 x 2, then 4 x 4. */
static inline void transpose_eight(const REAL *from, int64_t apart, REAL *to, int64_t apart_to) {
    Eight r[8], s[8];
    for (int i = 0; i < 8; i++) memcpy(&r[i], from + i * apart, sizeof(Eight));
    for (int i = 0; i < 8; i += 2) {
        s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) {
        r[i] = __builtin_shufflevector(s[i], s[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 2] = __builtin_shufflevector(s[i], s[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) memcpy(to + i * apart_to, &s[i], sizeof(Eight));
}
#endif

/* to[j * apart_to + i] = from[i * columns + j] for i < rows, j < columns. */
static inline void transpose(const REAL *from, int64_t rows, int64_t columns, REAL *to, int64_t apart_to) {
    int64_t i = 0;
#ifdef SHUFFLES
    for (; i + 8 <= rows; i += 8) {
        int64_t j = 0;
        for (; j + 8 <= columns; j += 8)
            transpose_eight(from + i * columns + j, columns, to + j * apart_to + i, apart_to);
        for (; j < columns; j++)
            for (int l = 0; l < 8; l++) to[j * apart_to + i + l] = from[(i + l) * columns + j];
    }
#endif
    for (; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * apart_to + i] = from[i * columns + j];
}

#endif
