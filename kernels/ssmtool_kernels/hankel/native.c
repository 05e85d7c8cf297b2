/* Hankel singular values of single-input single-output systems: Kautz factor of the Gramian in the order of its pivots,
 * the product M = L^T J L, QR with column pivoting, Jacobi's method. Letters as in docs/numerics.md.
 *
 * One unit of work is a system; units are independent, so that results do not depend on the number of threads. */

#include <stdint.h>
#include <stdlib.h>

#include "circle.h"
#include "jacobi.h"

#define MAX_SLOTS 64
#define MAX_ORDER (2 * MAX_SLOTS)

typedef double slots[MAX_SLOTS] __attribute__((aligned(64)));

/* What is known of every pole, in the order of the pivots so far. */
typedef struct {
    slots x, em, modulus, half, cosine, sine, sine2, cosine2; /* lambda = modulus exp(2 i half), squares of half angles */
    slots re, im;                                             /* lambda */
    slots gre, gim;                                           /* b times the Blaschke factors so far */
    slots weight, sign, alone;                                /* 1 - |lambda|^2; +-1; 1 for a real pole */
} Poles;

typedef struct {
    Poles poles;
    double X[MAX_ORDER][2 * MAX_SLOTS] __attribute__((aligned(64))); /* columns of L divided by their sizes: real parts,
                                                                        then imaginary */
    double M[MAX_ORDER * MAX_ORDER] __attribute__((aligned(64)));
    double T[MAX_ORDER * MAX_ORDER] __attribute__((aligned(64)));
    double size[MAX_ORDER];   /* largest entry of every column of L */
    int64_t first[MAX_ORDER]; /* row where it begins */
    int64_t best[MAX_SLOTS];  /* what pole k changed places with */
} Work;

/* Returns the largest coefficient, by which all others are divided. */
static double read_poles(Poles *p, const double *a, const double *root, const uint8_t *negative, const uint8_t *real,
                       int64_t n, int64_t padded) {
    double largest = 0;
    for (int64_t i = 0; i < 2 * n; i++) largest = fabs(root[i]) > largest ? fabs(root[i]) : largest;
    for (int64_t i = 0; i < padded; i++) {
        const int inside = i < n;
        p->x[i] = inside ? a[2 * i] : -1;
        p->half[i] = inside ? a[2 * i + 1] / 2 : 0;
        /* Relative to the largest, so that squares do not underflow before the products do. */
        p->gre[i] = inside && largest > 0 ? root[2 * i] / largest : 0;
        p->gim[i] = inside && largest > 0 ? root[2 * i + 1] / largest : 0;
        p->sign[i] = inside && negative[i] ? -1 : 1;
        p->alone[i] = inside && !real[i] ? 0 : 1;
    }
    for (int64_t i = 0; i < padded; i++) {
        double s, c;
        sine_cosine(p->half[i], &s, &c);
        p->sine2[i] = s * s;
        p->cosine2[i] = c * c;
        sine_cosine(2 * p->half[i], &p->sine[i], &p->cosine[i]);
        p->em[i] = expm1(p->x[i]);
        p->modulus[i] = exp(p->x[i]);
        p->re[i] = p->modulus[i] * p->cosine[i];
        p->im[i] = p->modulus[i] * p->sine[i];
        p->weight[i] = -p->em[i] * (2 + p->em[i]);
    }
    return largest;
}

static void swap_poles(Poles *p, int64_t i, int64_t j) {
    slots *const field = (slots *)p;
    for (size_t f = 0; f < sizeof(Poles) / sizeof(slots); f++) {
        const double kept = field[f][i];
        field[f][i] = field[f][j];
        field[f][j] = kept;
    }
}

/* Columns of pole k, from row k on, into u1 and u2 (real parts, imaginary parts `padded` behind), g times its Blaschke
 * factor. Differences of poles n and 1 - products d as in ssmtool/lti/kautz.py, from half angles and moduli:
 * n = p cos y + i q sin y, d = e cos y + i f sin y. */
static void eliminate(Poles *restrict p, int64_t k, int64_t padded, double *restrict u1, double *restrict u2) {
    const double x = p->x[k], em = p->em[k], modulus = p->modulus[k], half = p->half[k], cosine = p->cosine[k];
    const double square = modulus * modulus, single = p->alone[k];
    const double minus = (em * em + 4 * modulus * p->sine2[k]) / (1 + square);  /* 1 - beta */
    const double plus = (em * em + 4 * modulus * p->cosine2[k]) / (1 + square); /* 1 + beta */
    const int right = cosine >= 0;
    const double step = right ? minus : -plus, flip = right ? -1 : 1;
    const double gain = sqrt(p->weight[k] * (1 + square)), gain2 = gain * sqrt(minus * plus);
    const double lone = -sqrt(p->weight[k]);
#pragma omp simd
    for (int64_t i = k & ~(int64_t)(LANES - 1); i < padded; i++) {
        const double gap = p->x[i] - x, below = expm1_below(gap > 0 ? -gap : gap);
        const double top = p->modulus[i] > modulus ? p->modulus[i] : modulus;
        const double np = gap > 0 ? -top * below : top * below, nq = top * (2 + below);
        const double e = p->em[i] + em * (1 + p->em[i]), f = 2 + e;
        double s, c;
        sine_cosine(p->half[i] - half, &s, &c);
        const double ur = c, ui = -s; /* turns the column of a real pole */
        const double n1r = np * c, n1i = nq * s, d1r = e * c, d1i = f * s;
        sine_cosine(p->half[i] + half, &s, &c);
        const double n2r = single ? 1 : np * c, n2i = single ? 0 : nq * s;
        const double d2r = single ? 1 : e * c, d2i = single ? 0 : f * s;
        const double nr = n1r * n2r - n1i * n2i, ni = n1r * n2i + n1i * n2r;
        const double dr = d1r * d2r - d1i * d2i, di = d1r * d2i + d1i * d2r;
        const double scale = 1 / (dr * dr + di * di), vr = dr * scale, vi = -di * scale; /* 1 / d */
        const double gr = p->gre[i], gi = p->gim[i];
        /* g / d, turned by the angle of the pole that the half angles left out. */
        const double tr = single ? ur : p->cosine[i], ti = single ? ui : -p->sine[i];
        const double wr = gr * vr - gi * vi, wi = gr * vi + gi * vr;
        const double hr = wr * tr - wi * ti, hi = wr * ti + wi * tr;
        const double away = right ? 2 * p->sine2[i] - p->em[i] * p->cosine[i]
                                  : 2 * p->modulus[i] * p->cosine2[i] - p->em[i];
        const double swing = flip * p->im[i];
        const double fr = away + step * p->re[i], fi = swing + step * p->im[i];
        u1[i] = single ? lone * hr : gain * (hr * fr - hi * fi);
        u1[padded + i] = single ? lone * hi : gain * (hr * fi + hi * fr);
        u2[i] = gain2 * (hr * p->re[i] - hi * p->im[i]);
        u2[padded + i] = gain2 * (hr * p->im[i] + hi * p->re[i]);
        p->gre[i] = wr * nr - wi * ni;
        p->gim[i] = wr * ni + wi * nr;
    }
}

/* Divides a column by its largest entry and keeps that. The rows above k are 0, and the imaginary part of real poles.
 * Returns 1 if anything is left, else 0. */
static int64_t keep_column(Work *w, int64_t column, int64_t k, int64_t padded) {
    double *restrict x = w->X[column], largest = 0;
    const double *alone = w->poles.alone;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < padded; i++) {
        const double re = i >= k ? x[i] : 0, im = i >= k && alone[i] == 0 ? x[padded + i] : 0;
        const double entry = fabs(re) > fabs(im) ? fabs(re) : fabs(im);
        x[i] = re;
        x[padded + i] = im;
        largest = entry > largest ? entry : largest;
    }
    if (!(largest > 0)) return 0;
    w->size[column] = largest;
    w->first[column] = k;
    for (int64_t i = 0; i < 2 * padded; i++) x[i] /= largest;
    return 1;
}

/* Columns of the factor in the order of their pivots, rows likewise; returns how many. */
static int64_t factorise(Work *w, int64_t n, int64_t padded) {
    Poles *p = &w->poles;
    int64_t columns = 0, pivots = 0;
    for (int64_t k = 0; k < n; k++) {
        slots left;
        for (int64_t i = 0; i < padded; i++)
            left[i] = (p->gre[i] * p->gre[i] + p->gim[i] * p->gim[i]) / p->weight[i];
        int64_t best = k;
        for (int64_t i = k + 1; i < n; i++) best = left[i] > left[best] ? i : best;
        if (!(left[best] > 0)) break;
        swap_poles(p, k, best);
        w->best[k] = best;
        pivots = k + 1;
        eliminate(p, k, padded, w->X[columns], w->X[columns + 1]);
        const int64_t wanted = p->alone[k] ? 1 : 2;
        for (int64_t c = 0; c < wanted; c++) columns += keep_column(w, columns, k, padded);
    }
    for (int64_t c = 0; c < columns; c++) {
        double *x = w->X[c];
        for (int64_t k = w->first[c] + 1; k < pivots; k++) {
            const int64_t j = w->best[k];
            const double re = x[k], im = x[padded + k];
            x[k] = x[j];
            x[padded + k] = x[padded + j];
            x[j] = re;
            x[padded + j] = im;
        }
    }
    return columns;
}

/* M_ij = size_i (X^T J X)_ij, columns ld apart: the columns of L^T J L divided by their sizes. */
static void product(Work *w, int64_t n, int64_t ld, int64_t padded) {
    const int64_t blocks = padded / LANES;
    memset(w->M, 0, sizeof(double) * n * ld);
    for (int64_t b = 0; b < n; b++) {
        lanes right[2 * MAX_SLOTS / LANES];
        double *entries = (double *)right;
        for (int64_t i = 0; i < padded; i++) {
            entries[i] = w->poles.sign[i] * w->X[b][i];
            entries[padded + i] = -w->X[b][padded + i];
        }
        for (int64_t start = b; start < n; start += 8) {
            const int64_t size = n - start < 8 ? n - start : 8;
            const lanes *left[8];
            lanes dots[8] = {{0}};
            for (int a = 0; a < 8; a++) left[a] = (const lanes *)w->X[start + (a < size ? a : 0)];
            for (int64_t i = w->first[start] / LANES; i < blocks; i++)
                for (int a = 0; a < 8; a++)
                    dots[a] += left[a][i] * right[i] + left[a][blocks + i] * right[blocks + i];
            const lanes dot = sums(dots);
            for (int64_t a = 0; a < size; a++) {
                w->M[b * ld + start + a] = w->size[start + a] * dot[a];
                w->M[(start + a) * ld + b] = w->size[b] * dot[a];
            }
        }
    }
}

/* Singular values of M, whose columns are to be multiplied by their sizes. */
static void singular_values(Work *w, double *scale, int64_t n, int64_t ld) {
    const int64_t columns = columns_for(n, ld);
    int64_t order[MAX_ORDER];
    pivoted_qr(w->M, w->size, n, ld, order);
    memset(w->T, 0, sizeof(double) * columns * ld);
    for (int64_t i = 0; i < n; i++) {
        double *row = w->T + i * ld, largest = 0;
        const double size = w->size[order[i]];
        for (int64_t j = i; j < n; j++) {
            row[j] = w->M[order[j] * ld + i] * (w->size[order[j]] / size);
            largest = fabs(row[j]) > largest ? fabs(row[j]) : largest;
        }
        scale[i] = largest > 0 ? largest * size : DBL_MIN;
        if (largest > 0)
            for (int64_t j = i; j < n; j++) row[j] /= largest;
    }
    for (int64_t i = n; i < columns; i++) scale[i] = DBL_MIN;
    jacobi(w->T, scale, n, ld);
}

/* a, root: (S, N, 2); negative, real: (S, N); sigma: (S, 2N), descending. */
void values(const double *a, const double *root, const uint8_t *negative, const uint8_t *real, double *sigma,
            int64_t systems, int64_t n, int64_t threads) {
    const int64_t padded = (n + LANES - 1) / LANES * LANES;
#pragma omp parallel num_threads(threads)
    {
        Work *w = aligned_alloc(64, (sizeof(Work) + 63) / 64 * 64);
#pragma omp for schedule(dynamic, 4)
        for (int64_t s = 0; s < systems; s++) {
            double *out = sigma + s * 2 * n, scale[MAX_ORDER];
            const double largest =
                read_poles(&w->poles, a + s * 2 * n, root + s * 2 * n, negative + s * n, real + s * n, n, padded);
            const int64_t order = factorise(w, n, padded), ld = (order + LANES - 1) / LANES * LANES;
            memset(out, 0, sizeof(double) * 2 * n);
            if (!order) continue;
            product(w, order, ld, padded);
            singular_values(w, scale, order, ld);
            for (int64_t k = 0; k < order; k++) {
                const double value = scale[k] * largest * largest;
                int64_t at = k;
                for (; at > 0 && out[at - 1] < value; at--) out[at] = out[at - 1];
                out[at] = value;
            }
        }
        free(w);
    }
}
