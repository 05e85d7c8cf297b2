/* Scans over trees and replays of accepted paths, in contiguous arrays; see ssd.py, selective.py and diagonal.py.
 *
 * Nodes are walked in depth-first order with one state per level: when a node's turn comes, the state one level up is
 * its parent's. The arithmetic of a node is that of one decoding step (ssd_node.h, selective_node.h), so that both have
 * the same bits. Units of work are independent: results do not depend on the number of threads.
 * scratch: as many reals per thread as the function says. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "selective_node.h"
#include "ssd_node.h"
#include "transpose.h"
#include "vexp.h"

#define LANES 16 /* partial sums of an output: of one vector register of floats, two of doubles */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The path to node, its last node first; returns its length. */
static int64_t climb(const int64_t *parents, int64_t node, int64_t *path) {
    int64_t length = 0;
    for (; node >= 0; node = parents[node]) path[length++] = node;
    return length;
}

/* x, y: (batch, T, H, P); dt: (batch, T, H); A: (H); B, C: (batch, T, G, N); D: (H, P) or null; h0: (batch, H, P, N);
 * order, depths: (T). scratch: (levels + 1) N SSD_ROWS per thread. */
void ssd(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D, const REAL *h0,
         const int64_t *order, const int64_t *depths, REAL *y, REAL *scratch, int64_t batch, int64_t T, int64_t H,
         int64_t P, int64_t G, int64_t N, int64_t levels, int64_t threads) {
    const int64_t blocks = (P + SSD_ROWS - 1) / SSD_ROWS, level = N * SSD_ROWS;
#pragma omp parallel for collapse(3) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t k = 0; k < blocks; k++) {
                REAL *stack = scratch + omp_get_thread_num() * (levels + 1) * level;
                const int64_t first = k * SSD_ROWS, rows = least(SSD_ROWS, P - first);
                const REAL *start = h0 + ((b * H + h) * P + first) * N;
                REAL drive[SSD_ROWS] = {0}, out[SSD_ROWS];
                if (rows < SSD_ROWS) memset(stack, 0, sizeof(REAL) * level);
                transpose(start, rows, N, stack, SSD_ROWS);
                for (int64_t turn = 0; turn < T; turn++) {
                    const int64_t at = b * T + order[turn], depth = depths[order[turn]];
                    const REAL step = dt[at * H + h], decay = ssd_decay(step, A[h]);
                    const int64_t group = (at * G + h / (H / G)) * N, to = (at * H + h) * P + first;
                    const REAL *before = stack + depth * level;
                    for (int64_t p = 0; p < rows; p++) drive[p] = step * x[to + p];
                    if (turn + 1 < T && depths[order[turn + 1]] > depth)
                        ssd_node(before, stack + (depth + 1) * level, decay, drive, B + group, C + group, out, N, 1);
                    else
                        ssd_node(before, stack, decay, drive, B + group, C + group, out, N, 0);
                    for (int64_t p = 0; p < rows; p++)
                        y[to + p] = D ? VFMA(D[h * P + first + p], x[to + p], out[p]) : out[p];
                }
            }
}

/* parents: (T); node: (batch), -1 for none; h: (batch, H, P, N). Per thread paths: levels + 1, decays: levels + 1. */
void replay_ssd(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *h0, const int64_t *parents,
                const int64_t *node, REAL *h, int64_t *paths, REAL *decays, int64_t batch, int64_t T, int64_t H,
                int64_t P, int64_t G, int64_t N, int64_t levels, int64_t threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t j = 0; j < H; j++) {
            int64_t *path = paths + omp_get_thread_num() * (levels + 1);
            REAL *decay = decays + omp_get_thread_num() * (levels + 1);
            const int64_t length = climb(parents, node[b], path);
            for (int64_t i = 0; i < length; i++) decay[i] = ssd_decay(dt[(b * T + path[i]) * H + j], A[j]);
            for (int64_t p = 0; p < P; p++) { /* the whole path for one row: the state is read and written once */
                REAL *state = h + ((b * H + j) * P + p) * N;
                memcpy(state, h0 + ((b * H + j) * P + p) * N, sizeof(REAL) * N);
                for (int64_t i = length - 1; i >= 0; i--) {
                    const int64_t at = b * T + path[i];
                    const REAL drive = dt[at * H + j] * x[(at * H + j) * P + p];
                    ssd_advance(state, decay[i], drive, B + (at * G + j / (H / G)) * N, N);
                }
            }
        }
}

/* A block of channels of one group: its first channel, how many, the group. */
typedef struct {
    int64_t first, size, group;
} Block;

static Block block(int64_t k, int64_t E, int64_t G) {
    const int64_t width = E / G, blocks = (width + SELECTIVE_WIDTH - 1) / SELECTIVE_WIDTH;
    const int64_t offset = k % blocks * SELECTIVE_WIDTH;
    return (Block){k / blocks * width + offset, least(SELECTIVE_WIDTH, width - offset), k / blocks};
}

/* (size, N) rows as (N, SELECTIVE_WIDTH), zeros behind. */
static void turned(const REAL *from, int64_t size, int64_t N, REAL *to) {
    if (size < SELECTIVE_WIDTH) memset(to, 0, sizeof(REAL) * SELECTIVE_WIDTH * N);
    transpose(from, size, N, to, SELECTIVE_WIDTH);
}

/* A times SELECTIVE_LOG2E, turned. */
static void exponents(const REAL *A, int64_t size, int64_t N, REAL *to) {
    turned(A, size, N, to);
    for (int64_t i = 0; i < SELECTIVE_WIDTH * N; i++) to[i] *= SELECTIVE_LOG2E;
}

/* x, dt, y: (batch, T, E); A: (E, N); B, C: (batch, T, G, N); D: (E) or null; h0: (batch, E, N); order, depths: (T).
 * scratch: (levels + 2) N SELECTIVE_WIDTH per thread. */
void selective(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *C, const REAL *D,
               const REAL *h0, const int64_t *order, const int64_t *depths, REAL *y, REAL *scratch, int64_t batch,
               int64_t T, int64_t E, int64_t G, int64_t N, int64_t levels, int64_t threads) {
    const int64_t blocks = G * ((E / G + SELECTIVE_WIDTH - 1) / SELECTIVE_WIDTH), level = N * SELECTIVE_WIDTH;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t k = 0; k < blocks; k++) {
            const Block of = block(k, E, G);
            REAL *A2 = scratch + omp_get_thread_num() * (levels + 2) * level, *stack = A2 + level;
            REAL steps[SELECTIVE_WIDTH] = {0}, drive[SELECTIVE_WIDTH] = {0}, out[SELECTIVE_WIDTH];
            exponents(A + of.first * N, of.size, N, A2);
            turned(h0 + (b * E + of.first) * N, of.size, N, stack);
            for (int64_t turn = 0; turn < T; turn++) {
                const int64_t at = b * T + order[turn], depth = depths[order[turn]], to = at * E + of.first;
                const REAL *rows = B + (at * G + of.group) * N, *readout = C + (at * G + of.group) * N;
                const REAL *before = stack + depth * level;
                for (int64_t i = 0; i < of.size; i++) {
                    steps[i] = dt[to + i];
                    drive[i] = steps[i] * x[to + i];
                }
                if (turn + 1 < T && depths[order[turn + 1]] > depth)
                    selective_node(before, stack + (depth + 1) * level, A2, steps, drive, rows, readout, out, N, 1);
                else
                    selective_node(before, stack, A2, steps, drive, rows, readout, out, N, 0);
                for (int64_t i = 0; i < of.size; i++) y[to + i] = D ? VFMA(D[of.first + i], x[to + i], out[i]) : out[i];
            }
        }
}

/* parents: (T); node: (batch), -1 for none; h: (batch, E, N). Per thread paths: levels + 1, scratch:
 * 2 N SELECTIVE_WIDTH. */
void replay_selective(const REAL *x, const REAL *dt, const REAL *A, const REAL *B, const REAL *h0,
                      const int64_t *parents, const int64_t *node, REAL *h, int64_t *paths, REAL *scratch,
                      int64_t batch, int64_t T, int64_t E, int64_t G, int64_t N, int64_t levels, int64_t threads) {
    const int64_t blocks = G * ((E / G + SELECTIVE_WIDTH - 1) / SELECTIVE_WIDTH), level = N * SELECTIVE_WIDTH;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t k = 0; k < blocks; k++) {
            const Block of = block(k, E, G);
            int64_t *path = paths + omp_get_thread_num() * (levels + 1);
            REAL *A2 = scratch + omp_get_thread_num() * 2 * level, *state = A2 + level;
            REAL steps[SELECTIVE_WIDTH] = {0}, drive[SELECTIVE_WIDTH] = {0}, out[SELECTIVE_WIDTH];
            exponents(A + of.first * N, of.size, N, A2);
            turned(h0 + (b * E + of.first) * N, of.size, N, state);
            for (int64_t i = climb(parents, node[b], path) - 1; i >= 0; i--) {
                const int64_t at = b * T + path[i], from = at * E + of.first;
                const REAL *rows = B + (at * G + of.group) * N;
                for (int64_t l = 0; l < of.size; l++) {
                    steps[l] = dt[from + l];
                    drive[l] = steps[l] * x[from + l];
                }
                selective_node(state, state, A2, steps, drive, rows, rows, out, N, 1);
            }
            for (int64_t l = 0; l < of.size; l++)
                for (int64_t n = 0; n < N; n++) h[(b * E + of.first + l) * N + n] = state[n * SELECTIVE_WIDTH + l];
        }
}

/* re and im are planes: (n) each. after = lam before + sum_q B[:, q] u[q]. */
static inline void diagonal_advance(const REAL *lam_re, const REAL *lam_im, const REAL *B_re, const REAL *B_im,
                                    const REAL *u, const REAL *re, const REAL *im, REAL *after_re, REAL *after_im,
                                    int64_t m, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        const REAL a = re[k], b = im[k];
        after_re[k] = VFMA(lam_re[k], a, -(lam_im[k] * b));
        after_im[k] = VFMA(lam_re[k], b, lam_im[k] * a);
    }
    for (int64_t q = 0; q < m; q++)
        for (int64_t k = 0; k < n; k++) {
            after_re[k] = VFMA(B_re[q * n + k], u[q], after_re[k]);
            after_im[k] = VFMA(B_im[q * n + k], u[q], after_im[k]);
        }
}

/* Re(C x) of one output. */
static inline REAL diagonal_output(const REAL *C_re, const REAL *C_im, const REAL *re, const REAL *im, int64_t n) {
    REAL lanes[LANES] = {0};
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++) {
            lanes[l] = VFMA(C_re[k + l], re[k + l], lanes[l]);
            lanes[l] = VFMA(-C_im[k + l], im[k + l], lanes[l]);
        }
    for (int l = 0; k + l < n; l++) {
        lanes[l] = VFMA(C_re[k + l], re[k + l], lanes[l]);
        lanes[l] = VFMA(-C_im[k + l], im[k + l], lanes[l]);
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

/* Planes of real and imaginary parts: lam (2, S, n); B (2, S, m, n); C (2, S, p, n); x0 (2, batch, S, n). D: (S, p, m)
 * or null; u: (batch, S, T, m); y: (batch, S, T, p); order, depths: (T). scratch: 2 levels n. */
void diagonal(const REAL *lam, const REAL *B, const REAL *C, const REAL *D, const REAL *u, const REAL *x0,
              const int64_t *order, const int64_t *depths, REAL *y, REAL *scratch, int64_t batch, int64_t S, int64_t T,
              int64_t n, int64_t m, int64_t p, int64_t levels, int64_t threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t s = 0; s < S; s++) {
            REAL *stack = scratch + omp_get_thread_num() * 2 * levels * n;
            const REAL *start = x0 + (b * S + s) * n, *start_im = start + batch * S * n;
            const REAL *C_re = C + s * p * n, *C_im = C_re + S * p * n;
            for (int64_t turn = 0; turn < T; turn++) {
                const int64_t at = (b * S + s) * T + order[turn], depth = depths[order[turn]];
                const REAL *re = depth ? stack + (depth - 1) * 2 * n : start, *im = depth ? re + n : start_im;
                REAL *here = stack + depth * 2 * n;
                diagonal_advance(lam + s * n, lam + (S + s) * n, B + s * m * n, B + (S + s) * m * n, u + at * m, re, im,
                                 here, here + n, m, n);
                for (int64_t o = 0; o < p; o++) {
                    REAL sum = diagonal_output(C_re + o * n, C_im + o * n, here, here + n, n);
                    for (int64_t q = 0; D && q < m; q++) sum = VFMA(D[(s * p + o) * m + q], u[at * m + q], sum);
                    y[at * p + o] = sum;
                }
            }
        }
}

/* As above; parents: (T); node: (batch), -1 for none; x: planes (2, batch, S, n). scratch: levels + 1 per thread. */
void replay_diagonal(const REAL *lam, const REAL *B, const REAL *u, const REAL *x0, const int64_t *parents,
                     const int64_t *node, REAL *x, int64_t *scratch, int64_t batch, int64_t S, int64_t T, int64_t n,
                     int64_t m, int64_t levels, int64_t threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t s = 0; s < S; s++) {
            int64_t *path = scratch + omp_get_thread_num() * (levels + 1);
            const int64_t length = climb(parents, node[b], path), offset = (b * S + s) * n, plane = batch * S * n;
            REAL *re = x + offset, *im = re + plane;
            memcpy(re, x0 + offset, sizeof(REAL) * n);
            memcpy(im, x0 + offset + plane, sizeof(REAL) * n);
            for (int64_t i = length - 1; i >= 0; i--)
                diagonal_advance(lam + s * n, lam + (S + s) * n, B + s * m * n, B + (S + s) * m * n,
                                 u + ((b * S + s) * T + path[i]) * m, re, im, re, im, m, n);
        }
}
