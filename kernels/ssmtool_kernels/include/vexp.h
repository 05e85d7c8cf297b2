/* exp, 2^x, softplus and the logistic function, written so that compilers vectorise loops over them without
 * -ffast-math: no branches, no tables, no calls. For float and double.
 *
 * exp and 2^x: x = n ln 2 + r (Cody and Waite 1980, in two parts) with n found by adding and subtracting a large number,
 * a minimax polynomial for e^r whose constant term is exact, and 2^n put together from its bits. Within 2 units in the
 * last place. +inf above the largest number, NaN for NaN; what would be below about twice the smallest normal number is
 * 0: the state of a scan that has decayed there must not make every later step slow, as subnormal numbers do. */

#ifndef SSMTOOL_VEXP_H
#define SSMTOOL_VEXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* a b + c, rounded once where the processor can: written out so that every loop over it gives the same bits. */
static inline float fma_float(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline double fma_double(double a, double b, double c) {
#if defined(__FP_FAST_FMA) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* 2^(n - 1) from k = n + SHIFT: the low bits of k hold n + 126, or n + 1022, the biased exponent. The polynomials below
 * give 2 e^r in turn, so that both ends of the range come out: 0 at n = -126 and 2^127 at n = 128. */
#define SHIFT_FLOAT (0x1.8p23f + 126.0f)
#define SHIFT_DOUBLE (0x1.8p52 + 1022.0)

static inline float power_float(float k) {
    uint32_t bits;
    memcpy(&bits, &k, sizeof bits);
    bits <<= 23;
    memcpy(&k, &bits, sizeof bits);
    return k;
}

static inline double power_double(double k) {
    uint64_t bits;
    memcpy(&bits, &k, sizeof bits);
    bits <<= 52;
    memcpy(&k, &bits, sizeof bits);
    return k;
}

/* 2^x */
static inline float vexp2_float(float x) {
    x = x < -126.0f ? -126.0f : x;
    x = x > 128.0f ? 128.0f : x;
    const float k = x + SHIFT_FLOAT, f = x - (k - SHIFT_FLOAT);
    float p = 0x1.41fbbcp-12f;
    p = fma_float(p, f, 0x1.5f3e54p-9f);
    p = fma_float(p, f, 0x1.3b2d4cp-6f);
    p = fma_float(p, f, 0x1.c6aee8p-4f);
    p = fma_float(p, f, 0x1.ebfbdcp-2f);
    p = fma_float(p, f, 0x1.62e430p0f);
    p = fma_float(p, f, 2.0f);
    return p * power_float(k);
}

static inline double vexp2_double(double x) {
    x = x < -1022.0 ? -1022.0 : x;
    x = x > 1024.0 ? 1024.0 : x;
    const double k = x + SHIFT_DOUBLE, f = x - (k - SHIFT_DOUBLE);
    double p = 0x1.e79bbe95e0dbbp-31;
    p = fma_double(p, f, 0x1.e61b4f6def43cp-27);
    p = fma_double(p, f, 0x1.b5267cda992dcp-23);
    p = fma_double(p, f, 0x1.62bfc79d65bf4p-19);
    p = fma_double(p, f, 0x1.ffcbfba9839e6p-16);
    p = fma_double(p, f, 0x1.4309130ed8c2ap-12);
    p = fma_double(p, f, 0x1.5d87fe78cd6c6p-9);
    p = fma_double(p, f, 0x1.3b2ab6fba011ap-6);
    p = fma_double(p, f, 0x1.c6b08d7049fe8p-4);
    p = fma_double(p, f, 0x1.ebfbdff82c5a4p-2);
    p = fma_double(p, f, 0x1.62e42fefa39efp0);
    p = fma_double(p, f, 2.0);
    return p * power_double(k);
}

/* e^x */
static inline float vexp_float(float x) {
    x = x < -87.33655f ? -87.33655f : x; /* n = -126 */
    x = x > 88.73f ? 88.73f : x;         /* n = 128, and too large */
    const float k = fma_float(x, 0x1.715476p0f, SHIFT_FLOAT), n = k - SHIFT_FLOAT;
    const float r = fma_float(n, -0x1.7f7d1cp-20f, fma_float(n, -0x1.62e400p-1f, x));
    float p = 0x1.6a2438p-9f;
    p = fma_float(p, r, 0x1.1239e2p-6f);
    p = fma_float(p, r, 0x1.5558f2p-4f);
    p = fma_float(p, r, 0x1.555492p-2f);
    p = fma_float(p, r, 0x1.fffffcp-1f);
    p = fma_float(p, r, 2.0f);
    p = fma_float(p, r, 2.0f);
    return p * power_float(k);
}

static inline double vexp_double(double x) {
    x = x < -708.3965 ? -708.3965 : x;
    x = x > 709.7828 ? 709.7828 : x;
    const double k = fma_double(x, 0x1.71547652b82fep0, SHIFT_DOUBLE), n = k - SHIFT_DOUBLE;
    const double r = fma_double(n, -0x1.a39ef35793c76p-33, fma_double(n, -0x1.62e42fee00000p-1, x));
    double p = 0x1.ad7f716d4127cp-25;
    p = fma_double(p, r, 0x1.28ad7295b221ap-21);
    p = fma_double(p, r, 0x1.71df2550b8ad5p-18);
    p = fma_double(p, r, 0x1.a0199a0ca46c1p-15);
    p = fma_double(p, r, 0x1.a01a012a58643p-12);
    p = fma_double(p, r, 0x1.6c16c18429faep-9);
    p = fma_double(p, r, 0x1.1111111127be3p-6);
    p = fma_double(p, r, 0x1.555555555087dp-4);
    p = fma_double(p, r, 0x1.55555555554fap-2);
    p = fma_double(p, r, 0x1.000000000000ap0);
    p = fma_double(p, r, 2.0);
    p = fma_double(p, r, 2.0);
    return p * power_double(k);
}

/* log(1 + u) for 0 <= u <= 1: 2 atanh(s), s = u / (2 + u), and a minimax polynomial of s^2. */
static inline float vlog1p_unit_float(float u) {
    const float s = u / (2.0f + u), w = s * s;
    float p = 0x1.1efa3ap-3f;
    p = fma_float(p, w, 0x1.1eb5bcp-3f);
    p = fma_float(p, w, 0x1.99d280p-3f);
    p = fma_float(p, w, 0x1.555500p-2f);
    return 2.0f * fma_float(s * w, p, s);
}

static inline double vlog1p_unit_double(double u) {
    const double s = u / (2.0 + u), w = s * s;
    double p = 0x1.5c8fda01d4e9fp-4;
    p = fma_double(p, w, 0x1.5596827c874bcp-5);
    p = fma_double(p, w, 0x1.efdece56b0acdp-5);
    p = fma_double(p, w, 0x1.106754409425fp-4);
    p = fma_double(p, w, 0x1.3b1de4a4e410bp-4);
    p = fma_double(p, w, 0x1.745cb389f5549p-4);
    p = fma_double(p, w, 0x1.c71c74200678ap-4);
    p = fma_double(p, w, 0x1.2492492084862p-3);
    p = fma_double(p, w, 0x1.99999999a085dp-3);
    p = fma_double(p, w, 0x1.5555555555535p-2);
    return 2.0 * fma_double(s * w, p, s);
}

/* log(1 + e^x), without a threshold. */
static inline float vsoftplus_float(float x) {
    return (x > 0.0f ? x : 0.0f) + vlog1p_unit_float(vexp_float(x > 0.0f ? -x : x));
}

static inline double vsoftplus_double(double x) {
    return (x > 0.0 ? x : 0.0) + vlog1p_unit_double(vexp_double(x > 0.0 ? -x : x));
}

/* 1 / (1 + e^-x) */
static inline float vlogistic_float(float x) { return 1.0f / (1.0f + vexp_float(-x)); }
static inline double vlogistic_double(double x) { return 1.0 / (1.0 + vexp_double(-x)); }

/* By the type of the argument: what files compiled for REAL use. */
#define VFMA(a, b, c) _Generic((c), float: fma_float, double: fma_double)(a, b, c)
#define VEXP2(x) _Generic((x), float: vexp2_float, double: vexp2_double)(x)
#define VEXP(x) _Generic((x), float: vexp_float, double: vexp_double)(x)
#define VSOFTPLUS(x) _Generic((x), float: vsoftplus_float, double: vsoftplus_double)(x)
#define VLOGISTIC(x) _Generic((x), float: vlogistic_float, double: vlogistic_double)(x)

#endif
